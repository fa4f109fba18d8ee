"""Tables of pandas as parts of a message, where both sides have pandas; this module imports it for nobody.

What crosses is data alone: columns, indices and names. Nothing that a program defines is called.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

# Types of columns beside numpy's that a message can hold, with a missing value as None.
_TYPES = {"str", "string", "boolean", *(f"{kind}{bits}" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)),
          "Float32", "Float64"}  # fmt: skip


def list_frame_parts(value: Any) -> tuple[str, list[Any]] | None:
    """Returns the kind and the parts of a DataFrame, a Series or an Index; None of anything else, and of other types.

    An object of a class that derives from one of these is something else.
    """
    pandas = sys.modules.get("pandas")
    cls = type(value)
    if pandas is None or cls not in _list_classes(pandas):
        return None
    if cls is pandas.DataFrame:
        columns = [_split_column(value.iloc[:, place]) for place in range(value.shape[1])]
        known = [part for column in columns if column is not None for part in column]
        return ("DataFrame", [value.index, value.columns, *known]) if len(known) == 2 * len(columns) else None
    if cls is pandas.RangeIndex:
        return "RangeIndex", [range(value.start, value.stop, value.step), value.name]
    if cls is pandas.MultiIndex:
        levels = [value.get_level_values(place) for place in range(value.nlevels)]
        return "MultiIndex", [tuple(value.names), *levels]
    column = _split_column(value)
    if column is None:
        return None
    if cls is pandas.Series:
        return "Series", [value.index, value.name, *column]
    return "Index", [value.name, getattr(value, "freqstr", None), *column]


def _list_classes(pandas: Any) -> tuple[type, ...]:
    names = ("DataFrame", "Series", "Index", "RangeIndex", "MultiIndex", "DatetimeIndex", "TimedeltaIndex")
    return tuple(getattr(pandas, name) for name in names)


def _split_column(column: Any) -> list[Any] | None:
    """The type of a column, None if it is numpy's, and its values as an array; None if no message can hold it."""
    numpy = sys.modules["numpy"]
    if isinstance(column.dtype, numpy.dtype):
        return [None, numpy.asarray(column)]
    if str(column.dtype) not in _TYPES:
        return None
    values = column.to_numpy(object)
    return [str(column.dtype), numpy.where(column.isna(), None, values) if len(values) else values]


def _join_column(kind: Any, values: Any) -> Any:
    import pandas

    if kind is not None and kind not in _TYPES:
        raise TypeError(f"a column of another type, {kind!r:.50}")
    return values if kind is None else pandas.array(values, dtype=kind)


def _make_frame(index: Any, columns: Any, *parts: Any) -> Any:
    import pandas

    joined = {place: _join_column(*parts[2 * place : 2 * place + 2]) for place in range(len(parts) // 2)}
    frame = pandas.DataFrame(joined, index=index)
    frame.columns = columns
    return frame


def _make_series(index: Any, name: Any, kind: Any, values: Any) -> Any:
    import pandas

    return pandas.Series(_join_column(kind, values), index=index, name=name)


def _make_index(name: Any, frequency: Any, kind: Any, values: Any) -> Any:
    import pandas

    index = pandas.Index(_join_column(kind, values), name=name, dtype=values.dtype if kind is None else None)
    if frequency is not None:
        index.freq = frequency
    return index


def _make_range_index(values: Any, name: Any) -> Any:
    import pandas

    return pandas.RangeIndex(values.start, values.stop, values.step, name=name)


def _make_multi_index(names: Sequence[Any], *levels: Any) -> Any:
    import pandas

    return pandas.MultiIndex.from_arrays(levels, names=names)


# What makes a value of each kind. Each raises whatever pandas does.
MAKERS: dict[str, Callable[..., Any]] = {
    "DataFrame": _make_frame, "Series": _make_series, "Index": _make_index, "RangeIndex": _make_range_index,
    "MultiIndex": _make_multi_index,
}  # fmt: skip
