"""A reward model: chats in, one number for each. Knows no questions and no sampling."""

from collections.abc import Sequence
from typing import Any

from expo.errors import ExpoError
from expo.evaluate.metrics.halving import default_tokens, in_batches
from expo.evaluate.metrics.metric import MetricError
from expo.generate.prompts import NoChatTemplate
from expo.generate.sizes import window_of

Chat = tuple[Any, list[dict[str, Any]]]  # an example's id, and its messages


class RewardError(MetricError):
    """A checkpoint is no reward model, or cannot read a chat."""


def open_rewarder(text: str, *, dtype: str | None = None, trust_remote_code: bool = False) -> "Rewarder":
    """The reward model in a folder or behind a Hub id, checked; its weights are loaded with the first chats.

    Raises SourceError; RewardError where it has more than one output; NoChatTemplate.
    """
    import transformers

    from expo.checkpoint.source import resolve
    from expo.generate.local import fingerprint_of, tried

    source = resolve(text)
    if source.adapters:
        raise RewardError(f"{text}: a reward model is a whole checkpoint. Merge its adapter first: expo merge.")
    code = {"trust_remote_code": trust_remote_code}
    config = tried(source.label, transformers.AutoConfig.from_pretrained, source.folder, **code)
    n = config.num_labels
    if n != 1:
        architecture = ", ".join(config.architectures or []) or "no architecture"
        raise RewardError(
            f"{source.label} has {n} outputs ({architecture}); a reward model has one.\n"
            "Name a sequence-classification model whose config has one label: one that maps an answer to a number. "
            "For a classifier of several classes write a callable: --metric my_module:function."
        )
    tokenizer = tried(source.label, transformers.AutoTokenizer.from_pretrained, source.folder, **code)
    if not tokenizer.chat_template:
        raise NoChatTemplate(
            f"{source.label} has no chat template, so that it is not known how it reads a question and its answer.\n"
            "Add the one it was trained with to its folder (chat_template.jinja)."
        )
    return Rewarder(source, tokenizer, config, dtype, code, f"{fingerprint_of(source.folder)} {dtype}")


class Rewarder:
    """A sequence-classification model with one output, and the tokenizer that renders chats for it."""

    def __init__(self, source: Any, tokenizer: Any, config: Any, dtype: str | None, code: dict, fingerprint: str):
        self.source, self.tokenizer, self.config = source, tokenizer, config
        self.dtype, self.code, self.fingerprint = dtype, code, fingerprint
        self.model: Any = None

    def rewards(self, chats: Sequence[Chat], device: Any, batch_tokens: int | None = None) -> list[float]:
        """The model's output for each chat, unscaled. Raises RewardError, OutOfMemory."""
        import torch

        model = self.load(device)
        rows = [self.encode(key, messages) for key, messages in chats]
        filler = model.config.get_text_config().pad_token_id

        def run(batch: list[list[int]]) -> list[float]:
            from expo.train.exact import lengths_mask, pad

            inputs = {"input_ids": pad(batch, filler or 0, torch.int64), "attention_mask": lengths_mask(batch)}
            logits = model(**{name: value.to(device) for name, value in inputs.items()}).logits  # (batch, 1)
            return logits[:, 0].double().tolist()

        # transformers finds the last token by the padding id; a model without one reads its rows one by one.
        most = 1 if filler is None else None
        return in_batches(rows, len, run, tokens=batch_tokens or default_tokens(model), most_rows=most)

    def encode(self, key: Any, messages: list[dict[str, Any]]) -> list[int]:
        """A chat's tokens as the template renders it; with one beginning where the tokenizer adds one by itself."""
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # a template is a program of the model's author, and raises what it likes
            said = str(error).rstrip(".")
            raise RewardError(f"{key}: the chat template of {self.source.label} refuses this chat: {said}.") from error
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        begin = self.tokenizer.bos_token_id
        if begin is not None and ids[:1] != [begin] and self.tokenizer("a")["input_ids"][:1] == [begin]:
            ids = [begin, *ids]
        window = window_of(self.config)
        if window and len(ids) > window:
            raise RewardError(
                f"{key}: question and answer have {len(ids):,} tokens, and {self.source.label} reads {window:,}.\n"
                "Ask for shorter answers: --max-tokens."
            )
        return ids

    def load(self, device: Any) -> Any:
        """The model, on that device from now on. Raises ModelError; RewardError where its head is missing."""
        import torch
        import transformers

        from expo.generate.local import tried

        if self.model is None:
            dtype = self.dtype or ("float32" if torch.device(device).type == "cpu" else "auto")
            if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
                raise ExpoError(f"{dtype!r} is no type of torch; use float32, bfloat16 or float16.")
            load = transformers.AutoModelForSequenceClassification.from_pretrained
            model, found = tried(
                self.source.label, load, self.source.folder, dtype=dtype, output_loading_info=True, **self.code
            )
            if found["missing_keys"]:
                missing = sorted(found["missing_keys"])
                raise RewardError(
                    f"{self.source.label}: {len(missing)} tensors are missing, such as {missing[0]}, and would be "
                    "random. Is it a reward model?"
                )
            self.model = model.eval()
        return self.model.to(device)
