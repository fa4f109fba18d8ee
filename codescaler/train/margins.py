"""Margins of an adaptive ranking: chosen on some problems, counted once on others. Knows scores, and no model.

Margins have to let almost no problem differ, which is rarer than what a few hundred problems can show. So the tail of
"how far behind a candidate is that has to stay" is continued above its 80% quantile. A margin is where the tail leaves
the chance of a miss that lets the count pass in 9 of 10 cases, if the tail is right. Of all sets of exits, the one with
the least work on the problems at hand is taken. None of this has to be right for the certificate to hold: the count
decides.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product

import numpy as np

from codescaler.engine.certificate import Certificate, describe_problem
from codescaler.engine.exits import DROPPED, Bools, Rule, find_first_scores, simulate
from codescaler.engine.scheduler import Float32
from codescaler.metrics import Figures, compute_upper_bound, count_misses_allowed, count_required, find_share
from codescaler.text.token_ids import Int32, measure_common_prefix
from codescaler.types import Promise

TAIL = 0.2
# Of a tail: a few dozen gaps may suggest others. In 36 splits of 474 problems of MBPP, 12 for each of three models, a
# count of 299 at 1% passed 30 times with -0.1, 23 times with -0.2, and 33 times with 0, which saves less.
_SHAPES = (-0.1, 0.3)
PASS_CHANCES = (0.9,)  # of the count; of several settings, these lie between the ends
MIN_CHOSEN = 50  # problems to fit heads and to choose margins on
_MOST_COUNTED = 0.6  # share of the problems: those that are left have to do for heads and margins
_ENDS = (0.5, 0.95)


@dataclass(frozen=True)
class ScoredProblem:
    """One problem's candidates, in the order of their tokens.

    Attributes:
        values: scores at each stage, then the model's. Shape: [N, stages + 1].
        lengths: tokens of each. shared: how many of them the one before has too.
    """

    values: Float32
    lengths: tuple[int, ...]
    shared: tuple[int, ...]

    @staticmethod
    def of(values: Float32, sequences: Sequence[Int32]) -> "ScoredProblem":
        order = sorted(range(len(sequences)), key=lambda index: sequences[index].astype(">i4").tobytes())
        ordered = [sequences[index] for index in order]
        shared = (0, *map(measure_common_prefix, ordered, ordered[1:]))
        return ScoredProblem(values[order], tuple(map(len, ordered)), shared)

    def count_tokens(self, is_kept: Bools) -> int:
        """Returns the distinct tokens of some candidates."""
        total, common = 0, 0
        for length, shared, kept in zip(self.lengths, self.shared, is_kept, strict=True):
            common = min(common, shared)
            if kept:
                total, common = total + length - common, length
        return total


@dataclass(frozen=True)
class Work:
    """What stages cost: a token's cost in the model from one stage to the next, and in what scores the first stage.

    `per_stage` has one entry a stage and one for what follows the last. All of the model is 1.
    """

    per_stage: tuple[float, ...]
    before: float = 0.0

    @staticmethod
    def of_exits(layers: Sequence[int], num_layers: int) -> "Work":
        """Every layer costs the same."""
        ends = (0, *layers, num_layers)
        return Work(tuple((end - start) / num_layers for start, end in pairwise(ends)))

    @staticmethod
    def of_cascade(share: float) -> "Work":
        """`share` is the small model's cost of a token."""
        return Work((0.0, 1.0), share)

    def measure(self, problem: ScoredProblem, rule: Rule) -> float:
        """Returns the cost of a problem's ranking as a share of that of all scores."""
        left = simulate(problem.values, rule)
        every = problem.count_tokens(np.ones(len(left), np.bool_))
        costs = [problem.count_tokens(left[:, k] != DROPPED) * cost for k, cost in enumerate(self.per_stage)]
        return self.before + sum(costs) / every


def is_missed(problem: ScoredProblem, rule: Rule, promise: Promise = "first") -> bool:
    """Says whether the rule changes the first `top_k` scores, by a bit, or drops a better candidate than one it keeps.

    The second is what "order" promises. Then the first score is the same, too.
    """
    values, left = problem.values, simulate(problem.values, rule)
    if promise == "first":
        return find_first_scores(left, rule.top_k) != find_first_scores(values, rule.top_k)
    last, is_dropped = values[:, -1], left[:, -1] == DROPPED
    return bool(is_dropped.any()) and not last[is_dropped].max() <= last[~is_dropped].min()  # NaN is a miss


def choose_rule(
    problems: Sequence[ScoredProblem], work: Work, miss_chance: float, top_k: int = 1, promise: Promise = "first"
) -> Rule:
    """Returns the rule with the least work among those that miss about so often by the tails of these problems."""
    measure = _measure_order_gaps if promise == "order" else partial(_measure_gaps, top_k=top_k)
    gaps = np.stack([measure(problem.values) for problem in problems])
    num_stages = gaps.shape[1]
    rules = []
    for is_used in product((True, False), repeat=num_stages):
        chance = miss_chance / max(sum(is_used), 1)
        margins = [continue_tail(gaps[:, stage], chance) if used else math.inf for stage, used in enumerate(is_used)]
        rules.append(Rule(tuple(margins), top_k))
    return min(rules, key=lambda rule: float(np.mean([work.measure(problem, rule) for problem in problems])))


def continue_tail(gaps: Figures, chance: float) -> float:
    """Returns the gap that is exceeded with this chance, and at least what the problems at hand show.

    Gaps above a quantile are taken for generalised Pareto, fitted by mean and variance.
    Source: Hosking and Wallis 1987.
    """
    start = float(np.quantile(gaps, 1 - TAIL))
    above = gaps[gaps > start] - start
    if len(above) < 2 or not above.var():
        return float(gaps.max())
    ratio = float(above.mean() ** 2 / above.var())
    shape, scale = float(np.clip((1 - ratio) / 2, *_SHAPES)), float(above.mean()) * (1 + ratio) / 2
    times = max(len(above) / len(gaps) / chance, 1.0)
    length = math.log(times) if abs(shape) < 1e-3 else (times**shape - 1) / shape
    return max(float(np.quantile(gaps, max(0.0, 1 - chance))), start + scale * length)


def choose_num_counted(num_problems: int, at_most: float, confidence: float) -> int:
    """Returns how many problems to count.

    These are half of them, or up to 60% where that allows one miss more, which allows smaller margins. They are fewer
    where else fewer than MIN_CHOSEN were left to choose on, and never fewer than the promise needs without a miss.
    """
    rest = num_problems - MIN_CHOSEN
    least = max(count_required(at_most, confidence), min(math.ceil(num_problems / 2), rest))
    sizes = range(least, min(int(_MOST_COUNTED * num_problems), rest) + 1)
    wanted = count_misses_allowed(least, at_most, confidence) + 1
    place = bisect_left(sizes, True, key=lambda size: compute_upper_bound(wanted, size, confidence) <= at_most)
    return sizes[place] if place < len(sizes) else least


def choose_miss_chances(num_counted: int, at_most: float, confidence: float, num_settings: int) -> list[float]:
    """Returns how often each setting may miss, so that the count of it passes with the chances that are wished for."""
    allowed = count_misses_allowed(num_counted, at_most, share_confidence(confidence, num_settings))
    chances = PASS_CHANCES if num_settings == 1 else np.linspace(*_ENDS, num_settings).tolist()
    return [find_share(max(allowed, 0), num_counted, chance) for chance in chances]


def share_confidence(confidence: float, num_settings: int) -> float:
    """Returns the confidence that each of several counts needs, so that all hold at once (Bonferroni)."""
    return 1 - (1 - confidence) / num_settings


def certify(
    problems: Sequence[ScoredProblem],
    rules: Sequence[Rule],
    work: Work,
    *,
    at_most: float,
    confidence: float,
    asked_first: bool,
    promise: Promise = "first",
) -> Certificate:
    """Counts on problems that no rule was chosen on, and returns the certificate of the rule with least work that keeps
    the promise; if none does, that of the rule with the lowest bound, which is above `at_most`.
    """
    each = share_confidence(confidence, len(rules))
    missed = [sum(is_missed(problem, rule, promise) for problem in problems) for rule in rules]
    bounds = [compute_upper_bound(count, len(problems), each) for count in missed]
    costs = [float(np.mean([work.measure(problem, rule) for problem in problems])) for rule in rules]
    best = min(range(len(rules)), key=lambda k: (bounds[k] > at_most, costs[k] if bounds[k] <= at_most else bounds[k]))
    sizes = [len(problem.lengths) for problem in problems]
    return Certificate(
        rule=rules[best],
        promise=promise,
        at_most=at_most,
        confidence=confidence,
        bound=bounds[best],
        num_counted=len(problems),
        num_missed=missed[best],
        num_settings=len(rules),
        num_candidates=(min(sizes), max(sizes)),
        asked_first=asked_first,
        reference=tuple(zip(*(describe_problem(problem.values) for problem in problems), strict=True)),
    )


def _measure_gaps(values: Float32, top_k: int) -> Figures:
    """Returns how far the first `top_k` by the last score fall behind the `top_k`-th best at each stage, at worst."""
    last, top_k = values[:, -1], min(top_k, len(values))
    gaps = []
    for early in values[:, :-1].T.astype(np.float64):
        first = np.lexsort((-early, -last))[:top_k]  # of equal scores any may stay
        gaps.append(max(0.0, float(np.sort(early)[-top_k] - early[first].min())))
    return np.array(gaps)


def _measure_order_gaps(values: Float32) -> Figures:
    """Returns how far behind the best at each stage, at worst, a candidate is that is better than one before it there.

    No larger margin drops it and keeps the other.
    """
    last = values[:, -1]
    is_better = last[:, None] > last
    gaps = []
    for early in values[:, :-1].T.astype(np.float64):
        is_passed_over = (is_better & (early[:, None] < early)).any(axis=1)
        gaps.append(float((early.max() - early[is_passed_over]).max(initial=0.0)))
    return np.array(gaps)
