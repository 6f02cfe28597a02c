"""README.md of the output: metadata that the Hub reads, then formula, inputs, figures and citation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from expo.version import __version__

CITATIONS = {
    "arXiv:2404.16792": (
        "Chujie Zheng, Ziqi Wang, Heng Ji, Minlie Huang, Nanyun Peng. "
        "Model Extrapolation Expedites Alignment. ACL 2025. https://arxiv.org/abs/2404.16792"
    ),
}


@dataclass(frozen=True)
class CardInput:
    """One input as the card names it."""

    role: str
    label: str
    repo_id: str | None


def card(
    method: str,
    formula: str,
    paper: str,
    recipe: Mapping[str, Any],
    inputs: Sequence[CardInput],
    effective: Mapping[str, Any],
) -> str:
    """The whole README.md."""
    return "\n".join(
        [
            "---",
            yaml.safe_dump(_metadata(method, inputs), sort_keys=False, allow_unicode=True).strip(),
            "---",
            "",
            f"# {method}: {formula}",
            "",
            f"Made with expo {__version__}.",
            "",
            "| role | model |",
            "|---|---|",
            *(f"| {source.role} | {source.label} |" for source in inputs),
            "",
            *_figures(recipe, effective),
            "",
            "The recipe, and the hash of every tensor, are in `expo.json`; `expo verify` checks them.",
            "",
            "```json",
            json.dumps({"method": method, **recipe}, indent=2, ensure_ascii=False),
            "```",
            "",
            *(["## Citation", "", CITATIONS.get(paper, paper), ""] if paper else []),
        ]
    )


def _metadata(method: str, inputs: Sequence[CardInput]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    # The Hub takes repository ids here, and nothing else.
    if ids := list(dict.fromkeys(source.repo_id for source in inputs if source.repo_id)):
        metadata["base_model"] = ids
        metadata["base_model_relation"] = "merge"
    metadata["library_name"] = "transformers"
    metadata["tags"] = ["expo", "merge", method]
    return metadata


def _figures(recipe: Mapping[str, Any], effective: Mapping[str, Any]) -> list[str]:
    if effective.get("multiple") is None:
        return ["No tensor was to change."]
    asked = recipe.get("parameters", {}).get("alpha") if effective.get("alpha") is not None else None
    rows = ["| asked alpha | effective alpha | cosine with the exact change |", "|---|---|---|"]
    if asked is None:
        rows = ["| share of the change that is written | cosine |", "|---|---|"]
        return [*rows, f"| {effective['multiple']} | {effective['cosine']} |"]
    return [*rows, f"| {asked} | {effective['alpha']} | {effective['cosine']} |"]
