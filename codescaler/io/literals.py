"""Plain values as text of Python, whatever their size."""

from typing import Any


def write_literal(value: Any) -> str:
    """Returns the text that Python evaluates to a value of JSON. A whole number of too many digits is hexadecimal.

    Raises: RecursionError if the value is too deep.
    """
    try:
        return repr(value)
    except ValueError:  # Python writes 4,300 digits at most
        pass
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{write_literal(key)}: {write_literal(part)}' for key, part in value.items())}}}"
    return f"[{', '.join(map(write_literal, value))}]"
