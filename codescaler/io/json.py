"""An untrusted JSON file, and typed look-ups in its object; knows nothing of what the settings mean."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codescaler.errors import HostileFile, WeightsError
from codescaler.io.files import read_text_file

MAX_SIZE = 2**31 - 1
_MAX_JSON_BYTES = 64 * 2**20  # the index of a 405B model takes a tenth of a megabyte
# Beyond any setting in use, and far from what float32 takes for zero or infinity, which makes NaN of sound weights.
MIN_NUMBER, MAX_NUMBER = 1e-30, 1e30
_MAX_INT_DIGITS = 2**20  # takes seconds; tests of contests have tens of thousands
_ANY_INT_DIGITS = 4300  # that Python reads at any setting


def parse_json(text: str, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """Returns the value of a JSON text, in which a whole number may have `_MAX_INT_DIGITS` digits.

    Raises: ValueError, RecursionError, as `json.loads`.
    """
    try:
        return json.loads(text, parse_constant=parse_constant)
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # more digits than Python reads, if nothing else
        if "int_max_str_digits" not in str(error):
            raise
    return json.loads(text, parse_constant=parse_constant, parse_int=parse_whole_number)


def parse_whole_number(digits: str) -> int:
    """Returns the whole number that a text of any length writes: halves are read alone, so that no limit holds."""
    if len(digits) > _MAX_INT_DIGITS:
        raise ValueError(f"a whole number has {len(digits)} digits, more than {_MAX_INT_DIGITS}")
    if digits.startswith("-"):
        return -parse_whole_number(digits[1:])
    if len(digits) <= _ANY_INT_DIGITS:
        return int(digits)
    num_low = len(digits) // 2
    return int(parse_whole_number(digits[:-num_low]) * 10**num_low + parse_whole_number(digits[-num_low:]))


@dataclass(frozen=True)
class Fields:
    """One JSON object, read key by key. A null value counts as absent, as it does in transformers."""

    values: Mapping[str, Any]
    where: str

    def make_error(self, key: str, remedy: str) -> WeightsError:
        """Returns the error for a key whose value is missing or not usable."""
        seen = repr(self.values[key])[:80] if key in self.values else "nothing"
        return WeightsError(f"{self.where}: {key} is {seen}; {remedy}.")

    def is_null(self, key: str) -> bool:
        """Says whether the key is there and null, for the few keys where that differs from absent."""
        return key in self.values and self.values[key] is None

    def read_size(self, key: str, default: int | None = None, low: int = 1, high: int = MAX_SIZE) -> int:
        """Returns a whole number in [low, high]."""
        value = default if self.values.get(key) is None else self.values[key]
        if type(value) is not int or not low <= value <= high:  # a bool is an int to isinstance
            raise self.make_error(key, f"set it to a whole number from {low} to {high}")
        return value

    def read_number(self, key: str, default: float | None = None, low: float = MIN_NUMBER) -> float:
        """Returns a number in [low, MAX_NUMBER]."""
        value: Any = default if self.values.get(key) is None else self.values[key]
        # Bounded before float(): an integer of 400 digits would overflow there.
        if type(value) not in (int, float) or not low <= value <= MAX_NUMBER:
            raise self.make_error(key, f"set it to a number from {low:g} to {MAX_NUMBER:g}")
        return float(value)

    def read_numbers(self, key: str, *, allows_null: bool = False) -> list[float]:
        """Returns a list of numbers in [-MAX_NUMBER, MAX_NUMBER]. A null that is allowed is infinity."""
        values: Any = self.values.get(key)
        wanted = "set it to a list of numbers"
        if not isinstance(values, list):
            raise self.make_error(key, wanted)
        numbers = [math.inf if value is None and allows_null else value for value in values]
        for number in numbers:
            if type(number) not in (int, float) or not (abs(number) <= MAX_NUMBER or (allows_null and number > 0)):
                raise self.make_error(key, wanted)
        return [float(number) for number in numbers]

    def read_flag(self, key: str) -> bool:
        """Returns true or false; absent is false."""
        value = self.values.get(key)
        if value is not None and type(value) is not bool:
            raise self.make_error(key, "set it to true or false")
        return bool(value)

    def read_text(self, key: str, default: str | None = None) -> str:
        """Returns a string."""
        value = default if self.values.get(key) is None else self.values[key]
        if type(value) is not str:
            raise self.make_error(key, "set it to a string")
        return value

    def read_choice(self, key: str, allowed: Sequence[str]) -> str:
        """Returns one of some strings."""
        value = self.read_text(key)
        if value not in allowed:
            raise self.make_error(key, f"set it to {' or '.join(allowed)}")
        return value

    def read_object(self, key: str) -> "Fields":
        """Returns a nested object; absent is an empty one."""
        value = {} if self.values.get(key) is None else self.values[key]
        if not isinstance(value, Mapping):
            raise self.make_error(key, "set it to a JSON object")
        return Fields(value, f"{self.where}, {key}")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
        MissingTensor: there is no such file.
        HostileFile: it is too large, no JSON, or no object.
    """
    text = read_text_file(path, _MAX_JSON_BYTES)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError covers bad JSON and endless digits
        raise HostileFile(f"{path} is not valid JSON ({str(error)[:200]}); fetch the file again.") from error
    if not isinstance(value, dict):
        raise HostileFile(f"{path} holds a JSON {type(value).__name__}, not an object; fetch the file again.")
    return value
