"""Mixtures of experts on CPUs: tokens in the order of their experts, and an expert's products over all its tokens."""

from collections.abc import Iterable

import torch
from torch import Tensor

from codescaler import _C
from codescaler.ops.cpu.linear import MIN_LINEAR_ROWS, OneDnnLinear, pad_rows
from codescaler.ops.linear import PLAIN, LinearWeights
from codescaler.ops.spec import Routing
from codescaler.types import Activation

# Tokens that go through the experts at a time. All weights are read once for so many, and their C outputs each (134 MB
# in bfloat16 at C = 8, D = 2048) bound the memory.
TOKENS_AT_ONCE = 4096

# Up to so many rows, an expert's are padded to the next 16. Where 8 of 128 experts are chosen, 400 tokens make 25 rows
# an expert, and 2,802 make 175: `pad_rows` would add a fifth to them.
FEW_ROWS = 256


def pad_expert_rows(rows: int) -> int:
    """Returns the number of rows that an expert's products run over: `pad_rows`, but nearer to the few rows it sees."""
    return -(-rows // MIN_LINEAR_ROWS) * MIN_LINEAR_ROWS if rows <= FEW_ROWS else pad_rows(rows)


class OneDnnExperts:
    """Every expert's packed weights. A row's bits do not depend on the other rows of its expert, as in `OneDnnLinear`.

    Tokens are laid out by expert, and the rows of each are padded with copies of the first token.
    """

    def __init__(self, kernels: _C.KernelSet, gate_up: Iterable[Tensor], down: Iterable[Tensor]) -> None:
        self.kernels = kernels
        self.gate_up, self.down = ([OneDnnLinear(LinearWeights(w), PLAIN) for w in part] for part in (gate_up, down))

    def __call__(self, x: Tensor, routing: Routing, activation: Activation) -> Tensor:
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        blocks = (tensor.split(TOKENS_AT_ONCE) for tensor in (x, *routing, y))
        for x_block, experts, weights, y_block in zip(*blocks, strict=True):
            self._run_block(x_block, experts, weights, activation == "gelu_tanh", y_block)
        return y

    def _run_block(self, x: Tensor, experts: Tensor, weights: Tensor, is_gelu: bool, y: Tensor) -> None:
        threads = torch.get_num_threads()
        order = experts.flatten().sort(stable=True).indices
        counts = torch.bincount(experts.flatten(), minlength=len(self.down))
        sizes = [pad_expert_rows(count) if count else 0 for count in counts.tolist()]
        shifts = (torch.tensor(sizes) - counts).cumsum(0) - (torch.tensor(sizes) - counts)
        places = torch.arange(len(order)) + shifts.repeat_interleave(counts)
        tokens, rows = order.new_zeros(sum(sizes)), torch.empty_like(order)
        tokens[places], rows[order] = order // experts.shape[1], places
        outputs = x.new_empty(sum(sizes), x.shape[1])
        for expert, (ids, output) in enumerate(zip(tokens.split(sizes), outputs.split(sizes), strict=True)):
            if len(ids) == 0:
                continue
            gate_up = self.gate_up[expert].multiply(x.index_select(0, ids))
            hidden = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
            self.kernels.glu(gate_up, is_gelu, hidden, threads)
            output.copy_(self.down[expert].multiply(hidden))
        self.kernels.combine_experts(outputs, rows.view_as(experts), weights, y, threads)
