"""Merge methods: one file each, a pure function on tiles and its declaration."""

from expo.methods import arcee_fusion as _arcee_fusion  # noqa: F401
from expo.methods import breadcrumbs as _breadcrumbs  # noqa: F401
from expo.methods import breadcrumbs_ties as _breadcrumbs_ties  # noqa: F401
from expo.methods import dare_linear as _dare_linear  # noqa: F401
from expo.methods import dare_ties as _dare_ties  # noqa: F401
from expo.methods import della as _della  # noqa: F401
from expo.methods import della_linear as _della_linear  # noqa: F401
from expo.methods import extrapolate as _extrapolate  # noqa: F401  (registers itself)
from expo.methods import iso_c as _iso_c  # noqa: F401
from expo.methods import karcher as _karcher  # noqa: F401
from expo.methods import linear as _linear  # noqa: F401
from expo.methods import model_stock as _model_stock  # noqa: F401
from expo.methods import multislerp as _multislerp  # noqa: F401
from expo.methods import nearswap as _nearswap  # noqa: F401
from expo.methods import nuslerp as _nuslerp  # noqa: F401
from expo.methods import passthrough as _passthrough  # noqa: F401
from expo.methods import ram as _ram  # noqa: F401
from expo.methods import ramplus_tl as _ramplus_tl  # noqa: F401
from expo.methods import sce as _sce  # noqa: F401
from expo.methods import slerp as _slerp  # noqa: F401
from expo.methods import task_arithmetic as _task_arithmetic  # noqa: F401
from expo.methods import ties as _ties  # noqa: F401
from expo.methods import tsv_m as _tsv_m  # noqa: F401
from expo.methods.declare import METHODS, Each, Here, Method, Reads, Surveyed, find_method, method
from expo.methods.parameter import REQUIRED, Parameter

__all__ = ["METHODS", "REQUIRED", "Each", "Here", "Method", "Parameter", "Reads", "Surveyed", "find_method", "method"]
