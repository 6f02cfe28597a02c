"""How to draw answers: how many, how warm, how long, where to stop, from which seed."""

from dataclasses import asdict, dataclass
from typing import Any

from expo.errors import BadSetting, ExpoError

_LATER = ("presence_penalty", "frequency_penalty", "min_tokens")  # newer than the first files of answers


class BadSampling(ExpoError):
    """A number that no sampler can work with."""


@dataclass(frozen=True)
class Sampling:
    """What is asked of a model for each question.

    samples: answers to each question, numbered from 0.
    temperature: 0 is greedy. top_p, top_k: the nucleus, and how many tokens it may hold (0: any number).
    max_tokens: the longest answer. min_tokens: no end token is written before so many others; a stop text may be.
    stop: texts at which an answer ends; they are not part of it.
    seed: with the question's id and the sample's number it decides every draw; nothing else does.
    presence_penalty, frequency_penalty: taken from the logit of a token that the answer holds already, once, and for
    each time that it does; see expo.generate.penalties.
    """

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        self._check("samples", self.samples >= 1, "at least 1")
        self._check("temperature", 0 <= self.temperature < 1e3, "0 (greedy) or a positive number")
        self._check("top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        self._check("top_k", self.top_k >= 0, "0 (no limit) or a positive number")
        for name in ("presence_penalty", "frequency_penalty"):
            self._check(name, -2 <= getattr(self, name) <= 2, "between -2 and 2")
        self._check("max_tokens", self.max_tokens >= 1, "at least 1")
        room = f"from 0 to max_tokens ({self.max_tokens:,})"
        self._check("min_tokens", 0 <= self.min_tokens <= self.max_tokens, room)
        self._check("stop", all(isinstance(text, str) and text for text in self.stop), "texts that are not empty")
        if self.greedy and self.samples > 1:
            raise BadSampling(
                f"{self.samples} samples at temperature 0 would be {self.samples} times the same answer.\n"
                "To draw different ones: --temperature 1."
            )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def record(self) -> dict[str, Any]:
        """The settings as JSON values; none that an option of today leaves at 0, so that files from before it go on."""
        found = {**asdict(self), "stop": list(self.stop)}
        return {name: value for name, value in found.items() if value or name not in _LATER}

    @property
    def penalised(self) -> bool:
        return self.presence_penalty != 0 or self.frequency_penalty != 0

    def _check(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            raise BadSampling(f"{name} must be {wanted}, not {getattr(self, name)!r}.")


# expo-paper: what the authors of ExPO (arXiv:2404.16792) generated with, on UltraFeedback and for AlpacaEval, by their
# published code (github.com/chujiezheng/LLM-Extrapolation). The same distribution; their draws were vLLM's.
PRESETS: dict[str, dict[str, Any]] = {
    "expo-paper": {
        "temperature": 0.7,
        "top_k": 50,
        "top_p": 0.9,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
        "max_tokens": 2048,
        "seed": 42,
    }
}

LONG_PROMPTS = ("error", "skip", "cut")


def check_long_prompts(policy: str) -> None:
    """Raises BadSetting for a policy that does not exist."""
    if policy not in LONG_PROMPTS:
        raise BadSetting("long_prompts", policy, LONG_PROMPTS)
