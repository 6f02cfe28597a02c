"""Class probabilities of texts, by a classifier that `expo train classify` made; or by several, alpha by alpha."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expo.generate.sizes import threads_for, window_of
from expo.weak_to_strong.errors import BoostingError

_TOKENS = 16_384  # at a time


def probabilities(
    model: str | Path, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], settings: Any, device: str = "auto"
) -> NDArray[np.float64]:
    """softmax of the logits, in float64.  # (rows, classes)

    rows: {text}, cut or refused as `settings` (ClassifySettings) say; left out rows are an error here, as every row
    needs its class. Raises UnfitModel or BoostingError where the checkpoint is no classifier of these labels.
    """
    import torch

    from expo.evaluate.teacher_forced import by_length

    loaded, tokenizer = _load(model, labels, settings, device)
    ids = _encoded(loaded, tokenizer, rows, settings, str(model))
    out = np.empty((len(rows), len(labels)))
    with torch.inference_mode(), threads_for([loaded]):
        for batch in by_length([len(one) for one in ids], _TOKENS):
            out[batch] = _read(loaded, [ids[i] for i in batch])
    if not np.isfinite(out).all():
        raise BoostingError(f"{model}: its probabilities are not finite. Look at it: expo inspect {model}.")
    return out


def _load(model: str | Path, labels: Sequence[str], settings: Any, device: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification

    from expo.checkpoint.source import resolve
    from expo.train.errors import UnfitModel
    from expo.train.load import load_tokenizer, quietly

    source = resolve(model)
    where = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    how = {"dtype": torch.float32, "trust_remote_code": settings.trust_remote_code, "output_loading_info": True}
    with quietly():
        tokenizer = load_tokenizer(source, settings)
        try:
            loaded, found = AutoModelForSequenceClassification.from_pretrained(source.folder, **how)
        except (OSError, ValueError, RuntimeError) as error:
            raise UnfitModel(f"{source.text}: cannot be loaded as a classifier: {error}") from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])[0]
        raise UnfitModel(f"{source.text}: {missing} is missing. Is it a checkpoint of `expo train classify`?")
    names = [str(loaded.config.id2label[i]) for i in range(loaded.config.num_labels)]
    if names != list(labels):
        raise BoostingError(f"{source.text}: its classes are {', '.join(names)}, not {', '.join(labels)}.")
    return loaded.eval().to(where), tokenizer


def _encoded(loaded: Any, tokenizer: Any, rows: Sequence[Mapping], settings: Any, name: str) -> list[Any]:
    from expo.train.encode import Limits, encode_labelled
    from expo.train.rows import Labelled

    context = window_of(loaded.config)
    most = min(found for found in (settings.max_length, context, 1 << 30) if found)
    told = [Labelled(str(row.get("id", i)), row["text"], 0) for i, row in enumerate(rows)]
    policy = "truncate" if settings.too_long == "truncate" else "error"
    return [one.ids for one in encode_labelled(tokenizer, told, Limits(most, policy, context), chat=settings.chat).rows]


def _read(loaded: Any, ids: Sequence[Any]) -> NDArray[np.float64]:
    import torch

    from expo.train.exact import lengths_mask, pad

    filler = loaded.config.get_text_config().pad_token_id
    tokens = pad(ids, 0 if filler is None else filler, torch.int64).to(loaded.device)
    logits = loaded(input_ids=tokens, attention_mask=lengths_mask(ids).to(loaded.device)).logits
    return logits.double().softmax(-1).cpu().numpy()
