"""Weights of 2, 4 or 8 bits, packed into words of 32: a way to store weights, not to compute with them.

A packed weight is expanded when it is read, and is then like any other. The format is compressed-tensors'
"pack-quantized" (0.20, `compressors/pack_quantized`) without zero points: a linear layer or an embedding has
`weight_packed` int32 [O, W], `weight_scale` [O, G] and `weight_shape` [2] in place of `weight` [O, I]. A word holds
32 / bits integers, the first in its lowest bits, each with 2^(bits - 1) added. A scale holds for I / G inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from codescaler.checkpoint.config import DTYPES
from codescaler.checkpoint.tensor_files import StoredTensor, TensorSource, require_scale
from codescaler.errors import HostileFile, MissingTensor, ShapeMismatch

_PACKED, _SCALE, _SHAPE = "weight_packed", "weight_scale", "weight_shape"


@dataclass(frozen=True)
class PackedWeight:
    """A weight [O, I] of integers and scales [O, G], expanded to the dtype of the scales when it is read."""

    packed: StoredTensor
    scale: StoredTensor
    shape: tuple[int, ...]
    bits: int

    @property
    def dtype(self) -> str:
        return self.scale.dtype

    @property
    def origin(self) -> str:
        return self.packed.origin

    def read(self) -> torch.Tensor:
        scale = require_scale(self.scale.read(), self.scale.origin).float()
        weight = scale_integers(unpack_integers(self.packed.read(), self.bits, self.shape[1]), scale)
        return weight.to(getattr(torch, self.dtype))


def scale_integers(integers: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Returns the weight that integers [O, I] and scales [O, G] stand for, float32 [O, I]."""
    weight = integers.to(torch.float32)
    weight.view(*scale.shape, -1).mul_(scale[:, :, None])
    return weight


def pack_integers(integers: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns int8 [O, I] of so many bits as int32 words [O, I * bits / 32]; I fills whole words."""
    biased = (integers.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8)
    parts = biased.view(len(biased), -1, 8 // bits) << torch.arange(0, 8, bits, dtype=torch.uint8)
    words: torch.Tensor = parts.sum(dim=2, dtype=torch.uint8).view(torch.int32)
    return words


def unpack_integers(packed: torch.Tensor, bits: int, num_columns: int) -> torch.Tensor:
    """Returns what `pack_integers` packed, int8 [O, num_columns]."""
    octets = packed.contiguous().view(torch.uint8)
    parts = (octets[:, :, None] >> torch.arange(0, 8, bits, dtype=torch.uint8)) & (2**bits - 1)
    biased: torch.Tensor = parts.view(torch.int8).view(len(octets), num_columns)
    return biased.sub_(2 ** (bits - 1))


def replace_packed(stored: Mapping[str, StoredTensor], bits: Mapping[str, int]) -> dict[str, TensorSource]:
    """Returns tensors by stored name, with one `weight` in place of each three of a packed one.

    `bits` are those of `ModelConfig.packed_bits`. Nothing but shapes is read.

    Raises: MissingTensor, ShapeMismatch: the three do not fit together, or not what config.json says.
    """
    tensors: dict[str, TensorSource] = dict(stored)
    for name in stored:
        at, _, kind = name.rpartition(".")
        kind_of_module = "Embedding" if at.endswith("embed_tokens") else "Linear"
        if kind != _PACKED or kind_of_module not in bits:
            continue
        scale, shape = tensors.pop(f"{at}.{_SCALE}", None), tensors.pop(f"{at}.{_SHAPE}", None)
        if scale is None or shape is None:
            raise MissingTensor(f"{stored[name].origin} has no {_SCALE} or no {_SHAPE} beside it; fetch it again.")
        if f"{at}.weight" in stored:
            raise HostileFile(f"{stored[name].origin} and {at}.weight mean the same tensor; remove one.")
        tensors[f"{at}.weight"] = _open_packed(stored[name], stored[f"{at}.{_SCALE}"], bits[kind_of_module])
        del tensors[name]
    return tensors


def _open_packed(packed: StoredTensor, scale: StoredTensor, bits: int) -> PackedWeight:
    """Checks that words and scales fit together, from their headers."""
    if len(packed.shape) != 2 or packed.dtype != "int32":
        raise ShapeMismatch(f"{packed.origin} is {packed.dtype} {packed.shape}; int32 [outputs, words] is wanted.")
    shape = (packed.shape[0], packed.shape[1] * 32 // bits)
    if len(scale.shape) != 2 or scale.shape[0] != shape[0] or not scale.shape[1] or shape[1] % scale.shape[1]:
        raise ShapeMismatch(f"{scale.origin} has shape {scale.shape}, which does not divide a weight of shape {shape}.")
    if scale.dtype not in DTYPES:
        raise ShapeMismatch(f"{scale.origin} is stored as {scale.dtype}; convert it to {', '.join(DTYPES)}.")
    return PackedWeight(packed, scale, shape, bits)
