"""README.md of the output: metadata that the Hub reads, then formula, inputs, figures and citation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from expo.version import __version__

CITATIONS = {
    "arXiv:2404.16792": (
        "Chujie Zheng, Ziqi Wang, Heng Ji, Minlie Huang, Nanyun Peng. "
        "Model Extrapolation Expedites Alignment. ACL 2025. https://arxiv.org/abs/2404.16792"
    ),
}


# The identifiers that the Hub takes; a card with another is refused.
LICENSES = {
    name
    for line in (
        "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0",
        "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc",
        "cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0",
        "cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0",
        "cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1",
        "eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c",
        "ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa",
        "unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1",
        "llama3.2 llama3.3 llama4 grok2-community gemma unknown other",
    )
    for name in line.split()
}


@dataclass(frozen=True)
class CardInput:
    """One input as the card names it."""

    role: str
    label: str
    repo_id: str | None
    stage: str | None = None  # the earlier stage that made it
    license: Mapping[str, Any] = field(default_factory=dict)  # license, license_name, license_link of its own card

    @property
    def revision(self) -> str | None:
        """The commit of a repository."""
        return self.label.removeprefix(f"{self.repo_id}@") if self.repo_id and "@" in self.label else None


def card(
    method: str,
    formula: str,
    paper: str,
    recipe: Mapping[str, Any],
    inputs: Sequence[CardInput],
    effective: Mapping[str, Any],
    stages: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
) -> str:
    """The whole README.md. stages: {"recipe", "inputs"} of the earlier stages, by name. search: {"summary", ...}."""
    return "\n".join(
        [
            "---",
            yaml.safe_dump(_metadata(method, inputs, stages or {}), sort_keys=False, allow_unicode=True).strip(),
            "---",
            "",
            f"# {method}: {formula}",
            "",
            f"Made with expo {__version__}.",
            "",
            "| role | model | revision |",
            "|---|---|---|",
            *(_row(source.role, source) for source in inputs),
            "",
            *_licenses(inputs),
            *_figures(recipe, effective),
            "",
            *([search["summary"], ""] if search else []),
            "The recipe, and the hash of every tensor, are in `expo.json`; `expo verify` checks them.",
            "",
            "```json",
            json.dumps({"method": method, **recipe}, indent=2, ensure_ascii=False),
            "```",
            "",
            *_told(stages or {}),
            *(["## Citation", "", CITATIONS.get(paper, paper), ""] if paper else []),
        ]
    )


def _row(role: str, source: CardInput) -> str:
    """One input in a table of three columns."""
    name = f"made by the stage {source.stage}" if source.stage else source.repo_id or source.label
    cells = (role, name, source.revision or "local")
    return "| " + " | ".join(_line(cell).replace("|", "\\|") for cell in cells) + " |"


def _line(text: str) -> str:
    """A name in a line of its own."""
    return " ".join(text.split())


def _licenses(inputs: Sequence[CardInput]) -> list[str]:
    """What the inputs' cards state, where it does not become the result's own license."""
    if agreed_license(inputs) or not any(source.license for source in inputs):
        return []
    said = [f"{source.repo_id or source.label}: {_stated(source.license)}" for source in inputs]
    return [
        f"Licenses of the inputs: {'; '.join(map(_line, said))}. What applies to this model has to be looked up.",
        "",
    ]


def _stated(license: Mapping[str, Any]) -> str:
    """What one card states of its license, in words."""
    names = ", ".join(_names(license)) or "none stated"
    more = [license[key] for key in ("license_name", "license_link") if key in license]
    return f"{names} ({', '.join(more)})" if more else names


def _names(license: Mapping[str, Any]) -> list[str]:
    found = license.get("license", [])
    return found if isinstance(found, list) else [found]


def agreed_license(inputs: Sequence[CardInput]) -> dict[str, Any]:
    """The license that all inputs state in the same words, if the Hub knows it; {} where there is none such."""
    stated = [dict(source.license) for source in inputs]
    if not stated or any(one != stated[0] for one in stated):
        return {}
    names = _names(stated[0])
    if not names or not LICENSES.issuperset(names):
        return {}
    return {} if "other" in names and "license_name" not in stated[0] else stated[0]


def _told(stages: Mapping[str, Any]) -> list[str]:
    """How each earlier stage was made, in the order in which they ran."""
    lines = []
    for name, record in stages.items():
        lines += [f"## Stage {name}", "", "| role | model | revision |", "|---|---|---|"]
        for role, source in record["inputs"].items():
            for part in (source, *source.get("adapters", ())):
                own = part["label"].split("+")[0] if part["repo_id"] else part["label"]
                lines.append(_row(role, CardInput(role, own, part["repo_id"], part.get("stage"))))
        lines += ["", "```json", json.dumps(record["recipe"], indent=2, ensure_ascii=False), "```", ""]
    return lines


def _hub_ids(inputs: Sequence[CardInput], stages: Mapping[str, Any]) -> list[str]:
    """Every Hub repository that went in, at whichever stage."""
    earlier = [source for record in stages.values() for source in record["inputs"].values()]
    parts = [part for source in earlier for part in (source, *source.get("adapters", ()))]
    found = [*(source.repo_id for source in inputs), *(part["repo_id"] for part in parts)]
    return list(dict.fromkeys(repo_id for repo_id in found if repo_id))


def _metadata(method: str, inputs: Sequence[CardInput], stages: Mapping[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    # The Hub takes repository ids here, and nothing else.
    if ids := _hub_ids(inputs, stages):
        metadata["base_model"] = ids
        metadata["base_model_relation"] = "merge"
    metadata |= agreed_license(inputs)
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
