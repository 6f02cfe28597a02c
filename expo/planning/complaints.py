"""The plan's complaints and warnings in words: what differs, both sides, and what to do about it."""

from os.path import commonprefix

from expo.checkpoint.spec import Checkpoint, TensorSpec, split_name

SHOWN = 8  # names listed before the rest is counted


class Told(str):
    """A sentence about one part of a recipe; where its file is known, the sentence gets line and column."""

    where: tuple[str | int, ...] = ()  # such as ("modules", 0, "slices", 1, "sources", 0, "layers")

    @classmethod
    def at(cls, where: tuple[str | int, ...], text: str) -> "Told":
        told = cls(text)
        told.where = where
        return told


def shapes_differ(donor: str, spec: TensorSpec, role: str, other: TensorSpec, vocabulary: bool) -> str:
    rows = f"  {spec.shape!s:<18} {donor}\n  {other.shape!s:<18} {role}"
    if vocabulary:
        return (
            f"{spec.name}: shapes differ\n{rows}\n"
            f"To compute the rows that both have and keep {donor}'s others: --vocabulary common-rows. "
            f"To keep {donor}'s tensor whole: --vocabulary keep-base."
        )
    return f"{spec.name}: shapes differ\n{rows}\nTo keep {donor}'s tensor: --on-mismatch copy."


def dtypes_differ(donor: str, spec: TensorSpec, role: str, other: TensorSpec) -> str:
    return (
        f"{spec.name}: types differ, and not both can be computed on\n"
        f"  {spec.dtype!s:<18} {donor}\n  {other.dtype!s:<18} {role}\n"
        f"To keep {donor}'s tensor: --on-mismatch copy."
    )


def rename_collides(role: str, first: str, second: str, renamed: str) -> str:
    return f"--rename gives two tensors of {role} one name: {first} and {second} both become {renamed}."


def of_several(checkpoint: Checkpoint) -> str:
    """Why something that needs one config.json cannot be done on a model made of folders."""
    first = checkpoint.source.folders[0].text
    return (
        f"{checkpoint.source.label} is made of sub-folders, each a model of its own. Give one of them, such as {first}."
    )


def one_sided(
    donor: str,
    checkpoint: Checkpoint,
    missing: list[str],
    role: str,
    other: Checkpoint,
    extra: list[str],
    why_not: str | None = None,
) -> str:
    """Tensors on one side only, with a ready --rename where one explains them. why_not: why no conversion does."""
    parts = []
    if missing:
        parts.append(f"{counted(missing)} only in {donor} ({checkpoint.source.label}):\n{_listed(missing)}")
    if extra:
        parts.append(f"{counted(extra)} only in {role} ({other.source.label}):\n{_listed(extra)}")
    if why_not:
        parts.append(f"No change of layout brings them together: {why_not}")
    if rule := suggested_rename(missing, extra):
        parts.append(f"The names differ by a prefix: --rename '{rule}'.")
    elif rule := _renamed_folder(checkpoint, missing, other, extra):
        parts.append(f"They lie in folders of different names: --rename '{rule}'.")
    else:
        parts.append("To copy such tensors: --on-mismatch copy. To leave them out: --on-mismatch skip.")
    return "\n".join(parts)


def _renamed_folder(donor: Checkpoint, missing: list[str], other: Checkpoint, extra: list[str]) -> str | None:
    """A rule that gives a folder that only one side has the name of one that only the other has."""
    ours = {split_name(name, donor.configs)[0] for name in missing}
    theirs = {split_name(name, other.configs)[0] for name in extra}
    if len(ours) != 1 or len(theirs) != 1 or ours == theirs:
        return None
    new, old = (f"{folder}/" if folder else "" for folder in (*ours, *theirs))
    fits = any(new + name.removeprefix(old) in set(missing) for name in extra)
    return f"{old}=>{new}" if fits else None


def suggested_rename(missing: list[str], extra: list[str]) -> str | None:
    """A prefix rule that turns every extra name into a missing one, if there is one."""
    if not missing or not extra:
        return None
    wanted = set(missing)
    for target in missing:
        # Letter by letter on purpose: the part that two names share at their end need not be a whole component.
        shared = commonprefix([extra[0][::-1], target[::-1]])[::-1]  # noqa: RUF071
        cut = 0 if len(shared) in (len(extra[0]), len(target)) else shared.find(".") + 1
        tail = shared[cut:]
        if not tail:
            continue
        old, new = extra[0][: -len(tail)], target[: -len(tail)]
        if old != new and all(name.startswith(old) and new + name[len(old) :] in wanted for name in extra):
            return f"{old}=>{new}"
    return None


def architectures(inputs: dict[str, Checkpoint]) -> list[str]:
    """A warning where the configs name different architectures."""
    named = {role: checkpoint.config.get("architectures") for role, checkpoint in inputs.items()}
    named = {role: ", ".join(map(str, names)) for role, names in named.items() if isinstance(names, list)}
    if len(set(named.values())) < 2:
        return []
    return ["the configs name different architectures: " + "; ".join(f"{role} {name}" for role, name in named.items())]


def same_twice(inputs: dict[str, Checkpoint]) -> list[str]:
    """A warning where two inputs are one checkpoint, so that nothing would change."""
    places = {role: (c.source.folder.resolve(), c.source.weights, c.source.adapters) for role, c in inputs.items()}
    roles = list(places)
    twice = [role for i, role in enumerate(roles) if places[role] in [places[other] for other in roles[:i]]]
    return [f"{role} is the same checkpoint as another input: there is no delta" for role in twice]


def counted(names: list[str]) -> str:
    """How many tensors, in words."""
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _listed(names: list[str]) -> str:
    lines = [f"  {name}" for name in names[:SHOWN]]
    if len(names) > SHOWN:
        lines.append(f"  ... and {len(names) - SHOWN} more")
    return "\n".join(lines)


def absent_in_slices(role: str, checkpoint: Checkpoint, names: list[str]) -> str:
    """Tensors that a slice takes from an input which does not have them."""
    return (
        f"{role} ({checkpoint.source.label}) lacks {counted(names)} that its slices need:\n{_listed(names)}\n"
        "To copy such tensors from the slice's first model: --on-mismatch copy. To leave them out: --on-mismatch skip."
    )
