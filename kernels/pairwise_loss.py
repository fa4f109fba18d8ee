"""Grouped Bradley-Terry loss and its gradient in one pass: one program a group, in float64.

A row of the gradient is summed by the program that owns it, so nothing is added up in an order left to chance.
"""

import torch
import triton.language as tl
from torch import Tensor

from .launch import Kernel

SCORES_AT_ONCE = 32  # of a group on each side of a tile of pairs


@Kernel
def pairwise_loss_kernel(
    scores,
    labels,
    group_offsets,
    pair_weights,
    margins,
    losses,
    gradient,
    center_coefficient: "fp64",  # noqa: F821
    num_scores,
    BLOCK: tl.constexpr,
    HAS_MARGINS: tl.constexpr,
    HAS_CENTER: tl.constexpr,
):
    group = tl.program_id(0).to(tl.int64)
    start, end = tl.load(group_offsets + group), tl.minimum(tl.load(group_offsets + group + 1), num_scores)
    weight = tl.load(pair_weights + group)
    margin = tl.load(margins + group).to(tl.float64) if HAS_MARGINS else 0.0
    lanes = tl.arange(0, BLOCK)
    loss = tl.zeros([BLOCK], tl.float64)
    for first in range(start, end, BLOCK):
        i = first + lanes
        score_i = tl.load(scores + i, i < end, 0.0).to(tl.float64)[:, None]
        is_correct = (tl.load(labels + i, i < end, 0) != 0)[:, None]
        slope = tl.zeros([BLOCK], tl.float64)
        for second in range(start, end, BLOCK):
            j = second + lanes
            score_j = tl.load(scores + j, j < end, 0.0).to(tl.float64)[None, :]
            is_pair = (
                (is_correct != (tl.load(labels + j, j < end, 0) != 0)[None, :])
                & (i < end)[:, None]
                & (j < end)[None, :]
            )
            sign = tl.where(is_correct, 1.0, -1.0).to(tl.float64)
            gap = sign * (score_i - score_j) - margin
            # softplus(-gap) = max(-gap, 0) + log1p(e) and sigmoid(-gap), without overflow; log1p after Kahan, since
            # log(1 + e) loses a small e.
            e = tl.exp(-tl.abs(gap))
            u = 1.0 + e
            pair_loss = tl.where(gap < 0.0, -gap, 0.0) + tl.where(u == 1.0, e, tl.log(u) * e / (u - 1.0 + (u == 1.0)))
            pair_slope = -sign * tl.where(gap < 0.0, 1.0, e) / u
            if HAS_CENTER:  # 0 times an infinite score would be NaN
                total = score_i + score_j
                pair_loss += center_coefficient * total * total
                pair_slope += 2.0 * center_coefficient * total
            loss += tl.sum(tl.where(is_pair & is_correct, pair_loss, 0.0), axis=1)
            slope += tl.sum(tl.where(is_pair, pair_slope, 0.0), axis=1)
        tl.store(gradient + i, tl.where(weight == 0.0, 0.0, slope * weight), i < end)
    tl.store(losses + group, tl.where(weight == 0.0, 0.0, tl.sum(loss, axis=0) * weight))


def pairwise_loss(
    scores_B: Tensor,
    labels_B: Tensor,
    group_offsets: Tensor,
    margins: Tensor | None,
    center_coefficient: float,
    gradient_B: Tensor,
) -> Tensor:
    """Returns the loss, and writes its gradient to `gradient`, which is 0 before.

    loss = mean over groups with a pair of mean over pairs (i correct, j incorrect) of
    -logsigmoid(s_i - s_j - margin) + c (s_i + s_j)^2.
    Dtypes: scores float32 or float64, gradient the same; labels bool, offsets int64, margins float32; loss float64.
    """
    num_groups = len(group_offsets) - 1
    losses = scores_B.new_zeros(num_groups, dtype=torch.float64)
    if num_groups == 0 or len(scores_B) == 0:
        return losses.sum()
    pairwise_loss_kernel[(num_groups,)](
        scores_B,
        labels_B,
        group_offsets,
        _compute_pair_weights(labels_B, group_offsets),
        margins,
        losses,
        gradient_B,
        center_coefficient,
        len(scores_B),
        BLOCK=SCORES_AT_ONCE,
        HAS_MARGINS=margins is not None,
        HAS_CENTER=center_coefficient != 0.0,
        num_warps=4,
    )
    return losses.sum()


def _compute_pair_weights(labels_B: Tensor, group_offsets: Tensor) -> Tensor:
    """1 / (pairs of the group * groups that have a pair), 0 for a group without; float64, on the device throughout."""
    rights = torch.nn.functional.pad(labels_B.long().cumsum(0), (1, 0))[group_offsets].diff()
    pairs = rights * (group_offsets.diff() - rights)
    return torch.where(pairs > 0, 1.0 / (pairs.double() * (pairs > 0).sum()), 0.0)
