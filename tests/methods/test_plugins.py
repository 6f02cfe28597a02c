"""Methods from a user's module, or from an installed package's entry point."""

import pytest
from fake_methods import registry

from expo.errors import PluginError, UnknownMethod
from expo.methods import METHODS, find_method, plugins

GOOD = '''
from __future__ import annotations
from expo.methods import method

@method(donor="first", aliases=("half",))
def midpoint(base: Tensor, aligned: Tensor, *, scale: float = 0.5) -> Tensor:
    """aligned - scale * (aligned - base)."""
    return aligned - (aligned - base) * scale
'''


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_loaded", set())
    with registry():
        yield tmp_path


def test_a_file_registers_its_method_once(home):
    (home / "mine.py").write_text(GOOD)
    assert plugins.load_plugin("./mine.py") == ("midpoint",)
    assert plugins.load_plugin("./mine.py") == ()
    assert find_method("half").name == "midpoint"


def test_a_module_is_found_from_the_current_directory(home):
    (home / "a_module_of_mine.py").write_text(GOOD)
    assert plugins.load_plugin("a_module_of_mine") == ("midpoint",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "registers no method"),
        ("import no_such_module_at_all\n", "cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "SystemExit"),
        (GOOD.replace("midpoint", "extrapolate"), "a method named extrapolate, which exists"),
        (GOOD.replace("half", "expo"), "a method named expo, which exists"),
        (GOOD.replace("midpoint", "expo"), "a method named expo, which exists"),
    ],
)
def test_a_plugin_that_does_not_fit_changes_nothing(home, text, words):
    (home / "bad.py").write_text(text)
    before = dict(METHODS)
    with pytest.raises((PluginError, SystemExit)) as caught:
        plugins.load_plugin("bad.py")
    assert words in str(caught.value) or caught.type is SystemExit
    assert dict(METHODS) == before


@pytest.mark.parametrize("name", ["no_such_module_here", "./none.py"])
def test_a_plugin_that_is_not_there(home, name):
    with pytest.raises(PluginError, match=name):
        plugins.load_plugin(name)


def test_entry_points_are_loaded_when_a_method_is_not_found(home, monkeypatch):
    (home / "installed_one.py").write_text(GOOD)
    monkeypatch.syspath_prepend(str(home))
    folder = home / "some_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[expo.methods]\nmine = installed_one\n")
    find_method("extrapolate")
    assert "midpoint" not in METHODS
    assert find_method("midpoint").aliases == ("half",)
    with pytest.raises(UnknownMethod, match="'midpoint'"):
        find_method("midpiont")
