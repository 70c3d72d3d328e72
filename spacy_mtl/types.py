"""Array types by content and number of axes. The same names stand for cupy's arrays on a GPU."""

from typing import Any, TypeAlias

import numpy
from thinc.api import Model, get_array_module

Floats: TypeAlias = numpy.dtype[numpy.floating[Any]]
Ints: TypeAlias = numpy.dtype[numpy.integer[Any]]
Bools: TypeAlias = numpy.dtype[numpy.bool_]
Floats1d: TypeAlias = numpy.ndarray[tuple[int], Floats]
Floats2d: TypeAlias = numpy.ndarray[tuple[int, int], Floats]
Floats3d: TypeAlias = numpy.ndarray[tuple[int, int, int], Floats]
Ints1d: TypeAlias = numpy.ndarray[tuple[int], Ints]
Ints2d: TypeAlias = numpy.ndarray[tuple[int, int], Ints]
Bools1d: TypeAlias = numpy.ndarray[tuple[int], Bools]
Bools2d: TypeAlias = numpy.ndarray[tuple[int, int], Bools]
Settings: TypeAlias = dict[str, Any]  # of a config, or a state: what JSON can hold


def get_xp(array: object) -> Any:
    """RETURNS (ModuleType): numpy or cupy, whichever the array belongs to."""
    return get_array_module(array)  # type: ignore[no-untyped-call]


def get_ops(model: Model[Any, Any]) -> Any:
    """RETURNS (Ops): The array functions of a thinc model. Untyped: thinc's signatures know only
    its own array classes.
    """
    return model.ops
