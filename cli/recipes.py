"""expo recipes: the shipped library, YAML files in folders."""

from pathlib import Path

import click

from expo.cli.options import JSON, QUIET
from expo.cli.tables import show_table
from expo.errors import RecipeError, nearest


@click.group(short_help="List, show or copy the shipped recipes.", invoke_without_command=True)
@click.pass_context
def recipes(ctx: click.Context) -> None:
    """List, show or copy the recipes that are shipped with expo."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(ls)


@recipes.command()
def ls() -> None:
    """List the shipped recipes and what each is for."""
    found = library()
    show_table(
        ("recipe", "what it is"), [(name, description(file.read_text())) for name, file in found.items()], left=2
    )


@recipes.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the recipe NAME."""
    click.echo(shipped(name).read_text(), nl=False)


@recipes.command()
@click.argument("name")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write. Default: its own name, here.")
def copy(name: str, output: Path | None) -> None:
    """Copy the recipe NAME, to be changed."""
    file = shipped(name)
    output = output or Path(file.name)
    output = output / file.name if output.is_dir() else output
    try:
        with open(output, "x") as copied:
            copied.write(file.read_text())
    except FileExistsError:
        raise RecipeError(f"{output} exists. Name another file: -o FILE.") from None
    except OSError as error:
        raise RecipeError(f"{output} cannot be written: {error.strerror}.") from None
    click.echo(f"wrote {output}: edit it, then expo merge {output} -o OUT")


@recipes.command()
@click.argument("names", nargs=-1, metavar="[RECIPE]...")
@click.option("--download", is_flag=True, help="Fetch whole files into the cache instead of reading ranges.")
@click.option("--threads", type=click.IntRange(min=1), help="Workers. Default: one a core.")
@JSON
@QUIET
def audit(names: tuple[str, ...], download: bool, threads: int | None, as_json: bool, quiet: bool) -> None:
    """Compute shipped recipes again with their authors' arithmetic, and compare them with what they published.

    RECIPE is a shipped recipe's name, or a YAML file whose header has a line `# published: ORG/NAME`. Default: every
    shipped recipe with such a line. Reads the Hub by ranges, and writes nothing. Exit 1 if one cannot be compared.
    """
    from expo.cli.audit import audit_all

    found = library()
    texts = {name: _text(name) for name in names} or {name: found[name].read_text() for name in found}
    audit_all(texts, every=not names, stream=not download, threads=threads, as_json=as_json, quiet=quiet)


def _text(name: str) -> str:
    """A recipe's file on this machine, or a shipped one of that name."""
    path = Path(name)
    if not (path.suffix in (".yaml", ".yml") and path.is_file()):
        return shipped(name).read_text()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}.") from None


def library() -> dict:
    """Name (folder/file, without .yaml) -> file of every shipped recipe."""
    from importlib.resources import files

    found: dict = {}

    def enter(folder, prefix: str) -> None:
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if entry.is_dir():
                enter(entry, f"{prefix}{entry.name}/")
            elif entry.name.endswith(".yaml"):
                found[prefix + entry.name.removesuffix(".yaml")] = entry

    enter(files("expo.merge_recipes"), "")
    return found


def shipped(name: str):
    """The file of one shipped recipe, by its name or by the last part of it; raises RecipeError with the nearest."""
    found = library()
    name = name.removesuffix(".yaml")
    ends = [full for full in found if full == name or full.rpartition("/")[2] == name]
    if len(ends) == 1 or name in found:
        return found[name if name in found else ends[0]]
    if ends:
        raise RecipeError(f"{name} is in several folders: {', '.join(ends)}. Name one of them.")
    raise RecipeError(f"no shipped recipe is called {name!r}.{nearest(name, found)} `expo recipes ls` lists them.")


def description(text: str) -> str:
    """The first comment line of a recipe."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return first.lstrip("# ").strip() if first.startswith("#") else ""
