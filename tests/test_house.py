"""The house: who may import whom, what is public, and which operations change bits."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import expo

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "expo"
# A room may import rooms of a smaller number. `toy` belongs to the producers, so the commands are the last stair.
STAIRS = {
    "version": 0,
    "errors": 0,
    "launcher": 1,
    "forks": 1,
    "dtypes": 0,
    "rows": 1,
    "checkpoint": 1,
    "output": 1,
    "ops": 1,
    "methods": 2,
    "recipe": 3,
    "planning": 4,
    "stream": 5,
    "stages": 6,
    "publish": 6,
    "analysis": 6,
    "lora": 7,
    "toy": 7,
    "train": 7,
    "generate": 7,
    "evaluate": 8,
    "search": 9,
    "weak_to_strong": 9,
    "cli": 10,
}
HEAVY = {"torch", "transformers", "accelerate", "huggingface_hub", "matplotlib"}


def modules() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "cli").rglob("*.py")])


def room(path: Path) -> str:
    if path.is_relative_to(ROOT / "cli"):
        return "cli"
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Every module that a file imports, by full name; type-checking blocks left out."""
    found: set[str] = set()
    for node in walk(ast.parse(path.read_text()), top_only):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


def walk(tree: ast.AST, top_only: bool):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if not (top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            yield from walk(node, top_only)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_imports_only_from_stairs_below(path):
    own = room(path)
    if own in ("__init__", "__main__"):
        return
    for module in imports(path):
        parts = module.split(".")
        if parts[0] != "expo" or len(parts) == 1 or parts[1] == own:
            continue
        assert STAIRS[parts[1]] < STAIRS[own], f"{own} may not import {module}"


def test_click_lives_in_the_command_line_only():
    users = {room(path) for path in modules() if any(m.split(".")[0] == "click" for m in imports(path))}
    assert users == {"cli"}


@pytest.mark.parametrize("heavy", sorted(HEAVY))
def test_heavy_packages_are_imported_late_at_the_doors(heavy):
    for path in modules():
        late = room(path) in {"checkpoint", "output", "recipe", "planning", "cli", "errors", "dtypes", "methods"}
        late |= heavy != "torch" and room(path) not in ("toy", "train")  # train's trainers subclass transformers'
        if late:
            assert heavy not in {m.split(".")[0] for m in imports(path, top_only=True)}, path


def test_the_door_in_uses_torch_only_for_pickles_and_views():
    users = {
        path.name
        for path in (PACKAGE / "checkpoint").rglob("*.py")
        if any(module.split(".")[0] == "torch" for module in imports(path))
    }
    assert users <= {"pickled.py", "low_rank.py", "symbolic.py", "conversions.py", "scaled.py"}


def test_methods_use_only_operations_whose_bits_do_not_depend_on_the_tile():
    unstable = re.compile(
        r"(?<!math\.)\b(addcmul|addcdiv|lerp|pow|rsqrt|matmul|mm|einsum|baddbmm|mean|norm|dot|exp|log|sin|cos|softmax)_?\("
        r"|\.sum\(|\badd_?\([^)]*alpha=| \*\* |@ "
    )
    for path in (PACKAGE / "methods").glob("*.py"):
        if path.name not in ("__init__.py", "declare.py", "parameter.py", "plugins.py", "survey.py", "windows.py"):
            code = ast.unparse(strip_docstrings(ast.parse(path.read_text())))
            if "exact='per device'" in code or path.name == "singular.py":  # which only such methods import
                continue
            code = "\n".join(line for line in code.splitlines() if not line.lstrip().startswith("@"))
            assert not unstable.search(code), f"{path}: {unstable.search(code)}"


def strip_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            body[0] = ast.Pass()
    return tree


def test_every_public_name_is_there_after_importing_every_submodule():
    for module in pkgutil.walk_packages(expo.__path__, "expo."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in expo.__all__:
        value = getattr(expo, name)
        assert callable(value) or name == "__version__", name


def test_errors_are_public_and_one_family():
    assert all(issubclass(e, expo.ExpoError) for e in (expo.PlanError, expo.RecipeError, expo.OutputError))


def test_no_package_bears_the_name_of_a_public_function():
    rooms = {path.stem for path in PACKAGE.iterdir()}
    assert not rooms & set(expo.__all__)


def test_importing_expo_and_planning_imports_no_torch():
    code = "import sys, expo, expo.planning, expo.recipe, expo.cli.main; expo.plan; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['expo', '--help']\n"
        "from expo.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
