"""Rounding of a weight to a few bits so that its products change least, not the weight itself.

GPTQ (arXiv 2210.17323): inputs are rounded one after the other, and what an input loses is made good by those that
are not rounded yet, as far as they move together on real inputs.
"""

import torch
from torch import Tensor

_DAMPING = 0.01  # of the mean second moment: inputs that were never seen to move do not blow up
_BLOCK = 128
# A group's scale is the best of these shares of the one that reaches its largest weight.
_SHARES = tuple(1.0 - step / 40 for step in range(21))


def choose_scales(weight: Tensor, moments: Tensor | None, bits: int, group_size: int) -> Tensor:
    """Returns a scale for each group of inputs: the one that loses least when all weights are rounded to the nearest.

    Shapes: weight [O, I]; moments [I, I] of the inputs, or None: all inputs alike; result [O, I / group_size].
    """
    most = 2.0 ** (bits - 1)
    groups = weight.unflatten(1, (-1, group_size))
    power = torch.ones_like(weight[0]) if moments is None else moments.diagonal()
    power = power.view(1, -1, group_size)
    size = groups.abs().amax(dim=2)
    reach = torch.where(size < 2.0**-100, most, size) / (most - 0.5)
    best, least = reach, torch.full_like(reach, torch.inf)
    for share in _SHARES:
        scale = (reach * share)[:, :, None]
        lost = (((groups / scale).round_().clamp_(-most, most - 1) * scale - groups).square_() * power).sum(dim=2)
        best, least = torch.where(lost < least, scale[:, :, 0], best), torch.minimum(least, lost)
    return best


def shrink_moments(moments: Tensor, num_tokens: int) -> Tensor:
    """Returns moments nearer to those of inputs that move alone, the fewer tokens there were for each input.

    Few tokens show common motion that is chance; rounding by it is worse than rounding to the nearest.
    """
    trust = num_tokens / (num_tokens + len(moments))
    return trust * moments + (1 - trust) * torch.diag(moments.diagonal())


def round_by_moments(weight: Tensor, scale: Tensor, moments: Tensor | None, bits: int) -> Tensor:
    """Returns integers q for which x @ (scale * q).T is near x @ weight.T, for inputs x with moments x.T @ x.

    Shapes: weight [O, I]; scale [O, G]; moments [I, I] or None: rounds to the nearest; result int8 [O, I].
    """
    most, (num_outputs, num_inputs) = 2 ** (bits - 1), weight.shape
    wide = scale.repeat_interleave(num_inputs // scale.shape[1], dim=1)
    if moments is None:
        return (weight / wide).round_().clamp_(-most, most - 1).to(torch.int8)
    least = max(_DAMPING * float(moments.diagonal().mean()), 1e-12)
    damped = moments.double() + least * torch.eye(num_inputs, dtype=torch.float64)
    # Row i of this factor says how the inputs after i make good what input i loses.
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True).float()
    left, integers = weight.clone(), torch.empty(num_outputs, num_inputs, dtype=torch.int8)
    for start in range(0, num_inputs, _BLOCK):
        block = slice(start, min(start + _BLOCK, num_inputs))
        lost = torch.empty_like(left[:, block])
        for column in range(block.start, block.stop):
            rounded = (left[:, column] / wide[:, column]).round_().clamp_(-most, most - 1)
            integers[:, column] = rounded.to(torch.int8)
            error = (left[:, column] - rounded * wide[:, column]) / factor[column, column]
            left[:, column : block.stop] -= error[:, None] * factor[column, column : block.stop]
            lost[:, column - start] = error
        left[:, block.stop :] -= lost @ factor[block, block.stop :]
    return integers
