"""Validity-preserving reward shaping. Knows numbers only: where scores and verdicts come from is not its business."""

import math

from codescaler.errors import InvalidInput


def shaped_reward(score: float, is_valid: bool) -> float:
    """The reward of one program: 0.0 if it is invalid, whatever its score; else softplus(score) = log(1 + e^score).

    Computed in float64 as max(score, 0) + log1p(e^-|score|), which neither overflows nor cancels. A valid program is
    above 0, and above every invalid one, down to a score of -745; below, the result is smaller than the smallest
    float64 and becomes 0.0, and a caller that rounds to float32 meets this at -103. Infinity stays infinity.

    Raises: InvalidInput if the score of a valid program is NaN.
    Source: CodeScaler, arXiv:2602.17684, validity-preserving reward shaping.
    """
    if not is_valid:
        return 0.0
    if math.isnan(score):
        raise InvalidInput("the score of a valid program is nan; look for non-finite weights or activations")
    return max(float(score), 0.0) + math.log1p(math.exp(-abs(score)))
