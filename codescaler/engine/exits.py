"""Exits: after some layers, candidates that lie far below the best of their problem go no further.

A candidate is scored at an exit by a linear head on its hidden state there. The rule takes these scores alone, which
have the same bits in any batch. So who survives does not depend on what else a forward computes, and neither does a
survivor's score. Knows no forward and no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from codescaler.engine.scheduler import Float32
from codescaler.errors import InvalidInput

Bools = npt.NDArray[np.bool_]
DROPPED = -np.inf  # in place of what was not computed


@dataclass(frozen=True)
class Rule:
    """Who goes on: a candidate within the margin of the `top_k`-th best at each exit. Infinity drops nobody."""

    margins: tuple[float, ...]
    top_k: int = 1

    def find_survivors(self, scores: Float32, stage: int) -> Bools:
        """Says which candidates of one problem go on after an exit. A score that is not finite goes on.

        `scores` are those at the exit, `DROPPED` of candidates that earlier exits have dropped.
        """
        computed: Bools = scores != DROPPED
        if not computed.any():
            return computed
        order = np.sort(-scores[computed].astype(np.float64))  # NaN is last
        limit = -order[min(self.top_k, len(order)) - 1]
        with np.errstate(invalid="ignore"):
            is_behind: Bools = limit - scores > self.margins[stage]
        return computed & ~is_behind


@dataclass(frozen=True, eq=False)
class Exits:
    """Where a forward stops on its way. `layers` are how many are done by then, in rising order.

    Attributes:
        heads: (weight, bias) of each exit's linear head; none to get features.
        rule: who goes on, None for all. Shapes: weight [1, D], bias [1].
    """

    layers: tuple[int, ...]
    heads: tuple[tuple[Tensor, Tensor], ...] = ()
    rule: Rule | None = None


def choose_layers(num_layers: int) -> tuple[int, ...]:
    """Returns an eighth, a quarter, a half and two thirds of the layers, as far as these differ."""
    parts = (num_layers // 8, num_layers // 4, num_layers // 2, 2 * num_layers // 3)
    return tuple(sorted({max(1, part) for part in parts} - {num_layers}))


def simulate(values: Float32, rule: Rule) -> Float32:
    """Returns what the rule would have left of the values of all candidates of one problem. Shape: [N, exits + 1]."""
    left = values.copy()
    for stage in range(len(rule.margins)):
        left[~rule.find_survivors(left[:, stage], stage), stage + 1 :] = DROPPED
    return left


def find_first_scores(values: Float32, top_k: int) -> list[float]:
    """Returns the `top_k` largest scores of a problem, best first; what was dropped is not among them."""
    return sorted(values[values[:, -1] != DROPPED, -1].tolist(), reverse=True)[:top_k]


def require_layers(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Returns the layers. Raises: InvalidInput if they do not rise, or are no layers before the last."""
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 1 or layers[-1] >= num_layers:
        raise InvalidInput(f"exits after layers {list(layers)}; give rising numbers from 1 to {num_layers - 1}")
    return tuple(layers)
