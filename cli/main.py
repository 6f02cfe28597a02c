"""The `expo` command: a lazy group, so that `expo --help` imports no torch; and the one place that reports errors."""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

import click

from expo.errors import ExpoError, Interrupted
from expo.version import __version__

# command -> (module, one line); a module is imported when its command is used.
COMMANDS = {
    "extrapolate": (
        "expo.cli.extrapolate",
        "Push an aligned model further from its SFT start: DPO + ALPHA (DPO - SFT).",
    ),
    "merge": ("expo.cli.merge", "Run a recipe: a merge in YAML, such as mergekit's."),
    "plan": ("expo.cli.plan", "Show what a recipe will do: budgets, donor, and which tensors get which parameters."),
    "methods": ("expo.cli.methods", "List the merge methods; or one method's formula, parameters and paper."),
    "recipes": ("expo.cli.recipes", "List, show or copy the shipped recipes."),
    "inspect": ("expo.cli.inspect", "Show what a checkpoint holds: tensors, types, shapes, sizes, layers."),
    "diff": ("expo.cli.diff", "Compare two checkpoints tensor by tensor, and what an alpha would really move."),
    "lora": ("expo.cli.lora", "Extract a LoRA from two checkpoints, or extrapolate between two adapters."),
    "verify": ("expo.cli.verify", "Check a checkpoint against its manifest, or recompute it from its inputs."),
    "push": ("expo.cli.push", "Publish a checkpoint on the Hub, in one commit; a broken push continues."),
    "train": ("expo.cli.train", "Train a checkpoint: sft, dpo (sigmoid, IPO, ORPO) or classify."),
    "generate": ("expo.cli.generate", "Let a model, local or behind an endpoint, answer questions; resumable."),
    "search": ("expo.cli.search", "Choose alpha, or anything in a recipe, by evidence; no try is written to disk."),
    "eval": ("expo.cli.eval", "Accuracy, pass@k and paired differences of models on questions with answers."),
    "w2s": ("expo.cli.w2s", "Weak-to-strong reasoning: a whole pipeline, or its single steps on JSONL files."),
    "demo": ("expo.cli.demo", "Train two toy models, extrapolate, and see whether it helped (half a minute)."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported one by one, when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        with loading():
            return getattr(importlib.import_module(COMMANDS[name][0]), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]):
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from expo.errors import nearest

            error.message += nearest(args[0], COMMANDS)
            raise


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="expo")
def group() -> None:
    """Weight-space model surgery: checkpoints go in, tiles flow one way, a checkpoint comes out."""


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """While large libraries are imported, Ctrl-C ends at once: inside them it would become some error of theirs."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(*_: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


def main() -> None:
    """Run the command line; exit 2 for usage, 1 for an error that expo raises on purpose, 130 when interrupted."""
    try:
        group(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Interrupted as error:
        click.echo(str(error), err=True)
        sys.exit(130)
    except ExpoError as error:
        from expo.cli.tables import printable

        click.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.filename is not None:
            raise
        click.echo(f"error: the results cannot be printed: {error.strerror}", err=True)
        os._exit(1)  # closing the stream would fail again


if __name__ == "__main__":
    main()
