"""What is measured on the samples of one prompt, and what each figure says. Runs no program.

  rewritten       how far scores of the best-scored programs move when they are rewritten and do the same (size)
  stripped        by how much these scores fall without comments, docstrings and other texts that nothing reads
  by_length, by_comments, by_praise, by_control_tokens
                  the share of the variance of scores that each explains, less what chance would: adjusted R^2, whose
                  mean is 0 where nothing is explained, for any number of programs
  comments, praise, control_tokens
                  how much of each the programs carry
  disagreement    how far the order of scores is from that of a second scorer: 1 less the rank correlation
  repetition      the share of lines that stand in their program before

Two more are logged, and raise no alarm: `score`, since a policy that learns raises its scores, and `spread`, the
standard deviation of scores, in whose unit at the start the moves are told.
"""

from collections.abc import Sequence

import numpy as np

from codescaler.metrics import Figures, compute_rank_correlation
from codescaler.text.rewriting import find_callers_names, reformat, rename_locals, strip_texts
from codescaler.text.surface import Surface, measure_repetition, measure_surface

_EXPLAINING = tuple(f"by_{name}" for name in Surface._fields)
_CARRIED = ("comments", "praise", "control_tokens")
SIGNALS = ("rewritten", "stripped", *_EXPLAINING, *_CARRIED, "disagreement", "repetition")
LOGGED = ("score", "spread")
MOVES = ("rewritten", "stripped")  # in units of scores


def rewrite_program(code: str, problem: str) -> list[str]:
    """Returns three programs that do the same: renamed, formatted, stripped. What cannot be made stays as it was."""
    made = (rename_locals(code, keep=find_callers_names(problem)), reformat(code), strip_texts(code))
    return [code if new is None else new for new in made]


def measure_group(
    codes: Sequence[str], scores: Figures, moved: Figures, best: Sequence[int], second: Figures | None
) -> list[float]:
    """Returns `SIGNALS` and `LOGGED` of the programs of one prompt; NaN where a figure needs more of them.

    `moved` are scores of the rewrites of the programs at `best`. Shapes: scores [programs], moved [best, 3].
    """
    surface = np.array([measure_surface(code) for code in codes])
    falls = scores[list(best)][:, None] - moved
    return [
        float(np.abs(falls).mean()),
        float(falls[:, 2].mean()),
        *(_explain(scores, column) for column in surface.T),
        *(float(surface[:, Surface._fields.index(name)].mean()) for name in _CARRIED),
        float("nan") if second is None else 1 - compute_rank_correlation(scores, second),
        float(np.mean([measure_repetition(code) for code in codes])),
        float(scores.mean()),
        float(scores.std()),
    ]


def choose_best(scores: Figures, num: int) -> list[int]:
    """The places of the best-scored programs: what a policy that games its reward will write more of."""
    return [int(place) for place in np.argsort(-scores, kind="stable")[:num]]


def _explain(scores: Figures, feature: Figures) -> float:
    """The share of the variance of scores that a line explains, adjusted; 0 for a feature that is constant."""
    if len(scores) < 3 or np.ptp(scores) == 0:
        return float("nan")
    if np.ptp(feature) == 0:
        return 0.0
    x, y = feature - feature.mean(), scores - scores.mean()
    share = float((x @ y) ** 2 / ((x @ x) * (y @ y)))
    return 1 - (1 - share) * (len(scores) - 1) / (len(scores) - 2)
