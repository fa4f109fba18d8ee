"""int8 linear layers on CPUs: our own product, on weights in the layout of one instruction set."""

import torch
from torch import Tensor

from codescaler import _C
from codescaler.ops.linear import LinearWeights
from codescaler.types import QuantScheme


class Int8Linear:
    """A packed int8 weight, its rows' scales and its bias, float32; inputs are quantised while they are packed."""

    def __init__(self, kernels: _C.KernelSet, weights: LinearWeights, scheme: QuantScheme) -> None:
        num_outputs, num_inputs = weights.weight.shape
        self.weight = torch.empty(kernels.packed_int8_bytes(num_outputs, num_inputs, scheme.bits), dtype=torch.int8)
        kernels.pack_int8_linear(weights.weight.contiguous(), scheme.bits, self.weight, torch.get_num_threads())
        self.kernels, self.scheme = kernels, scheme
        self.scale, self.bias = weights.row_scale, weights.bias

    def __call__(self, x: Tensor) -> Tensor:
        y = x.new_empty(len(x), len(self.scale))
        bits, has_hadamard = self.scheme.bits, self.scheme.has_hadamard
        self.kernels.int8_linear(x, self.weight, self.scale, self.bias, bits, has_hadamard, y, torch.get_num_threads())
        return y
