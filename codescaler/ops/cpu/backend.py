"""`CpuBackend`: each operation makes its results, and calls the C++ kernel of its name on one instruction set.

Threads are torch's: `torch.set_num_threads` governs our kernels and oneDNN's.
"""

from collections.abc import Iterable
from functools import partial

import torch  # before the extension: the order decides which OpenMP runtime both use
from torch import Tensor

from codescaler import _C
from codescaler.errors import BackendUnavailable
from codescaler.ops.backend import Backend
from codescaler.ops.cpu.expert_mlp import OneDnnExperts
from codescaler.ops.cpu.int8_linear import Int8Linear
from codescaler.ops.cpu.linear import OneDnnLinear, describe_linear
from codescaler.ops.cpu.memory import BlockPool
from codescaler.ops.linear import PlainFormat
from codescaler.ops.spec import AttentionSpec, Heads, RotaryTables, Routing
from codescaler.ops.tree import Tree
from codescaler.text.token_ids import Int32
from codescaler.types import Activation, QuantScheme

# So that the gate and up activations (512 x 6144 x 2 bytes at 0.6B shapes) stay in the last-level cache between two
# operations.
TOKEN_BLOCK = 512

_WEIGHT_ROWS = 64  # kWeightRows of csrc/core/kernels.h


def list_supported_isas() -> list[str]:
    """Instruction sets of the C++ kernels that this host can run, best first."""
    return _C.supported_isas()


def make_backend(isa: str | None = None) -> Backend:
    """Returns the backend on instruction set `isa`, by default the best that this host has.

    Raises:
        BackendUnavailable: the host lacks `isa`.
    """
    supported = list_supported_isas()
    isa = isa or supported[0]
    if isa not in supported:
        raise BackendUnavailable(f"instruction set {isa!r} is not supported by this CPU; it has {', '.join(supported)}")
    return CpuBackend(isa)


def _is_bf16_unit_fast() -> bool:
    """Whether instructions for bfloat16 are faster than those for float32. A fixed rule: bits do not depend on a clock.

    On an Intel without AMX they are slower: products of an Emerald Rapids reach 155 GFLOP/s on two cores, and 244 in
    float32, so that a forward of 0.6B takes 1.5 times as long.
    """
    return not _C.IS_INTEL or torch.cpu._is_amx_tile_supported()


class CpuBackend(Backend):
    """The operations on one instruction set."""

    name = "cpu"
    copies_weights = True
    token_block = TOKEN_BLOCK

    def __init__(self, isa: str) -> None:
        self.kernels, self.pool = _C.KernelSet(isa), BlockPool()
        threads = "" if _C.HAS_OPENMP else " on one thread (built without OpenMP)"
        self.description = f"C++ {isa}{threads}, {describe_linear()}"
        self.has_bf16_unit = isa in ("avx512_bf16", "neon_bf16")
        self.is_bf16_fast = self.has_bf16_unit and _is_bf16_unit_fast()
        self.products = {PlainFormat: OneDnnLinear, QuantScheme: partial(Int8Linear, self.kernels)}

    def allocate(self, like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return self.pool.allocate(shape, dtype or like.dtype)

    def pack_experts(self, gate_up: Iterable[Tensor], down: Iterable[Tensor], num_experts: int, /) -> OneDnnExperts:
        return OneDnnExperts(self.kernels, gate_up, down)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None, /) -> Tensor:
        y = self.allocate(x, *x.shape)
        self.kernels.rms_norm(x, weight, eps, residual, y, torch.get_num_threads())
        return y

    def rms_norm_backward(
        self, z: Tensor, weight: Tensor, eps: float, grad_y: Tensor, grad_residual: Tensor | None = None, /
    ) -> tuple[Tensor, Tensor]:
        grad_z = self.allocate(z, *z.shape)
        sums = z.new_empty(-(-len(z) // _WEIGHT_ROWS), z.shape[1])
        also = None if grad_residual is None else grad_residual.contiguous()
        threads = torch.get_num_threads()
        self.kernels.rms_norm_backward(z.contiguous(), weight, eps, grad_y.contiguous(), also, grad_z, sums, threads)
        return grad_z, sums.sum(dim=0)

    def qk_norm_rope(
        self,
        qkv: Tensor,
        heads: Heads,
        positions: Tensor,
        rotary: RotaryTables,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        eps: float = 0.0,
        /,
    ) -> None:
        self.kernels.qk_norm_rope(qkv, heads, positions, rotary, q_norm, k_norm, eps, torch.get_num_threads())

    def glu(self, gate_up: Tensor, activation: Activation, /) -> Tensor:
        y = self.allocate(gate_up, len(gate_up), gate_up.shape[1] // 2)
        self.kernels.glu(gate_up, activation == "gelu_tanh", y, torch.get_num_threads())
        return y

    def glu_backward(self, gate_up: Tensor, activation: Activation, grad_y: Tensor, /) -> Tensor:
        grad = self.allocate(gate_up, *gate_up.shape)
        is_gelu = activation == "gelu_tanh"
        self.kernels.glu_backward(gate_up.contiguous(), is_gelu, grad_y.contiguous(), grad, torch.get_num_threads())
        return grad

    def log_sum_exp(self, logits: Tensor, running: Tensor, softcap: float | None = None, /) -> None:
        self.kernels.log_sum_exp(logits, running, softcap or 0.0, torch.get_num_threads())

    def route(self, logits: Tensor, num_chosen: int, has_normalised_weights: bool, /) -> Routing:
        experts = logits.new_empty(len(logits), num_chosen, dtype=torch.int32)
        weights = logits.new_empty(len(logits), num_chosen)
        self.kernels.route(logits, has_normalised_weights, experts, weights, torch.get_num_threads())
        return Routing(experts, weights)

    def expert_mlp(self, x: Tensor, routing: Routing, packed: OneDnnExperts, activation: Activation, /) -> Tensor:
        return packed(x, routing, activation)

    def tree_attention(self, qkv: Tensor, spec: AttentionSpec, tree: Tree, queries: Tensor, /) -> Tensor:
        plan = _plan_attention(tree, queries, max(1, _C.TILE_ROWS // spec.heads.group))
        out = self.allocate(qkv, plan.num_rows, spec.heads.q_width)
        self.kernels.tree_attention(qkv, spec, plan, out, torch.get_num_threads())
        return out

    def tree_attention_backward(
        self,
        qkv: Tensor,
        spec: AttentionSpec,
        tree: Tree,
        queries: Tensor,
        grad_out: Tensor,
        forward: tuple[Tensor, Tensor] | None = None,
        /,
    ) -> Tensor:
        plan = _plan_attention(tree, queries, _C.TILE_ROWS)  # a query head at a time
        grad = self.allocate(qkv, *qkv.shape).zero_()
        self.kernels.tree_attention_backward(qkv, spec, plan, grad_out.contiguous(), grad, torch.get_num_threads())
        return grad

    def pooled_score(
        self,
        x: Tensor,
        residual: Tensor,
        rows: Tensor,
        norm_weight: Tensor,
        eps: float,
        head_weight: Tensor | None,
        head_bias: Tensor | None,
        /,
    ) -> tuple[Tensor, Tensor | None]:
        features = residual.new_empty(len(rows), residual.shape[1])
        scores = None if head_weight is None else residual.new_empty(len(rows))
        bias = 0.0 if head_bias is None else float(head_bias)
        self.kernels.pooled_score(
            x, residual, rows, norm_weight, eps, head_weight, bias, features, scores, torch.get_num_threads()
        )
        return features, scores

    def pairwise_loss(
        self,
        scores: Tensor,
        labels: Tensor,
        group_offsets: Tensor,
        margins: Tensor | None = None,
        center_coefficient: float = 0.0,
        /,
    ) -> tuple[Tensor, Tensor]:
        scores = scores.detach()
        gradient = torch.empty_like(scores)
        loss = _C.pairwise_loss(scores, labels, group_offsets, margins, center_coefficient, gradient)
        return scores.new_tensor(loss), gradient


def _plan_attention(tree: Tree, queries: Tensor, max_tokens: int) -> _C.AttentionPlan:
    """The tiles of `queries`, planned and checked at the first layer of a forward."""

    def make(runs: Int32) -> _C.AttentionPlan:
        tiles = torch.from_numpy(tree.batch.plan_tiles(runs, max_tokens, is_padded=False))
        return _C.AttentionPlan(tree.batch.num_keys, tree.block_tokens, tree.node_blocks, tiles)

    return tree.plan_once(queries, ("cpu", max_tokens), make)
