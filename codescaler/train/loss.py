"""The losses: Bradley-Terry's as users call it (checked arguments, the device's native operation), and a teacher's."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from codescaler.errors import InvalidInput
from codescaler.ops import select_backend
from codescaler.ops.autograd import make_differentiable


def bradley_terry_loss(
    scores: Tensor,
    labels: Tensor | Sequence[bool],
    group_offsets: Tensor | Sequence[int],
    margins: Tensor | Sequence[float] | None = None,
    center_coefficient: float = 0.0,
) -> Tensor:
    """Mean over groups of the mean over their correct/incorrect pairs of -logsigmoid(s_i - s_j - margin) + c (s_i +
    s_j)^2.

    A group without a pair counts for nothing; without any pair the loss is 0. On groups of one pair each it is the loss
    of TRL's `RewardTrainer`.

    Args:
        scores: [B], float32 or float64; the loss is differentiable by them. bfloat16 and float16 are widened.
        labels: [B], bool: whether each is correct.
        group_offsets: [G + 1], whole numbers: group g is scores[group_offsets[g]:group_offsets[g + 1]].
        margins: [G] by how much a correct one should score above an incorrect one, None for 0.
        center_coefficient: c, which keeps scores around 0.

    Returns: a scalar in the dtype of the (widened) scores.

    Raises:
        InvalidInput: shapes or dtypes are not these, or the offsets do not rise from 0 to B.
    """
    if not isinstance(scores, Tensor) or scores.ndim != 1 or not scores.is_floating_point():
        raise InvalidInput(f"scores is {_describe_tensor(scores)}; give a tensor [B] of floats")
    device = scores.device
    labels, offsets = torch.as_tensor(labels, device=device), torch.as_tensor(group_offsets, device=device)
    if labels.shape != scores.shape or labels.dtype != torch.bool:
        raise InvalidInput(f"labels is {_describe_tensor(labels)}; give a bool for each of {len(scores)} scores")
    if offsets.ndim != 1 or offsets.is_floating_point() or offsets.dtype == torch.bool or not len(offsets):
        raise InvalidInput(f"group_offsets is {_describe_tensor(offsets)}; give whole numbers from 0 to {len(scores)}")
    bounds = offsets.tolist()
    if bounds[0] != 0 or bounds[-1] != len(scores) or bounds != sorted(bounds):
        raise InvalidInput(f"group_offsets is {bounds!s:.80}; give numbers that rise from 0 to {len(scores)}")
    if margins is not None:
        margins = torch.as_tensor(margins, dtype=torch.float32, device=device)
        if margins.shape != (len(bounds) - 1,):
            raise InvalidInput(f"margins is {_describe_tensor(margins)}; give one for each of {len(bounds) - 1} groups")
    operations = make_differentiable(select_backend("auto", device.type))
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    loss, _ = operations.pairwise_loss(wide.contiguous(), labels, offsets.long(), margins, float(center_coefficient))
    return loss


def margin_mse_loss(scores: Tensor, targets: Tensor, group_offsets: Sequence[int]) -> Tensor:
    """Mean over groups of the mean over their pairs of ((s_i - s_j) - (t_i - t_j))^2; t are a teacher's scores.

    Only differences within a group count, as for a ranking. The mean over pairs is twice the unbiased variance of
    s - t. A group of one counts for nothing; without any pair the loss is 0.
    Shapes: scores, targets [B]; group g is scores[group_offsets[g]:group_offsets[g + 1]] -> [].
    Source: Hofstaetter et al. 2020, arXiv:2010.02666, equation 7, over all pairs instead of (correct, incorrect) ones.
    """
    differences = (scores - targets).split([end - start for start, end in itertools.pairwise(group_offsets)])
    losses = [2 * group.var() for group in differences if len(group) > 1]
    return torch.stack(losses).mean() if losses else scores.sum() * 0.0


def exit_loss(exit_scores: Tensor, scores: Tensor, group_offsets: Sequence[int], depths: Sequence[float]) -> Tensor:
    """Mean over exits of depth * margin_mse_loss(scores at the exit, scores). No gradient goes to `scores`.

    `depths` are the layers before each exit, as shares of all: an early exit knows less, and should bend less.
    Shapes: exit_scores [exits, B], scores [B] -> [].
    Source: Elhoushi et al. 2024, arXiv:2404.16710, whose exits have the head of the model and count by depth too.
    """
    targets = scores.detach()
    losses = [margin_mse_loss(early, targets, group_offsets) for early in exit_scores]
    return torch.stack([loss * depth for loss, depth in zip(losses, depths, strict=True)]).mean()


def _describe_tensor(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
