"""README.md of an adapter: metadata that the Hub reads, what it was made of, and how to load it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from expo.version import __version__


def card(what: str, base: str | None, sources: Sequence[str], said: Mapping[str, Any]) -> str:
    """The whole file. what: one sentence; base: the Hub id of the base; said: settings and figures."""
    metadata: dict[str, Any] = {"base_model": base, "base_model_relation": "adapter"} if base else {}
    metadata |= {"library_name": "peft", "tags": ["expo", "lora"]}
    return "\n".join(
        [
            "---",
            yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip(),
            "---",
            "",
            f"# {what}",
            "",
            f"Made with expo {__version__} from {' and '.join(sources)}.",
            "",
            "```json",
            json.dumps(dict(said), indent=2, ensure_ascii=False),
            "```",
            "",
        ]
    )
