"""Tied weights: which checkpoint stores its output head, and which only the embedding that the head is tied to.

Nothing here lists architectures: heads and embeddings are known by the last parts of their names.
"""

from collections.abc import Collection, Iterable, Mapping

from expo.checkpoint.spec import Checkpoint, TensorSpec, split_name

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "shared.weight",
              "tok_embeddings.weight", "embeddings.weight", "embedding.weight")  # fmt: skip
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight", "output_layer.weight", "decoder.weight",
         "embed_tokens.weight")  # fmt: skip


def ends_with(name: str, endings: Iterable[str]) -> bool:
    """True when whole dotted components at the end of `name` spell one of the endings."""
    return any(name.endswith(ending) and name[: -len(ending)][-1:] in ("", ".") for ending in endings)


def is_head(name: str) -> bool:
    """True for the name of an output head that is no embedding."""
    return ends_with(name, HEADS) and not ends_with(name, EMBEDDINGS)


def says_tied(checkpoint: Checkpoint, spec: TensorSpec | None = None) -> bool | None:
    """What the config, or that which describes a tensor, says of tie_word_embeddings; None where it says nothing."""
    config = checkpoint.config_of(spec) if spec else checkpoint.config
    inner = config.get("text_config")
    said = config.get("tie_word_embeddings", inner.get("tie_word_embeddings") if isinstance(inner, dict) else None)
    return said if isinstance(said, bool) else None


def embedding_of(head: str, tensors: Mapping[str, TensorSpec], folders: Collection[str] = ()) -> str | None:
    """The input embedding that a head may be tied to: of the same width, stored beside it.

    folders: of a model that is made of several; a head's embedding lies in its own.
    """
    place, own = split_name(head, folders)
    if not ends_with(own, HEADS):
        return None
    split = ((name, *split_name(name, folders)) for name in tensors if name != head)
    found = [name for name, beside, other in split if beside == place and ends_with(other, EMBEDDINGS)]
    # An encoder-decoder has several: the shared one first, else the one nearest the head's own prefix.
    found.sort(key=lambda name: (not ends_with(name, ("shared.weight",)), name.count(".")))
    return found[0] if found else None


def tied_heads(tensors: Mapping[str, TensorSpec], folders: Collection[str] = ()) -> dict[str, str]:
    """Each stored head and the stored embedding of the same shape that it could be tied to; folders: as above."""
    heads = {}
    for name, spec in tensors.items():
        if is_head(split_name(name, folders)[1]):
            embedding = embedding_of(name, tensors, folders)
            if embedding and tensors[embedding].shape == spec.shape:
                heads[name] = embedding
    return heads
