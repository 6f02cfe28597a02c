"""Plain tables on stdout: names to the left, figures to the right, no frame that a pipe would have to cut away."""

from collections.abc import Iterable, Sequence

_WIDE = 400  # columns where stdout is no terminal: nothing is folded


def plural(n: int, word: str) -> str:
    """A number of things: 1 row, 2 rows, 2,000 rows."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def show_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, total: bool = False) -> None:
    """Print rows of text under their headings.

    left: how many columns, from the first, hold names; the others hold figures and stand to the right.
    total: the last row is a sum, set apart by a rule.
    """
    from rich import box
    from rich.table import Table

    rows = [list(map(str, row)) for row in rows]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        if number < left:
            table.add_column(heading, overflow="fold", style="cyan" if number == 0 else None)
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        last = number == len(rows) - 1
        table.add_row(*(_escaped(cell) for cell in row), end_section=total and number == len(rows) - 2)
        if total and last:
            table.rows[-1].style = "bold"
    _show(table)


def show_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print pairs of a word and what there is to say about it, aligned."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for word, text in facts:
        table.add_row(word, _escaped(text))
    _show(table)


def printable(text: str) -> str:
    """Text with its control characters spelled out: a stranger's tensor name must not command the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _escaped(text: str) -> str:
    """One line that rich shows as it is."""
    from rich.markup import escape

    return escape(printable(text).replace("\n", r"\n"))


def _show(table) -> None:
    import sys

    import click
    from rich.console import Console

    from expo.cli.progress import is_terminal

    console = Console(highlight=False, width=None if is_terminal(sys.stdout) else _WIDE)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())
