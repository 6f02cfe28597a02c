"""transformers for the names and shapes of its models alone, in a fork that loads little else.

transformers loads what it needs to run and train models: a compiler, sympy, scipy, accelerate. That is 150 MiB and
three seconds for what is only to build a model without weights. What is changed here ends with the fork.
"""

import operator
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from expo.forks import NoAnswer, answer

_FULL = "transformers.modeling_utils"
# Packages that transformers does without where they are not installed.
_ABSENT = ("PIL", "accelerate", "kernels", "peft", "psutil", "scipy", "sklearn", "torchvision")
# Modules that it does not do without. Their decorators and guards give back what they are given, which is right where
# nothing is compiled and every shape is a number; what else is asked of such numbers is below.
_EMPTY = ("sympy", "torch._dynamo", "torch.fx.experimental.symbolic_shapes", "torch.nn.attention.flex_attention")
_OF_NUMBERS = {
    "sym_eq": operator.eq,
    "sym_and": lambda *given: all(given),
    "sym_or": lambda *given: any(given),
    "is_symbolic": lambda number: False,
    "is_nested_int": lambda number: False,
    "has_guarding_hint": lambda number: True,
}


def apart(function: Callable[[], Any], known: Iterable[Any], *, is_whole: Callable[[Any], bool]) -> Any:
    """What `function()` returns, where possible from a fork that loads a lean transformers and takes it along.

    known: objects that the answer may hold, which come back as themselves; others come back as copies.
    is_whole: of an answer, whether nothing is missing in it that the lean transformers may lack.
    """
    if _FULL not in sys.modules:
        try:
            return answer(lambda: _leanly(function, is_whole), known)
        except NoAnswer:
            pass  # threads, another system, or a model that needs more than this
    return function()


def _leanly(function: Callable[[], Any], is_whole: Callable[[Any], bool]) -> Any:
    import torch.distributed

    sys.modules.update(dict.fromkeys(_ABSENT))
    torch.distributed.is_available = lambda: False
    sys.meta_path.insert(0, _EmptyModules())
    found = function()
    if not is_whole(found):
        raise NoAnswer
    return found


class _Empty:
    """Any name of an empty module: a class to ask for, a decorator or a function that gives back its first argument."""

    def __new__(cls, *given: Any, **_: Any) -> Any:
        return given[0] if given and given[0] is not None else lambda decorated: decorated


class _EmptyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _OF_NUMBERS.get(name, _Empty)


class _EmptyModules:
    """Finds the modules above and those within them, unless they are loaded already."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        inside = any(name == empty or name.startswith(f"{empty}.") for empty in _EMPTY)
        return ModuleSpec(name, self, is_package=True) if inside else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass
