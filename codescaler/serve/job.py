"""What every dialect turns a request into, and what it makes an answer of. Knows no HTTP and no engine."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

from codescaler.serve.answers import Usage
from codescaler.text.program import Pair


class Query(NamedTuple):
    """A prompt with its completion, in the template of a policy."""

    text: str
    prompt: str


# A text that a template has been applied to, its token ids, what a policy read and wrote, or what an engine scores.
Row: TypeAlias = str | list[int] | Query | Pair


class GapCalibration(Protocol):
    """How often a gap between two scores of a model was correct, as `evaluate.calibration.Calibration` says it."""

    @property
    def name(self) -> str:
        """What it was measured on."""
        ...

    @property
    def num_problems(self) -> int: ...

    @property
    def largest_gap(self) -> float: ...

    def estimate_chance(self, gap: float) -> Mapping[str, Any]:
        """Returns the `mean`, and the `interval` of 95%."""
        ...


@dataclass(frozen=True)
class Outcome:
    """The scores of one request's rows, in order, how many tokens each has, and what is known of gaps of the model."""

    scores: Sequence[float]
    num_tokens: Sequence[int]
    model: str
    calibration: GapCalibration | None = None
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def usage(self) -> Usage:
        """Token counts of all rows."""
        total = sum(self.num_tokens)
        return Usage(prompt_tokens=total, total_tokens=total)


@dataclass(frozen=True)
class Job:
    """Rows to score, and what the answer is made of.

    Attributes:
        model: that the client named, None for the only one.
        answer: makes the answer of the outcome, for msgspec to encode.
        use_activation: whether scores go through the logistic function.
    """

    model: str | None
    rows: Sequence[Row]
    answer: Callable[[Outcome], Any]
    use_activation: bool = False
