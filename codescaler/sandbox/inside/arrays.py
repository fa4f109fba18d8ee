"""Arrays of numpy as parts of a message, where both sides have numpy; this module imports it for nobody."""

import sys
from typing import Any

_KINDS = "biufcSUOMm"  # of element types that a message can hold


def list_array_parts(value: Any) -> list[Any] | None:
    """Returns the element type, the shape and the elements of an array; None of anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray) or value.dtype.kind not in _KINDS or value.dtype.fields:
        return None
    flat = value.ravel()
    elements = flat.view("i8") if value.dtype.kind in "Mm" else flat
    return [value.dtype.str, tuple(map(int, value.shape)), *elements.tolist()]


def make_array(form: Any, shape: Any, *elements: Any) -> Any:
    """Returns the array of such parts. Raises whatever numpy does, or TypeError if they are none."""
    import numpy

    if not isinstance(form, str) or form.lstrip("<>|=")[:1] not in _KINDS:
        raise TypeError("an array of another form")
    element_type = numpy.dtype(form)
    if element_type.kind == "O":
        array = numpy.empty(len(elements), element_type)
        array[:] = elements
    else:
        array = numpy.array(elements, "i8" if element_type.kind in "Mm" else element_type)
        array = array.view(element_type) if element_type.kind in "Mm" else array
    return array.reshape(shape)
