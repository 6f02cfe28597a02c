"""What the user asks for: a method, its inputs and parameters, and how to write the result. No I/O, no tensors."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from expo.dtypes import BY_TORCH_NAME, COMPUTED, DTYPES, DType
from expo.errors import BadSetting, RecipeError, WrongRecipe
from expo.methods import find_method
from expo.recipe.check import problems, with_defaults
from expo.recipe.parts import Module, Slice, Source
from expo.recipe.tokenizer import TokenizerSpec
from expo.recipe.values import placed

CHOICES = {
    "rounding": ("nearest", "stochastic"),
    "arithmetic": ("exact", "reference"),
    "on_mismatch": ("error", "copy", "skip"),
    "vocabulary": ("error", "common-rows", "keep-base"),
    "tied": ("error", "keep"),
    "layout": (None, "separate", "packed"),
}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True)
class Recipe:
    """One run: which models go in, by which method, and in which form the result is written."""

    method: str
    models: dict[str, str]  # name in the recipe -> folder, file or Hub id, in the recipe's order
    parameters: dict[str, Any] = field(default_factory=dict)  # of the whole merge; modules hold narrower ones
    base: str | None = None  # one of the models
    modules: tuple[Module, ...] = ()  # (): all models, whole
    tokenizer: TokenizerSpec | None = None  # None: the donor's files as they are
    chat_template: str | None = None
    dtype: str | None = None  # torch's or safetensors' name; None keeps each tensor's type
    rounding: str = "nearest"
    arithmetic: str = "exact"  # "reference" repeats the ExPO authors' three bfloat16 roundings
    seed: int = 0  # of stochastic rounding, and of random masks
    shard_size: int | None = None  # bytes; None follows the donor's shards
    on_mismatch: str = "error"  # tensors on one side only, or of different shape
    vocabulary: str = "error"  # embeddings with different numbers of rows
    tied: str = "error"  # stored copies of tied weights that differ
    layout: str | None = None  # of the output's experts; None: the donor's
    tower: str | None = None  # a component of names: what lies outside of it is copied from the donor
    rename: tuple[tuple[str, str], ...] = ()  # (prefix, prefix in the donor's spelling), for the other inputs
    requantize: bool = False  # write the donor's float8 with fresh scales, instead of bfloat16
    saturate: bool = False
    allow_non_finite: bool = False
    max_header: int = 16 * 2**20  # bytes
    stream: bool = False  # weights of Hub ids stay there, and are read by ranges

    def __post_init__(self) -> None:
        wrong = list(self._wrong_fields())
        try:
            method = find_method(self.method)
        except RecipeError as error:
            raise_all([*wrong, placed(error, "method")])
        object.__setattr__(self, "method", method.name)
        raise_all([*wrong, *problems(self, method)])
        object.__setattr__(self, "parameters", with_defaults(self, method))
        if self.arithmetic == "reference" and (self.method != "extrapolate" or len(self.models) != 2):
            text = "arithmetic: reference repeats the ExPO authors' script; it exists for extrapolate only."
            raise placed(RecipeError(text), "arithmetic")

    def _wrong_fields(self) -> Iterator[RecipeError]:
        """Everything that is wrong beside models and parameters."""
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                yield placed(BadSetting(name, getattr(self, name), filter(None, known)), name)
        if type(self.seed) is not int:
            yield placed(RecipeError(f"seed must be a whole number, not {self.seed!r}."), "seed")
        elif not 0 <= self.seed < 2**64:
            yield placed(RecipeError(f"seed must lie between 0 and 2^64 - 1; {self.seed} does not."), "seed")
        if self.shard_size is not None and not (type(self.shard_size) is int and self.shard_size > 0):
            text = f"shard_size must be a positive number of bytes, not {self.shard_size!r}."
            yield placed(RecipeError(text), "shard_size")
        if not all(isinstance(rule, tuple | list) and len(rule) == 2 for rule in self.rename):
            yield placed(RecipeError(f"rename must hold pairs of prefixes, (old, new), not {self.rename!r}."), "rename")
        if self.tower is not None and not (isinstance(self.tower, str) and self.tower.strip(". ")):
            text = f"tower must be a component of tensors' names, such as 'language_model', not {self.tower!r}."
            yield placed(RecipeError(text), "tower")
        if self.requantize and (self.dtype is not None or self.layout is not None):
            text = "requantize writes the donor's own format: leave dtype and layout out."
            yield placed(RecipeError(text), "requantize")
        if not isinstance(self.dtype, str | None):
            yield placed(RecipeError(f"dtype must be a name such as 'float32', not {self.dtype!r}."), "dtype")
        elif self.arithmetic in CHOICES["arithmetic"]:
            try:
                self.output_dtype()
            except RecipeError as error:
                yield placed(error, "dtype")

    @property
    def parts(self) -> tuple[Module, ...]:
        """The modules, also where the recipe names only models."""
        return self.modules or (Module((Slice(tuple(Source(name) for name in self.models)),)),)

    @property
    def is_sliced(self) -> bool:
        """Whether layers are picked, so that the output's may not be the donor's."""
        return any(part.n_layers is not None for module in self.parts for part in module.slices)

    @property
    def merged(self) -> set[str]:
        """The models that give tensors or config; the others only lend rows to a tokenizer."""
        parts = [part for module in self.parts for part in module.slices]
        named = {source.model for part in parts for source in part.sources} | {part.base for part in parts}
        return (named | {self.base}) - {None}

    @property
    def donor(self) -> str:
        """The model whose names, config, side files and shards the output takes."""
        if self.base and find_method(self.method).donor == "base":
            return self.base
        first = self.parts[0].slices[0]
        return next((s.model for s in first.sources if s.model != self.base), first.sources[0].model)

    @property
    def asked_alpha(self) -> float | None:
        """The alpha of an extrapolation that has one for all tensors."""
        alpha = self.parameters.get("alpha")
        return alpha if self.method == "extrapolate" and isinstance(alpha, float) else None

    @property
    def title(self) -> str:
        """The method and the parameters of the whole merge, for people."""
        known = find_method(self.method).parameters
        said = {n: v for n, v in self.parameters.items() if not (known[n].each and v == known[n].default)}
        text = ", ".join(f"{name} {value}" for name, value in said.items())
        return f"{self.method} ({text})" if text else self.method

    def output_dtype(self) -> DType | None:
        """The element type that floats are written in, or None to keep each tensor's."""
        if self.arithmetic == "reference":
            if self.dtype not in (None, "bfloat16", "BF16"):
                raise RecipeError("arithmetic: reference always writes bfloat16, as the authors' script does.")
            return DTYPES["BF16"]
        if self.dtype is None:
            return None
        dtype = BY_TORCH_NAME.get(self.dtype) or DTYPES.get(self.dtype.upper())
        if dtype is None or not dtype.computed:
            raise BadSetting("dtype", self.dtype, [DTYPES[name].torch_name for name in COMPUTED])
        return dtype

    def record(self) -> dict[str, Any]:
        """Everything that decides the bytes of the result, without paths; what manifests and journals keep."""
        record = asdict(self)
        if not self.modules:
            del record["modules"]
        record["tokenizer"] = self.tokenizer and self.tokenizer.record()
        record["rename"] = [f"{old}=>{new}" for old, new in self.rename]
        # These decide whether and how a run may go on, not what it writes.
        for name in ("models", "allow_non_finite", "max_header", "stream"):
            del record[name]
        return record

    @classmethod
    def from_record(cls, record: dict[str, Any], models: dict[str, str]) -> "Recipe":
        """The recipe of a manifest, with inputs found again."""
        rename = tuple(parse_rename(rule) for rule in record.get("rename", ()))
        modules = tuple(_module(part) for part in record.get("modules", ()))
        tokenizer = TokenizerSpec.from_record(record["tokenizer"]) if record.get("tokenizer") else None
        return cls(**{**record, "rename": rename, "modules": modules, "tokenizer": tokenizer}, models=models)

    def with_parameters(self, **parameters: Any) -> "Recipe":
        """The same recipe with other parameters."""
        return replace(self, parameters={**self.parameters, **parameters})


def extrapolation(*, sft: str | Path, dpo: str | Path, alpha: float = 0.3, **settings: Any) -> Recipe:
    """The recipe dpo + alpha * (dpo - sft).

    sft, dpo: a folder, a weight file, or a Hub id (org/name or org/name@revision).
    settings: any other field of Recipe, such as dtype="float32" or rounding="stochastic".
    Raises RecipeError when a value cannot be. Source: Zheng et al., arXiv:2404.16792, equation 1.
    """
    return Recipe("extrapolate", {"sft": str(sft), "dpo": str(dpo)}, {"alpha": alpha}, "sft", **settings)


def raise_all(problems: list[RecipeError]) -> None:
    """Raise the one problem, or all of them as one; nothing where there is none."""
    if problems:
        raise problems[0] if len(problems) == 1 else WrongRecipe(problems)


def _module(record: dict[str, Any]) -> Module:
    """A module as JSON keeps it."""
    slices = tuple(
        Slice(
            tuple(Source(s["model"], s["layers"] and tuple(s["layers"]), s["parameters"]) for s in part["sources"]),
            part["base"],
            part["parameters"],
        )
        for part in record["slices"]
    )
    return Module(slices, record["name"], record["parameters"])


def parse_rename(rule: str) -> tuple[str, str]:
    """'old.=>new.' as a pair of prefixes."""
    old, arrow, new = rule.partition("=>")
    if not arrow or old == new:
        raise RecipeError(f"{rule!r} renames nothing; write it as 'prefix=>prefix', such as 'language_model.=>'.")
    return old, new


def parse_size(text: str) -> int:
    """'5GB', '500 MiB' or a plain number of bytes."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if not found or not (n_bytes := int(float(found[1]) * _UNITS.get(found[2], 0))):
        raise RecipeError(f"{text!r} is not a size; write it as 5GB or 500MiB.")
    return n_bytes
