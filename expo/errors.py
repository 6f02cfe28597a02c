"""Every error raised on purpose, one class a rule. The command line turns an ExpoError into one message and exit 1."""

import difflib
from collections.abc import Iterable, Iterator, Sequence


class ExpoError(Exception):
    """The root of all errors that expo raises on purpose; its text is complete for a person."""

    second_hand = False  # True where another process of the run knows better what has failed


def again(kind: str, text: str) -> ExpoError:
    """An error that another process raised: the same class of this module, the same words."""
    found = globals().get(kind) or next((each for each in _kinds(ExpoError) if each.__name__ == kind), ExpoError)
    error = found.__new__(found)
    Exception.__init__(error, text)
    return error


def _kinds(kind: type) -> Iterator[type]:
    """The classes below one, those of other modules too."""
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause that offers the nearest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


# --- Where a checkpoint is -------------------------------------------------------------------------------------------


class SourceError(ExpoError):
    """A checkpoint cannot be found or opened."""

    remedy = ""

    def __init__(self, problem: str, remedy: str = ""):
        super().__init__("\n".join(filter(None, [problem, remedy or self.remedy])))


class MissingSource(SourceError):
    """What looks like a path names nothing."""


class NotACheckpoint(SourceError):
    """A folder or file holds no weights that expo reads."""


class AmbiguousWeights(SourceError):
    """A folder holds more than one set of weights."""


class ShardsWithoutIndex(SourceError):
    """Numbered shards without the index that says which tensors belong to the model."""


class AdapterNotModel(SourceError):
    """A folder holds an adapter, not a whole model."""


class NotAnAdapter(SourceError):
    """What stands behind a + holds no adapter that PEFT would load."""

    remedy = "An adapter is a folder or Hub repository with adapter_config.json and adapter_model.safetensors."


class UnsupportedAdapter(SourceError):
    """An adapter uses something that cannot be computed on stored weights, or that expo does not compute."""

    remedy = "Merge it with PEFT (merge_and_unload), save the result, and name that checkpoint instead."


class MalformedAdapter(SourceError):
    """An adapter's config and tensors contradict each other or themselves."""

    remedy = "The adapter is damaged, or was changed by hand: save or download it again."


class AdapterMismatch(SourceError):
    """An adapter does not fit the base that it is named with."""

    remedy = "Name the model that it was trained on: BASE+ADAPTER."


class UnsupportedFormat(SourceError):
    """Weights exist, in a format that expo does not read."""


class LinkOutside(SourceError):
    """A symbolic link leads out of the checkpoint's folder."""

    remedy = "Replace the link with the file itself, or pass the folder that the file lies in."


class UnreadableFile(SourceError):
    """The operating system does not let a file be opened or read."""


class ChangedFile(SourceError):
    """A weight file is not the one that was planned with."""

    remedy = "Run the command again once nothing else writes to the checkpoint."


class TruncatedShard(SourceError):
    """A weight file ended in the middle of a tensor while it was read."""

    def __init__(self, path: object, name: str, at: int):
        super().__init__(
            f"{path}: the file ends at byte {at}, inside tensor {name!r}.",
            "It was cut while being read: copy or download it again, and run the command again.",
        )


class HubError(SourceError):
    """The Hub answered with an error."""


class HubRepositoryNotFound(HubError):
    """The Hub knows no such repository, or hides it from this account."""


class HubAccessDenied(HubError):
    """A repository is gated or private, and this account has no access."""


class HubRevisionNotFound(HubError):
    """A repository has no such branch, tag or commit."""


class HubNotCached(HubError):
    """Offline, and the cache does not hold the whole checkpoint."""


class HubBadAnswer(HubError):
    """What answered did not send the bytes that were asked for."""


class HubUnreachable(HubError):
    """No answer from the Hub."""


# --- What its files say ----------------------------------------------------------------------------------------------


class HeaderError(ExpoError):
    """A weight file's header, or another file that describes the weights, breaks a rule of its format."""

    remedy = "The file is damaged, or its writer has a fault: download or convert it again."

    def __init__(self, path: object, problem: str, remedy: str = ""):
        super().__init__(f"{path}: {problem}\n{remedy or self.remedy}")


class TruncatedHeader(HeaderError):
    """The file ends before its header does."""

    remedy = "The download or copy was cut off: fetch the file again."


class HeaderTooLarge(HeaderError):
    """A header is larger than expo reads without being told to."""


class LfsPointer(HeaderError):
    """The file is git's pointer to a file that was never fetched."""

    remedy = "Run `git lfs pull` in its repository, or download the file itself."


class MalformedJson(HeaderError):
    """Text that should be one JSON object is not."""


class DuplicateKey(MalformedJson):
    """One JSON object holds the same key twice."""


class BadInteger(HeaderError):
    """A number is not a plain non-negative integer that a file can hold."""


class BadName(HeaderError):
    """A tensor's name is not text that can be written back."""


class BadEntry(HeaderError):
    """A tensor's entry does not hold exactly a dtype, a shape and two offsets."""


class BadMetadata(HeaderError):
    """__metadata__ is not an object of strings."""


class UnknownDType(HeaderError):
    """A tensor has an element type that expo does not know."""


class SizeMismatch(HeaderError):
    """A tensor's shape and type ask for another number of bytes than its offsets give."""


class RaggedTensor(HeaderError):
    """Elements narrower than a byte do not fill whole bytes."""


class OffsetMismatch(HeaderError):
    """Tensors overlap, or bytes between them belong to none."""


class TruncatedFile(HeaderError):
    """The file ends before its last tensor does."""

    remedy = "The download or copy was cut off: fetch the file again."


class TrailingBytes(HeaderError):
    """The file goes on after its last tensor."""


class PickleError(HeaderError):
    """A .bin file cannot be read as a table of tensors."""

    remedy = "Convert it: load it with torch, and save contiguous tensors with `safetensors.torch.save_file`."


class LegacyPickle(PickleError):
    """A .bin in the format that torch wrote before 1.6, or no torch file at all."""


class UnsafePickle(PickleError):
    """A .bin holds objects besides tensors and plain containers, or breaks torch's format."""


class NotAStateDict(PickleError):
    """A .bin holds something else than a flat mapping of names to tensors."""


class NonContiguousTensor(PickleError):
    """A tensor of a .bin does not lie in one piece, in order."""


class PartlySharedTensor(PickleError):
    """Two tensors of a .bin share some of their bytes, but are not the same."""


class IndexMismatch(ExpoError):
    """A checkpoint's index and its shards disagree."""

    remedy = "Download the checkpoint again, or write it again with its index."

    def __init__(self, path: object, problem: str, remedy: str = ""):
        super().__init__(f"{path}: {problem}\n{remedy or self.remedy}")


class MalformedIndex(IndexMismatch):
    """An index holds no weight_map of tensor names to plain file names."""


class MissingShard(IndexMismatch):
    """An index names a shard that is not there."""


class MissingTensor(IndexMismatch):
    """An index names a tensor that its shard does not hold."""


class UnlistedTensor(IndexMismatch):
    """A shard holds a tensor that the index does not list, or lists elsewhere."""


class RepeatedTensor(IndexMismatch):
    """Two shards hold a tensor of the same name."""


# --- What its tokenizer says -----------------------------------------------------------------------------------------


class TokenizerError(ExpoError):
    """A checkpoint's tokenizer is missing, cannot be read, or does not fit the others."""

    def __init__(self, problem: str, remedy: str = ""):
        super().__init__("\n".join(filter(None, [problem, remedy])))


class MissingTokenizer(TokenizerError):
    """A checkpoint has no tokenizer, and its rows cannot be told apart without one."""


class UnreadableTokenizer(TokenizerError):
    """A tokenizer's file does not hold tokens and ids."""

    def __init__(self, path: object, problem: str):
        super().__init__(f"{path}: {problem}", "Download the tokenizer again, or leave the `tokenizer` entry out.")


class UnionRefused(TokenizerError):
    """Two tokenizers work in ways that no one tokenizer can repeat."""


# --- What the user asks for ------------------------------------------------------------------------------------------


class RecipeError(ExpoError):
    """A recipe asks for something that does not exist or cannot be."""

    where: tuple[str | int, ...] = ()  # the part of the recipe, such as ("parameters", "weight")


class WrongRecipe(RecipeError):
    """Several things are wrong with one recipe."""

    def __init__(self, problems: Sequence[RecipeError]):
        self.problems = list(problems)
        super().__init__("\n".join([f"{len(problems)} problems in the recipe:", *map(str, problems)]))


class PluginError(RecipeError):
    """A module that should register a merge method does not."""


class UnknownMethod(RecipeError):
    """No method of that name."""

    def __init__(self, name: str, hint: str):
        super().__init__(f"no merge method is called {name!r}.{hint} Where a plugin registers it: --plugin MODULE.")


class UnknownParameter(RecipeError):
    """A method has no parameter of that name."""

    def __init__(self, method: str, name: str, known: Iterable[str]):
        known = sorted(known)
        super().__init__(f"{method} has no parameter {name!r}.{nearest(name, known)} It takes: {', '.join(known)}.")


class BadParameter(RecipeError):
    """A parameter's value is of the wrong kind or outside its range."""

    def __init__(self, name: str, value: object, wanted: str = "a finite number"):
        super().__init__(f"{name} must be {wanted}, not {value!r}.")


class BadSetting(RecipeError):
    """A setting beside the method's parameters has a value that it cannot take."""

    def __init__(self, name: str, value: object, known: Iterable[str]):
        known = list(known)
        super().__init__(f"{name} cannot be {value!r}.{nearest(str(value), known)} It is one of: {', '.join(known)}.")


# --- What a plan finds -----------------------------------------------------------------------------------------------


class PlanError(ExpoError):
    """The inputs do not fit together, or the output has no place; found before any tensor is read."""

    def __init__(self, problems: list[str] | str, file: str = ""):
        """file: the recipe that was planned, if the problems do not name it."""
        self.problems = [problems] if isinstance(problems, str) else problems
        of_file = f"{file}: " if file else ""
        head = of_file if len(self.problems) == 1 else f"{of_file}{len(self.problems)} problems:\n\n"
        super().__init__(head + "\n\n".join(self.problems))


# --- What a run finds ------------------------------------------------------------------------------------------------


class DataError(ExpoError):
    """A tensor's values forbid to go on; nothing is published."""


class NonFinite(DataError):
    """A NaN or an infinity in an input."""

    def __init__(self, name: str, index: int, value: float, where: str):
        super().__init__(
            f"{name}[{index}] is {value} in {where}. (The index counts the tensor's elements in storage order.)\n"
            "To let NaN and infinities pass: --allow-non-finite."
        )


class Overflow(DataError):
    """A result lies beyond the output type's range."""

    def __init__(self, name: str, index: int, value: float, dtype: str, largest: float):
        wider = {"F64": "", "F32": " To write a wider type: --dtype float64."}
        super().__init__(
            f"{name}[{index}] would be {value:.6g}, beyond the largest {dtype} ({largest:.6g}).\n"
            f"To clamp such values: --saturate.{wider.get(dtype, ' To write a wider type: --dtype float32.')}"
        )


class BadScale(DataError):
    """A scale of quantised numbers that is no positive number."""


class CopyMismatch(DataError):
    """A tensor that can only be copied differs between the inputs."""

    def __init__(self, name: str, dtype: str, where: str, other: str):
        super().__init__(
            f"{name} is {dtype}, which is copied, never computed on; but it differs between {where} and {other}.\n"
            f"To keep {other}'s copy: --on-mismatch copy."
        )


class OutputError(ExpoError):
    """The output cannot be written where it was asked for."""


class AnotherRun(OutputError):
    """An unfinished folder belongs to a run that was told something else."""


class DiskFull(OutputError):
    """The file system refused more bytes; what is written stays, and the same command continues."""


class PushError(OutputError):
    """A result cannot be published on the Hub."""


class NoToken(PushError):
    """There is no token to push with, or the Hub knows it not."""


class NoWriteAccess(PushError):
    """The token does not let its owner write to the target."""


class TargetMissing(PushError):
    """The target, or its branch, is not there and cannot be made."""


class TargetHolds(PushError):
    """The target exists and holds something else."""


class TargetMoved(PushError):
    """Someone else committed to the target during the push."""


class PushLost(PushError):
    """The connection to the Hub was lost; what arrived stays, and the same command continues."""


class PushOffline(PushLost):
    """No connection to the Hub opens."""


class NotTheHub(PushError):
    """What answers at the endpoint does not speak as the Hub does."""


class Interrupted(ExpoError):
    """A run was stopped by the user; what is written stays."""


class RankError(ExpoError):
    """Processes that a launcher started for one run do not fit together."""


class RankGone(RankError):
    """Another process of this run has ended; it, or the launcher, says why."""

    second_hand = True

    def __init__(self) -> None:
        super().__init__("a process of this run has ended. What is written stays: the same command continues.")


class NoRendezvous(RankError):
    """Several copies of a command were started, and they cannot find each other."""

    def __init__(self, what: str):
        super().__init__(
            f"{what}: the copies would get in each other's way.\n"
            "Start them with torchrun --nproc-per-node N -m expo ... (on several nodes: srun torchrun --nnodes M ...)."
        )


class VerifyError(ExpoError):
    """A checkpoint is not what its manifest says."""


class PlotUnavailable(ExpoError):
    """A plot was asked for, and matplotlib is not installed."""

    def __init__(self) -> None:
        super().__init__("--plot needs matplotlib, which is not installed.\nTo install it: pip install 'expo[plot]'")
