"""push(OUT, "org/name"): a checkpoint's files onto the Hub, in one commit."""

from collections.abc import Callable
from pathlib import Path

from expo.checkpoint import open_checkpoint
from expo.checkpoint.adapters import resolve_adapter
from expo.checkpoint.contents import NOT_CARRIED, is_side_file
from expo.checkpoint.files import check_inside
from expo.checkpoint.model_card import CARD, check_card
from expo.checkpoint.source import list_files
from expo.errors import AdapterNotModel, MissingSource, PushError
from expo.output.hub import HubTarget
from expo.output.hub_commit import MESSAGE, Published, already_there
from expo.output.manifest import NAME

Say = Callable[[str, int], None]  # (file, bytes): it arrived


def push(
    folder: str | Path,
    target: str | HubTarget,
    *,
    private: bool = False,
    branch: str | None = None,
    pr: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    say: Say = lambda name, n_bytes: None,
) -> Published | None:
    """Publish a checkpoint's folder, or an adapter's, on the Hub; nothing shows before the one commit.

    target: "org/name", made if it is not there. private: make it private. branch: commit there, made if it is not
    there. pr: open a pull request instead. overwrite: replace what the target holds. dry_run: check, and send nothing.
    Returns what came of it; None for a dry run that would commit.
    Raises SourceError for the folder, and a PushError that names the target. After a kill or a lost connection the
    same call continues, and sends at most one file again.
    """
    files = files_of(folder)
    if isinstance(target, str):
        target = HubTarget(target, private=private, branch=branch, pr=pr, overwrite=overwrite)
    target.check()
    if found := already_there(target, files, MESSAGE):
        return found
    target.check_room()
    if dry_run:
        return None
    target.open()
    return send(target, files, say=say)


def send(target: HubTarget, files: dict[str, Path], *, message: str = MESSAGE, say: Say) -> Published:
    """Send an opened target's files and commit them; its record goes when all is published."""
    done = None
    try:
        for name, path in files.items():
            if target.is_sent_alone(name, path):
                target.preupload(name, path)
                say(name, path.stat().st_size)
        done = target.commit(files, message)
    finally:
        target.close(forget=done is not None)
    return done


def files_of(folder: str | Path) -> dict[str, Path]:
    """What belongs to a checkpoint or adapter: path in the repository -> local file, weights first.

    Raises a SourceError, HeaderError or IndexMismatch where the checkpoint is not whole.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise MissingSource(f"{folder}: no such folder.", "Pass the folder of a checkpoint: expo push OUT org/name.")
    try:
        source = open_checkpoint(root).source
        names = [*source.weights, *filter(None, [source.index])]
        for part in source.folders:
            names += [f"{part.folder.name}/{name}" for name in (*part.weights, *filter(None, [part.index]))]
        names += source.side_files
    except AdapterNotModel:
        source = resolve_adapter(str(root))
        names = [*source.weights, *source.side_files, *filter(is_side_file, list_files(root))]
        for name in names:
            check_inside(root.absolute(), name)
    names += [name for name in sorted({*NOT_CARRIED, NAME}) if (root / name).is_file()]
    if len(names) > 25_000:
        raise PushError(f"{folder}: {len(names)} files are more than one commit takes. Push fewer, larger ones.")
    if CARD in names:
        check_card(root / CARD)
    return {name: root / name for name in dict.fromkeys(names)}
