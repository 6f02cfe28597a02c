"""Which tensors of a checkpoint have a row for each token: embeddings, heads, and biases over the vocabulary.

Nothing here lists architectures: names are known by their last parts, sizes by what the config says of vocabularies.
"""

from collections.abc import Iterator, Mapping

from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.planning.tied import EMBEDDINGS, HEADS, embedding_of, ends_with

# Names that nothing but a vocabulary's tensor bears; "output.weight" and the like may be any layer's.
_SURE = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "shared.weight",
    "tok_embeddings.weight", "lm_head.weight", "embed_out.weight",
)  # fmt: skip
_BIASES = tuple(head.removesuffix("weight") + "bias" for head in HEADS)


def vocabulary_tensors(checkpoint: Checkpoint) -> dict[str, TensorSpec]:
    """The tensors whose row is a token, by name, in the order they are stored; {} where none is known."""
    sure = [spec for spec in checkpoint.tensors.values() if spec.shape and ends_with(spec.name, _SURE)]
    stated = set(stated_sizes(checkpoint.config).values())
    # A speech or image decoder inside the model has a vocabulary of its own, which the config states elsewhere.
    sizes = {spec.shape[0] for spec in sure if spec.shape[0] in stated} or {spec.shape[0] for spec in sure} or stated
    others = _other_sizes(checkpoint.config)
    return {
        name: spec
        for name, spec in checkpoint.tensors.items()
        if spec.shape
        and spec.n_elements
        and spec.shape[0] in sizes
        and (ends_with(name, (*EMBEDDINGS, *HEADS, *_BIASES)) or spec.shape[0] not in others)
    }


def across(checkpoint: Checkpoint, n_rows: int) -> list[str]:
    """Tensors that have a column for each token instead: final_logits_bias of shape (1, vocabulary)."""
    return [
        name
        for name, spec in checkpoint.tensors.items()
        if len(spec.shape) > 1 and spec.shape[-1] == n_rows > 1 and set(spec.shape[:-1]) == {1}
    ]


def embedding(tensors: Mapping[str, TensorSpec]) -> TensorSpec | None:
    """The input embedding among the tensors over the vocabulary, else the first of them."""
    named = (spec for name, spec in tensors.items() if ends_with(name, EMBEDDINGS))
    return next(named, next(iter(tensors.values()), None))


def counterpart(name: str, tensors: Mapping[str, TensorSpec]) -> TensorSpec | None:
    """The tensor of another model that plays the part of `name`: of that name, of its last parts, or tied to it."""
    if name in tensors:
        return tensors[name]
    tail = name.split(".")[-2:]
    alike = [spec for other, spec in tensors.items() if other.split(".")[-2:] == tail]
    if len(alike) == 1:
        return alike[0]
    if ends_with(name, HEADS):
        tied = embedding_of(name, tensors)
        return tensors[tied] if tied else None
    if ends_with(name, EMBEDDINGS):
        named = [spec for other, spec in tensors.items() if ends_with(other, EMBEDDINGS)]
        return named[0] if len(named) == 1 else None
    return None


def stated_sizes(config: Mapping) -> dict[tuple[str, ...], int]:
    """What a config says of the text model's vocabulary: every `vocab_size`, by its path."""
    return {path: value for path, value in _integers(config) if "vocab_size" in path[-1]}


def _other_sizes(config: Mapping) -> set[int]:
    return {value for path, value in _integers(config) if "vocab_size" not in path[-1] and not path[-1].endswith("_id")}


def _integers(config: Mapping) -> Iterator[tuple[tuple[str, ...], int]]:
    """Integers at the top of a config and of its text_config."""
    inner = config.get("text_config")
    for above, table in (((), config), (("text_config",), inner if isinstance(inner, Mapping) else {})):
        for key, value in table.items():
            if type(value) is int:
                yield (*above, key), value
