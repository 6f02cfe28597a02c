"""What a recipe asks of the output's tokenizer. A plain record."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TokenizerSpec:
    """Placeholder until the tokenizer's room lands."""

    source: str = "base"

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "TokenizerSpec":
        return cls(**record)
