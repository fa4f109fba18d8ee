"""Linear layers of the `triton` backend by our own products, whose rows have the same bits in any batch."""

import torch
from torch import Tensor

from codescaler.kernels import configurations, count_processors, fp8_linear, int8_linear, linear
from codescaler.kernels.configurations import LinearConfiguration
from codescaler.ops import reference
from codescaler.ops.linear import LinearWeights, PlainFormat
from codescaler.types import ACTIVATION_BITS, HADAMARD_BLOCK, Activation, Fp8Scheme, QuantScheme

MOST_INT8_INPUTS = 2**16


class DeterministicLinear:
    """A plain weight as it is, and its bias; tiles are chosen by the number of rows, which changes no bits."""

    def __init__(self, architecture: str, weights: LinearWeights, _: PlainFormat) -> None:
        self.architecture = architecture
        self.weight, self.bias = weights.weight, weights.bias

    def __call__(self, x: Tensor) -> Tensor:
        y = x.new_empty(len(x), len(self.weight))
        linear.linear(x, self.weight, self.bias, y, self._choose(len(x)))
        return y

    def run_glu(self, x: Tensor, activation: Activation) -> Tensor:
        """Returns activation(gate) * up. Gate and up are rounded as a result is, so the bits are those of `glu`."""
        y = x.new_empty(len(x), len(self.weight) // 2)
        linear.linear(x, self.weight, self.bias, y, self._choose(len(x)), activation)
        return y

    def _choose(self, num_rows: int) -> LinearConfiguration:
        return _choose_tile(self.architecture, self.weight, num_rows)


class Int8Linear:
    """An int8 weight as it is, its rows' scales and its bias; the bits are the reference's."""

    def __init__(self, architecture: str, weights: LinearWeights, scheme: QuantScheme) -> None:
        self.architecture, self.scheme = architecture, scheme
        self.weight, self.scale, self.bias = weights.weight, weights.row_scale, weights.bias
        num_inputs = self.weight.shape[1]
        if num_inputs > MOST_INT8_INPUTS:
            raise ValueError(f"{num_inputs} inputs, more than {MOST_INT8_INPUTS} inputs; their sums leave 32 bits")
        if scheme.bits not in ACTIVATION_BITS:
            raise ValueError(f"activation_bits is {scheme.bits}, not 8 or 16")
        if scheme.has_hadamard and num_inputs % HADAMARD_BLOCK:
            raise ValueError(f"{num_inputs} inputs are no multiple of {HADAMARD_BLOCK}, in which they are transformed")
        self.sums = self.weight.sum(dim=1, dtype=torch.int32)
        self.num_steps = reference.count_int8_steps(num_inputs, scheme.bits)

    def __call__(self, x: Tensor) -> Tensor:
        y = x.new_empty(len(x), len(self.weight))
        tile = _choose_tile(self.architecture, self.weight, len(x))
        has_hadamard = self.scheme.has_hadamard
        int8_linear.int8_linear(
            x, self.weight, self.sums, self.scale, self.bias, y, self.num_steps, tile, has_hadamard=has_hadamard
        )
        return y


def _choose_tile(architecture: str, weight: Tensor, num_rows: int) -> LinearConfiguration:
    """The tile of the table; rows, which follow a batch, change no bits."""
    return configurations.choose_linear_configuration(
        architecture, weight.element_size(), num_rows, len(weight), count_processors()
    )


class Fp8Linear:
    """An fp8 weight as it is, its rows' scales and its bias."""

    def __init__(self, architecture: str, weights: LinearWeights, _: Fp8Scheme) -> None:
        self.architecture = architecture
        self.weight, self.scale, self.bias = weights.weight, weights.row_scale, weights.bias

    def __call__(self, x: Tensor) -> Tensor:
        y = x.new_empty(len(x), len(self.weight))
        tile = _choose_tile(self.architecture, self.weight, len(x))
        fp8_linear.fp8_linear(x, self.weight, self.scale, self.bias, y, tile)
        return y
