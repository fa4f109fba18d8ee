"""`Certificate`: how often a rule may change a ranking, counted on problems that it was not chosen on.

The file that holds it names the model, its settings and the exits, and others are refused. What a certificate says
holds for problems like those that were counted. `DriftMonitor` compares a stream of problems with these.
"""

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from codescaler.engine.exits import DROPPED, Rule
from codescaler.engine.scheduler import Float32
from codescaler.errors import SettingsMismatch, WeightsError
from codescaler.io.json import Fields, read_json
from codescaler.types import Promise

DRIFT_LEVEL = 0.05  # how likely a stream of such problems is ever taken for another, however long it is
DRIFT_WINDOW = 64  # problems
DRIFT_SIZES = 7  # of windows, each twice the one before: up to 4,096 problems

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Certificate:
    """What was promised and counted.

    Attributes:
        rule: who goes on at each stage.
        promise: "first", the first `top_k` scores stay the same, or "order", no dropped candidate is better than one
            with a score.
        at_most: the share of problems in which that may fail. confidence: that it is not a larger one.
        bound: the share that holds at this confidence. num_counted, num_missed: problems counted, and that failed.
        num_settings: rules that were tried on the problems counted.
        num_candidates: the fewest and the most distinct programs of a problem counted.
        asked_first: as in `Engine.rerank`.
        reference: the statistics of `describe_problem`, each of the problems counted.
    """

    rule: Rule
    promise: Promise
    at_most: float
    confidence: float
    bound: float
    num_counted: int
    num_missed: int
    num_settings: int
    num_candidates: tuple[int, int]
    asked_first: bool
    reference: tuple[tuple[float, ...], ...]

    def describe_miss(self) -> str:
        """Returns what was counted, in words."""
        if self.promise == "order":
            return "a dropped program is better than a scored one"
        top_k = self.rule.top_k
        return "another program is first" if top_k == 1 else f"another program is among the first {top_k}"

    def make_record(self) -> dict[str, Any]:
        """Returns what `read_certificate` reads. An infinite margin, which drops nobody, is null."""
        return {
            "margins": [margin if math.isfinite(margin) else None for margin in self.rule.margins],
            "top_k": self.rule.top_k,
            "asked_first": self.asked_first,
            "promise": {
                "kind": self.promise,
                "differs_at_most": self.at_most,
                "confidence": self.confidence,
                "bound": self.bound,
                "num_counted": self.num_counted,
                "num_missed": self.num_missed,
                "num_settings": self.num_settings,
            },
            "num_candidates": list(self.num_candidates),
            "reference": dict(zip(STATISTICS, map(list, self.reference), strict=True)),
        }


STATISTICS = ("num_programs", "best_at_first_exit", "spread_at_first_exit", "best_score")


def describe_problem(values: Float32) -> tuple[float, ...]:
    """Returns what tells one kind of problem from another, and does not depend on the rule while the winner stays."""
    first, last = values[:, 0].astype(np.float64), values[:, -1]
    best = float(last[last != DROPPED].max())
    return float(len(values)), float(first.max()), float(first.max() - first.mean()), best


def read_certificate(path: Path, owner: Mapping[str, Any]) -> tuple[Certificate, Fields]:
    """Returns the certificate in a file, and all fields. `owner` is what the file must say of its model.

    Raises: WeightsError if the file cannot be used, or is of another model. SettingsMismatch: it is of other settings.
    """
    advice = "make it anew by `codescaler fit-exits`"
    try:
        record = Fields(read_json(path), str(path))
        promise, reference = record.read_object("promise"), record.read_object("reference")
        margins = record.read_numbers("margins", allows_null=True)
        low, high = record.read_numbers("num_candidates")
        certificate = Certificate(
            Rule(tuple(margins), record.read_size("top_k")),
            cast(Promise, promise.read_choice("kind", get_args(Promise))),
            promise.read_number("differs_at_most"),
            promise.read_number("confidence"),
            promise.read_number("bound"),
            promise.read_size("num_counted"),
            promise.read_size("num_missed", low=0),
            promise.read_size("num_settings"),
            (int(low), int(high)),
            record.read_flag("asked_first"),
            tuple(tuple(reference.read_numbers(name)) for name in STATISTICS),
        )
        written = record.read_object("owner").values
    except (WeightsError, ValueError) as error:
        raise WeightsError(f"{path} holds no certificate ({error}); {advice}") from error
    for key, value in owner.items():
        if written.get(key) != value:
            kind = WeightsError if key.endswith("digest") else SettingsMismatch
            raise kind(f"{path} was made with {key} {written.get(key)!r:.80}, and it is {value!r:.80} now; {advice}")
    return certificate, record


@dataclass
class DriftMonitor:
    """Notices when problems are no longer like those of a certificate. Several threads may call it.

    Each window of problems is compared with the reference by two-sample Kolmogorov-Smirnov tests, one a statistic, and
    so are windows of twice as many, four times, ...: a small window sees a large change soon, and a large one a small
    change in the end. The k-th window of a size may err with a chance of `level` / DRIFT_SIZES * 6 / (pi k)^2, so that
    all windows together err with at most `level`.
    """

    reference: Sequence[Sequence[float]]
    level: float = DRIFT_LEVEL
    window: int = DRIFT_WINDOW
    has_drifted: bool = False
    _num_seen: int = 0
    _seen: list[tuple[float, ...]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, statistics: tuple[float, ...]) -> None:
        """Takes a problem of the stream. Warns once if its window has another distribution."""
        chances: list[float] = []
        with self._lock:
            if self.has_drifted:
                return
            self._seen.append(statistics)
            del self._seen[: -(self.window << DRIFT_SIZES - 1)]
            self._num_seen += 1
            for power in range(DRIFT_SIZES):
                number, rest = divmod(self._num_seen, self.window << power)
                if rest or self.has_drifted:
                    break
                level = self.level / DRIFT_SIZES * 6 / (math.pi * number) ** 2 / len(self.reference)
                columns = zip(*self._seen[-(self.window << power) :], strict=True)
                chances = [compare_samples(old, new) for old, new in zip(self.reference, columns, strict=True)]
                self.has_drifted = min(chances) < level
            if not self.has_drifted:
                return
            name = STATISTICS[int(np.argmin(chances))]
            _log.warning(
                "these problems are not like those that the certificate was counted on: %s differs (chance %.1e); "
                "from now on every candidate is scored in full; make exits of such problems by `codescaler fit-exits`",
                name,
                min(chances),
            )


def compare_samples(left: Sequence[float], right: Sequence[float]) -> float:
    """Returns a bound of the chance that two samples of one distribution lie as far apart as these.

    The distance is the largest between their distribution functions: 2 exp(-2 n m / (n + m) distance^2) is Smirnov's
    limit of the chance, from above. Source: Smirnov 1939.
    """
    both = np.concatenate([left, right])
    above = [np.searchsorted(np.sort(part), both, side="right") / len(part) for part in (left, right)]
    distance = float(np.abs(above[0] - above[1]).max())
    return min(1.0, 2 * math.exp(-2 * len(left) * len(right) / len(both) * distance**2))
