"""Rotary position embedding tables, built in float32 in transformers' order of operations.

Tables computed in float64 are nearer to the formula and further from every trained model's scores: the angle
position * frequency is rounded, and at thousands of positions that rounding is visible.
"""

import functools
import math

import torch
from torch import Tensor

from codescaler.ops import RotaryTables
from codescaler.types import RopeConfig


def build_rope_tables(rope: RopeConfig, head_dim: int, num_positions: int, device: torch.device) -> RotaryTables:
    """Cosine and sine of position * frequency. Shapes: two of [num_positions, head_dim / 2], float32.

    Where only `rope.rotary_dims` turn, the tables end in pairs that do not.
    """
    positions = torch.arange(num_positions, device=device, dtype=torch.float32)
    dims = rope.rotary_dims or head_dim
    angles = torch.outer(positions, _upload_rope_frequencies(rope, dims, device))
    cos, sin = angles.cos(), angles.sin()
    if rope.table_scale != 1.0:
        cos, sin = cos * rope.table_scale, sin * rope.table_scale
    still = (head_dim - dims) // 2
    pad = torch.nn.functional.pad
    return RotaryTables(pad(cos, (0, still), value=1.0), pad(sin, (0, still))) if still else RotaryTables(cos, sin)


@functools.cache
def _upload_rope_frequencies(rope: RopeConfig, head_dim: int, device: torch.device) -> Tensor:
    """Kept on the device: a copy from the host in every forward would wait for it, and cannot be captured."""
    with torch.inference_mode(False):
        return compute_rope_frequencies(rope, head_dim).to(device)


def compute_rope_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """theta^(-2i / head_dim), rescaled as `rope.kind` says. Shape: [head_dim / 2], float32.

    "llama3": wavelengths longer than original_max_positions / low_freq_factor are stretched by `factor`, those
    shorter than original_max_positions / high_freq_factor are kept, those between are blended.
    "longrope": each has a divisor of its own.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float32) / head_dim
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind == "longrope":
        return 1.0 / (torch.tensor(rope.factors, dtype=torch.float32) * rope.theta**exponents)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        wavelengths = 2 * math.pi / frequencies
        low, high = rope.low_freq_factor, rope.high_freq_factor
        blend = (rope.original_max_positions / wavelengths - low) / (high - low)
        blended = (1 - blend) * frequencies / rope.factor + blend * frequencies
        stretched = torch.where(wavelengths > rope.original_max_positions / low, frequencies / rope.factor, frequencies)
        is_between = (wavelengths >= rope.original_max_positions / high) & (
            wavelengths <= rope.original_max_positions / low
        )
        return torch.where(is_between, blended, stretched)
    return frequencies
