"""fp8 weights: how a linear layer's are made. Four bits of exponent and three of mantissa (e4m3), no infinity."""

import torch

from codescaler.ops.reference import LARGEST_FP8


def quantize_weight_to_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a weight's nearest fp8 multiples of a scale for each row: w = scale * q, scale = max |w| / 448.

    Shapes: [O, I] -> [O, I], [O, 1]. Dtypes: float8_e4m3fn, float32. A row of zeros has scale 1.
    """
    wide = weight.float()
    size = wide.abs().amax(dim=1, keepdim=True)
    scale = torch.where(size < 2.0**-100, 1.0, size / LARGEST_FP8)
    return (wide / scale).clamp(-LARGEST_FP8, LARGEST_FP8).to(torch.float8_e4m3fn), scale
