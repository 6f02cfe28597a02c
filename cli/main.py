"""The `expo` command: a lazy group, so that `expo --help` imports no torch; and the one place that reports errors."""

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import click

from expo.errors import ExpoError, Interrupted, NoRendezvous
from expo.launcher import is_first_copy, place, stay_alone
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
    "w2s": ("expo.cli.w2s", "Weak-to-strong learning: whole pipelines, or their single steps on JSONL files."),
    "demo": ("expo.cli.demo", "Train two toy models, extrapolate, and see whether it helped (half a minute)."),
}


_GRACE = 2.0  # seconds


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


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Of the processes that a launcher started only the first prints; what fails is said by the first that fails."""
    here = place()
    if here.size == 1:
        yield
        return
    if not _is_shared(sys.argv[1:]):
        if not here.is_first:
            sys.exit(0)
        stay_alone()  # or it would wait for the others wherever it streams, trains or generates
        yield
        return
    # All that the handler asks for is there before it may be called: within an import nothing can be imported.
    importlib.import_module("expo.stream.ranks")
    signal.signal(signal.SIGTERM, _stopped)
    if here.is_first:
        yield
        return
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        yield


def may_speak() -> bool:
    """Whether no other process of this run has said yet why it ends."""
    if place().size == 1:
        return True
    from expo.stream.ranks import is_first_to_tell

    if is_first_to_tell():
        return True
    time.sleep(_GRACE)  # the launcher ends all processes with the first that fails: let that one finish its sentence
    return False


def say(text: str) -> None:
    """Print why the command ends; once, however many processes it has."""
    if may_speak():
        click.echo(text, err=True)


def _stopped(*_: object) -> None:
    """What the launcher does to the other processes when one has ended."""
    if may_speak():
        text = "error: one process of this run has ended, or the launcher was stopped. What is written stays: the same"
        os.write(2, f"{text} command continues.\n".encode())
    os._exit(1)


def _leave(*_: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


# What several processes of a launcher do together; everything else the first does alone.
SHARED = {"extrapolate", "merge", "train", "generate", "eval"}


def _is_shared(words: list[str]) -> bool:
    """Whether this command line is for all processes; what only compares is for one."""
    alone = any(word.partition("=")[0] == "--against" for word in words)
    return bool(SHARED.intersection(words[:1])) and not alone


def main() -> None:
    """Run the command line; exit 2 for usage, 1 for an error that expo raises on purpose, 130 when interrupted."""
    try:
        with one_voice():
            group(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        if may_speak():
            error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        say("interrupted")
        sys.exit(130)
    except Interrupted as error:
        say(str(error))
        sys.exit(130)
    except ExpoError as error:
        from expo.cli.tables import printable

        if error.second_hand:
            time.sleep(_GRACE)
        if not isinstance(error, NoRendezvous) or is_first_copy():  # copies without a rendezvous have no other way
            say(f"error: {printable(str(error))}")
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
