"""Arrays by what they hold and their number of axes: numpy's on a CPU, cupy's on a GPU."""

from typing import Any, TypeAlias

Floats1d: TypeAlias = Any
Floats2d: TypeAlias = Any
Floats3d: TypeAlias = Any
Ints1d: TypeAlias = Any
Ints2d: TypeAlias = Any
Bools1d: TypeAlias = Any
Bools2d: TypeAlias = Any
