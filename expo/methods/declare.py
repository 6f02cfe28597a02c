"""@method: a merge method's signature is its declaration. Reads roles and parameters from a pure function.

Positional arguments are tensors in roles: a first one called `base` is the recipe's base model (annotated
`Tensor | None` where a recipe may leave it out), the others are its models, `*models` any number of them.
Keyword-only arguments are parameters: `float`, `int`, `bool` or `Literal[...]` for the whole merge, `Each` for one
number a model; one without a default must be given. A last one called `here` receives the tile's place.

The tiles are the function's own, all but the donor's: it may work in their memory, and so may the terms of a survey.
"""

import ast
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from expo.errors import UnknownMethod, UnknownParameter, nearest
from expo.methods.parameter import REQUIRED, Parameter
from expo.methods.plugins import load_entry_points

if TYPE_CHECKING:
    from torch import Tensor

METHODS: dict[str, "Method"] = {}
ALIASES: dict[str, str] = {}
Each = tuple[float, ...]  # one number a model, in the recipe's order
Reads = Literal["tile", "row", "tensor"]


@dataclass(frozen=True, slots=True)
class Here:
    """Where a tile lies and what is known of its tensor; bound by the stream."""

    start: int  # index in the output tensor of the tile's first element
    shape: tuple[int, ...]  # of the whole tensor
    noise: Callable[..., "Tensor"]  # i -> counter noise of model i, (n,) int32; with bits=16, int16 at half the cost
    surveyed: Any = None  # what the method's survey returned for this tensor

    @property
    def width(self) -> int:
        """Elements of one row; a tensor of one dimension is one row."""
        return self.shape[-1] if self.shape else 1


@dataclass(frozen=True, slots=True)
class Surveyed:
    """One tensor as a survey knows it: no key, no path."""

    shape: tuple[int, ...]
    n_elements: int
    n_models: int  # without the base
    wide: int  # bytes of the floats it is computed in: 4 or 8
    parameters: Mapping[str, Any]


Survey = Callable[[Sequence[Surveyed]], Generator[Any, Any, Sequence[Any]]]


@dataclass(frozen=True)
class Method:
    """One merge method: a pure function on tiles and what it needs."""

    name: str
    apply: Callable[..., Any] = field(repr=False)  # (*tiles in the order of roles, **parameters) -> tile
    base: Literal["required", "optional", "none"]
    models: tuple[int, int | None]  # fewest and most models beside the base; None: any number
    parameters: dict[str, Parameter]
    reads: Reads | Callable[..., Reads]  # the smallest piece it is exact on; may depend on parameters
    exact: Literal["everywhere", "per device"]
    donor: Literal["base", "first"]  # whose names, config and storage the output takes
    nothing: Callable[..., bool] = field(repr=False)  # parameters for which the result is the donor, bit for bit
    check: Callable[..., str | None] = field(repr=False)  # what is wrong with parameters that fit one by one
    survey: Survey | None = field(default=None, repr=False)
    passes: Callable[[Surveyed], int] = field(
        default=lambda tensor: 1, repr=False
    )  # over a tensor, that a survey takes
    model_scope: Callable[..., bool] = field(default=lambda **_: False, repr=False)  # survey all tensors as one
    scratch: float = 0.0  # whole-tensor methods: further copies of the tensor that apply holds
    spreads: bool = False  # a NaN or infinity of any input shows in the result
    wants_here: bool = False
    roles: tuple[str, ...] = ()  # the positional arguments by name, without the star
    aliases: tuple[str, ...] = ()
    paper: str = ""

    @property
    def formula(self) -> str:
        """The first line of the function's docstring."""
        return inspect.getdoc(self.apply).splitlines()[0]

    def reads_for(self, parameters: Mapping[str, Any]) -> Reads:
        """The smallest piece that is exact under these parameters."""
        return self.reads(**parameters) if callable(self.reads) else self.reads

    def survey_passes(self, tensor: Surveyed) -> int:
        """How often a tensor is read before the method is applied to it."""
        return int(self.passes(tensor)) if self.survey else 0

    def known(self, name: str) -> Parameter:
        """The parameter of that name; raises UnknownParameter with the nearest one."""
        if name not in self.parameters:
            raise UnknownParameter(self.name, name, self.parameters)
        return self.parameters[name]


def method(
    *,
    donor: Literal["base", "first"] = "base",
    reads: Reads | Callable[..., Reads] = "tile",
    exact: Literal["everywhere", "per device"] = "everywhere",
    models: tuple[int, int | None] | None = None,
    nothing: Callable[..., bool] = lambda **_: False,
    check: Callable[..., str | None] = lambda **_: None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    survey: Survey | None = None,
    passes: Callable[[Surveyed], int] = lambda tensor: 1,
    model_scope: Callable[..., bool] = lambda **_: False,
    scratch: float = 0.0,
    spreads: bool = False,
    aliases: tuple[str, ...] = (),
    paper: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a merge method under its own name.

    donor: "base", or "first" for the first model (which is also what a recipe without a base falls back to).
    models: how few and how many models; by default what the signature says, at least one for `*models`.
    ranges: parameter -> lowest and highest value. check: a sentence about parameters that do not go together.
    spreads: True where pure arithmetic carries a NaN or infinity of any input into the result; elsewhere, where a
    comparison could swallow it, the inputs themselves are looked at.
    survey: a generator that asks for sums and counts over whole tensors (see expo.methods.survey).
    passes: how often a survey reads a tensor, where nothing about its values is odd; the plan counts bytes by it.
    """

    def register(apply: Callable[..., Any]) -> Callable[..., Any]:
        arguments = list(inspect.signature(apply).parameters.values())
        keywords = [a for a in arguments if a.kind is a.KEYWORD_ONLY and a.name != "here"]
        parameters = {p.name: p for p in (_parameter(a, (ranges or {}).get(a.name)) for a in keywords)}
        found = Method(
            name=apply.__name__,
            apply=apply,
            base=_base_of(arguments),
            models=models or _count_of(arguments),
            parameters=parameters,
            reads=reads,
            exact=exact,
            donor=donor,
            nothing=nothing,
            check=check,
            survey=survey,
            passes=passes,
            model_scope=model_scope,
            scratch=scratch,
            spreads=spreads,
            wants_here=any(a.name == "here" for a in arguments),
            roles=tuple(a.name for a in arguments if a.kind is not a.KEYWORD_ONLY),
            aliases=aliases,
            paper=paper,
        )
        METHODS[found.name] = found
        ALIASES.update(dict.fromkeys(aliases, found.name))
        return apply

    return register


def find_method(name: str) -> Method:
    """The method of that name or alias, from a plugin too; raises UnknownMethod with the nearest one."""
    if ALIASES.get(name, name) not in METHODS:
        load_entry_points()
    name = ALIASES.get(name, name)
    if name not in METHODS:
        raise UnknownMethod(name, nearest(name, [*METHODS, *ALIASES]))
    return METHODS[name]


def _base_of(arguments: list[inspect.Parameter]) -> Literal["required", "optional", "none"]:
    if not arguments or arguments[0].name != "base":
        return "none"
    return "optional" if "None" in str(arguments[0].annotation) else "required"


def _count_of(arguments: list[inspect.Parameter]) -> tuple[int, int | None]:
    tensors = [a for a in arguments if a.kind is not a.KEYWORD_ONLY and a.name != "base"]
    if any(a.kind is a.VAR_POSITIONAL for a in tensors):
        return max(1, len(tensors) - 1), None
    return len(tensors), len(tensors)


def _kind(annotation: Any) -> str:
    """An annotation as it is written, also where it was evaluated."""
    if isinstance(annotation, str):
        return annotation
    if annotation == Each:
        return "Each"
    if get_origin(annotation) is Literal:
        return f"Literal[{', '.join(map(repr, get_args(annotation)))}]"
    return annotation.__name__


def _parameter(argument: inspect.Parameter, limits: tuple[float, float] | None) -> Parameter:
    """A keyword argument as a parameter; `lambda_` is `lambda` in recipes."""
    kind = _kind(argument.annotation)
    default = REQUIRED if argument.default is argument.empty else argument.default
    # `bool | Literal["name"]` is a bool that may also be a name.
    kind, literal, named = kind.rpartition("Literal[")
    choices = tuple(ast.literal_eval(f"({named[:-1]},)")) if literal else ()
    kind = kind.removesuffix(" | ") or ("choice" if choices else named)
    low, high = limits or (None, None)
    return Parameter(
        name=argument.name.rstrip("_"),
        argument=argument.name,
        kind={"Each": "float"}.get(kind, kind),
        each=kind == "Each",
        default=default,
        low=low,
        high=high,
        choices=choices,
    )
