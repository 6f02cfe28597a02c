"""Choose alpha, or anything in a recipe, by evidence, without writing a checkpoint for each try.

    from expo.search import search
    found = search(sft="A", dpo="B", metric="accuracy", data="val.jsonl", test="test.jsonl", output="OUT")
    found.alpha, found.figures, found.test, found.notes

One model is in memory; each try is streamed from the inputs into its parameters, rounded as a run would write it.
"""

from typing import TYPE_CHECKING, Any

from expo.search.errors import SearchError

if TYPE_CHECKING:
    from expo.search.prepare import prepare, search
    from expo.search.result import Result
    from expo.search.run import Search

__all__ = ["Result", "Search", "SearchError", "prepare", "search"]


def __getattr__(name: str) -> Any:
    import importlib

    homes = {"Result": "result", "Search": "run", "prepare": "prepare", "search": "prepare"}
    if name in homes:
        return getattr(importlib.import_module(f"expo.search.{homes[name]}"), name)
    raise AttributeError(f"module 'expo.search' has no attribute {name!r}")
