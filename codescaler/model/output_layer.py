"""The output layer of a language model: from hidden states to the log-probability of given tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codescaler.ops import Backend, LinearWeights
from codescaler.ops.linear import PackedLinear

# Whole logits would take 300 kB a token. A block of them stays in a CPU's cache between the product and the sum.
TOKENS_AT_ONCE = 8192
ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class OutputLayer:
    """A row for each token of the vocabulary, in blocks of `TOKENS_AT_ONCE`. `softcap` bounds logits."""

    blocks: Sequence[PackedLinear]
    softcap: float | None

    def compute_log_probs(self, backend: Backend, x_UD: Tensor, rows_P: Tensor, targets_P: Tensor) -> Tensor:
        """Returns log softmax(x W^T) of `targets` in the rows that `rows` names. A row has the same bits in any batch.

        Shapes: x [U, D]; rows, targets [P] -> [P]. Dtypes: rows, targets int64; result float32.
        """
        log_probs_P = torch.empty(rows_P.shape, dtype=torch.float32, device=x_UD.device)
        for start in range(0, len(x_UD), ROWS_AT_ONCE):
            x = x_UD[start : start + ROWS_AT_ONCE]
            (at,) = torch.where((rows_P >= start) & (rows_P < start + len(x)))
            log_probs_P[at] = self._compute_block(backend, x, rows_P[at] - start, targets_P[at])
        return log_probs_P

    def _compute_block(self, backend: Backend, x_UD: Tensor, rows_P: Tensor, targets_P: Tensor) -> Tensor:
        running_U2 = torch.tensor([-torch.inf, 0.0], device=x_UD.device).repeat(len(x_UD), 1)
        logits_P = torch.zeros(rows_P.shape, dtype=torch.float32, device=x_UD.device)
        for first, block in zip(range(0, TOKENS_AT_ONCE * len(self.blocks), TOKENS_AT_ONCE), self.blocks, strict=True):
            logits_UV = backend.linear(x_UD, block)
            backend.log_sum_exp(logits_UV, running_U2, self.softcap)
            local_P = targets_P - first
            is_here = (local_P >= 0) & (local_P < logits_UV.shape[1])
            logits_P = torch.where(is_here, logits_UV[rows_P, local_P.where(is_here, 0)].float(), logits_P)
        if self.softcap is not None:
            logits_P = self.softcap * torch.tanh(logits_P / self.softcap)
        log_sums_U = running_U2[:, 0] + running_U2[:, 1].log()
        return logits_P - log_sums_U[rows_P]


def build_output_layer(
    weight_VD: Tensor, softcap: float | None, backend: Backend, dtype: torch.dtype, device: torch.device
) -> OutputLayer:
    """Converts and packs the weight, block by block."""

    def pack() -> Iterator[PackedLinear]:
        for block in weight_VD.split(TOKENS_AT_ONCE):
            yield backend.pack_linear(LinearWeights(block.to(device, dtype)))

    return OutputLayer(tuple(pack()), softcap)
