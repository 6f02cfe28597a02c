"""Methods from elsewhere: a module that the user names, and installed packages with an entry point `expo.methods`.

An entry point names a module (or an object in one); importing it registers its methods by @method. They are looked
up only when a method is not among the shipped ones, so that they cost nothing otherwise.
"""

import importlib
import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

from expo.errors import PluginError

GROUP = "expo.methods"
_loaded: set[str] = set()


def load_plugin(name: str) -> tuple[str, ...]:
    """Import a module (`my_module`, found from the current directory too, or `path/to/it.py`); the methods it added.

    Raises PluginError where it cannot be imported, registers nothing, or takes the name of another method.
    """
    if name in _loaded:
        return ()
    added = _register(name, lambda: imported(name))
    if not added:
        raise PluginError(f"plugin {name} registers no method. Decorate a function in it with @expo.method(...).")
    _loaded.add(name)
    return added


def load_entry_points() -> tuple[str, ...]:
    """Import what installed packages offer, each once; the methods that they added."""
    added: list[str] = []
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        if entry.value not in _loaded:
            _loaded.add(entry.value)
            added += _register(f"{entry.name} ({entry.value})", entry.load)
    return tuple(added)


def _register(name: str, load) -> tuple[str, ...]:
    """The names of the methods that a plugin adds while it is loaded."""
    from expo.methods.declare import ALIASES, METHODS

    before, aliases = dict(METHODS), dict(ALIASES)
    try:
        load()
        taken = [other for other, method in before.items() if METHODS.get(other) is not method]
        taken += [alias for alias, other in aliases.items() if ALIASES.get(alias) != other]
        taken += [other for other in METHODS if other not in before and other in aliases]
        if taken:
            raise PluginError(f"plugin {name} registers a method named {taken[0]}, which exists. Give it another name.")
    except BaseException as error:
        for table, old in ((METHODS, before), (ALIASES, aliases)):
            table.clear()
            table.update(old)
        if isinstance(error, PluginError) or not isinstance(error, Exception):
            raise
        raise PluginError(f"plugin {name} cannot be imported: {type(error).__name__}: {error}") from error
    return tuple(other for other in METHODS if other not in before)


def imported(name: str) -> ModuleType:
    """A module by its name, found from the current directory too, or the .py file of that path."""
    if name.endswith(".py") or "/" in name:
        return _from_file(name, Path(name))
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _from_file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError(f"plugin {name}: no such file. Name a module, or a file that ends in .py.")
    spec = importlib.util.spec_from_file_location(path.stem, path.absolute())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
