"""Arrow's compute functions for the file connectors.

The type stubs give each function one overload per kind of argument and none that takes an array
together with a fixed text, or an array of a type that is known at run time alone. So `compute` is
untyped here, once, and `Array` is an array of any type.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute

Array: TypeAlias = "pa.Array[Any]"
Codec: TypeAlias = Literal["bz2", "gzip", "zstd"]
compute: Any = pyarrow.compute
