"""What the Hub refuses in a card's metadata, as far as its documentation says."""

import re
from typing import Any

import yaml

_RELATIONS = ("adapter", "finetune", "merge", "quantized")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def card_errors(content: str) -> list[str]:
    """Every complaint about the block between the first two lines of dashes."""
    found = re.match(r"---\s*?\n(.*?)\n---", content, re.DOTALL)
    if not found:
        return []
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"the metadata is no YAML: {error}"]
    if data is None:
        return []
    if not isinstance(data, dict):
        return ["the metadata is no table"]
    return [text for text in map(lambda rule: rule(data), _RULES) if text]


def _base_model(data: dict[str, Any]) -> str | None:
    base = data.get("base_model", [])
    names = base if isinstance(base, list) else [base]
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        return '"base_model" must be repository ids'
    return None


def _relation(data: dict[str, Any]) -> str | None:
    relation = data.get("base_model_relation")
    return None if relation is None or relation in _RELATIONS else f'"base_model_relation" must be one of {_RELATIONS}'


def _license(data: dict[str, Any]) -> str | None:
    licence = data.get("license")
    names = licence if isinstance(licence, list) else [licence]
    if licence is not None and not all(isinstance(name, str) and re.fullmatch(r"[a-z0-9.+-]+", name) for name in names):
        return '"license" must be one of the known identifiers'
    if licence == "other" and not isinstance(data.get("license_name"), str):
        return '"license_name" is required where the license is other'
    return None


def _tags(data: dict[str, Any]) -> str | None:
    tags = data.get("tags", [])
    return None if isinstance(tags, list) and all(isinstance(tag, str) for tag in tags) else '"tags" must be strings'


def _library(data: dict[str, Any]) -> str | None:
    return None if isinstance(data.get("library_name", ""), str) else '"library_name" must be a string'


_RULES = (_base_model, _relation, _license, _tags, _library)
