"""What is installed: the package list equals the tree, and the wheel holds one top-level name."""

import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_package_list_equals_the_tree():
    tree = {dotted("expo", path.relative_to(ROOT / "expo")) for path in (ROOT / "expo").rglob("__init__.py")}
    for name in ("cli", "merge_recipes"):
        tree |= {dotted("expo", path.relative_to(ROOT)) for path in (ROOT / name).rglob("__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == tree


def dotted(package: str, init: Path) -> str:
    return ".".join((package, *init.parent.parts))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy so that the checkout stays clean."""
    import shutil

    folder = tmp_path_factory.mktemp("wheel")
    kept = {"expo", "cli", "merge_recipes", "pyproject.toml", "README.md", "LICENSE"}
    source = folder / "source"
    source.mkdir()
    for name in kept:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_has_one_top_level_name_and_every_module(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"expo"}
    for path in [*(ROOT / "expo").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        inside = path.relative_to(ROOT)
        assert str(inside if inside.parts[0] == "expo" else Path("expo") / inside) in names


def test_the_installed_wheel_runs_from_another_folder(wheel, tmp_path):
    # The environment sees this one's dependencies, and expo only from the wheel.
    venv.create(tmp_path / "venv", with_pip=False, system_site_packages=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], check=True, capture_output=True, text=True
    ).stdout.strip()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (Path(site) / "deps.pth").write_text("\n".join(ours))
    code = "import expo.cli.main as m, expo; print(m.__file__); print(expo.__version__)"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[0].startswith(site)
    shown = subprocess.run([python, "-m", "expo", "--help"], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "extrapolate" in shown.stdout


def test_an_uninstalled_checkout_says_how_to_install_it(tmp_path):
    (tmp_path / "expo").symlink_to(ROOT / "expo")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    # -S: without the editable install of this environment.
    path = f"[{str(tmp_path)!r}, *sys.path, *{ours!r}]"
    code = f"import sys, runpy; sys.path = {path}; runpy.run_module('expo', run_name='__main__')"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "pip install -e ." in done.stderr
