"""`TritonBackend`: each operation makes its results, and launches the Triton kernel of its name.

Nothing here waits for the device. With TRITON_INTERPRET=1 the kernels run in Triton's interpreter, on the CPU.
"""

import dataclasses
from functools import partial

import torch
from torch import Tensor

from codescaler import kernels
from codescaler.errors import BackendUnavailable
from codescaler.kernels import (
    configurations,
    expert_mlp,
    glu,
    log_sum_exp,
    pairwise_loss,
    pooled_score,
    qk_norm_rope,
    rms_norm,
    route,
    tree_attention,
    tree_attention_backward,
)
from codescaler.kernels.configurations import AttentionConfiguration
from codescaler.ops import reference
from codescaler.ops.backend import Backend
from codescaler.ops.linear import ExpertWeights, LinearWeights, PackedLinear, PlainFormat
from codescaler.ops.spec import AttentionSpec, Heads, RotaryTables, Routing
from codescaler.ops.tree import Tree
from codescaler.ops.triton.gradient_plan import plan_gradient
from codescaler.ops.triton.linear import DeterministicLinear, Fp8Linear, Int8Linear
from codescaler.types import Activation, Fp8Scheme, QuantScheme


def make_backend(tile: AttentionConfiguration | None = None, *, deterministic: bool = False) -> Backend:
    """Returns the backend for the current device's architecture.

    Attention takes `tile`, by default the table's. `deterministic`: linear layers are our own product, which gives a
    row the same bits in any batch, and not torch's.
    """
    return TritonBackend(kernels.get_architecture(), tile, deterministic=deterministic)


def has_fp8(architecture: str) -> bool:
    """Whether tensor cores multiply e4m3 numbers: from sm_89 on. The interpreter gets them wrong."""
    return architecture.startswith("sm_") and int(architecture.removeprefix("sm_")) >= 89


class TritonBackend(Backend):
    """The operations, with the configurations of one architecture."""

    name = "triton"

    def __init__(
        self, architecture: str, tile: AttentionConfiguration | None = None, *, deterministic: bool = False
    ) -> None:
        self.architecture = architecture
        self.tile = tile
        linear = "deterministic" if deterministic else "torch's"
        self.description = f"Triton {kernels.VERSION}, {architecture}, {linear} linear"
        self.has_bf16_unit = self.is_bf16_fast = architecture != "interpreter"
        self.pack_allowed = partial(DeterministicLinear, architecture) if deterministic else reference.pack_plain
        self.products = {PlainFormat: self._pack_plain, QuantScheme: partial(Int8Linear, architecture)}
        if has_fp8(architecture):
            self.products[Fp8Scheme] = partial(Fp8Linear, architecture)

    def _pack_plain(self, weights: LinearWeights, format: PlainFormat) -> PackedLinear:
        """Keeps the weight as it is.

        Raises:
            BackendUnavailable: the weight is bfloat16, which Triton's interpreter computes wrongly.
        """
        if self.architecture == "interpreter" and weights.weight.dtype == torch.bfloat16:
            raise BackendUnavailable(
                "backend 'triton' cannot compute in bfloat16 in Triton's interpreter, which gets it wrong; "
                "use dtype='float32', or unset TRITON_INTERPRET on a machine with a GPU"
            )
        return self.pack_allowed(weights, format)

    def linear_glu(self, x: Tensor, packed: PackedLinear, activation: Activation, /) -> Tensor:
        if isinstance(packed, DeterministicLinear):
            return packed.run_glu(x, activation)
        return super().linear_glu(x, packed, activation)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None, /) -> Tensor:
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        rms_norm.rms_norm(x, weight, eps, residual, y)
        return y

    def rms_norm_backward(
        self, z: Tensor, weight: Tensor, eps: float, grad_y: Tensor, grad_residual: Tensor | None = None, /
    ) -> tuple[Tensor, Tensor]:
        grad_z = torch.empty_like(z, memory_format=torch.contiguous_format)
        return grad_z, rms_norm.rms_norm_backward(z, weight, eps, grad_y, grad_residual, grad_z)

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
        qk_norm_rope.qk_norm_rope(qkv, heads, positions, rotary, q_norm, k_norm, eps)

    def qk_norm_rope_backward(
        self,
        before: Tensor | None,
        heads: Heads,
        positions: Tensor,
        rotary: RotaryTables,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        eps: float,
        grad: Tensor,
        /,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        grad_qkv = torch.empty_like(grad, memory_format=torch.contiguous_format)
        arguments = (before, heads, positions, rotary, q_norm, k_norm, eps, grad, grad_qkv)
        grad_norms = qk_norm_rope.qk_norm_rope_backward(*arguments)
        return (grad_qkv, None, None) if grad_norms is None else (grad_qkv, grad_norms[0], grad_norms[1])

    def glu(self, gate_up: Tensor, activation: Activation, /) -> Tensor:
        y = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        glu.glu(gate_up, y, is_gelu=activation == "gelu_tanh")
        return y

    def glu_backward(self, gate_up: Tensor, activation: Activation, grad_y: Tensor, /) -> Tensor:
        grad = torch.empty_like(gate_up, memory_format=torch.contiguous_format)
        glu.glu_backward(gate_up, grad_y, grad, is_gelu=activation == "gelu_tanh")
        return grad

    def log_sum_exp(self, logits: Tensor, running: Tensor, softcap: float | None = None, /) -> None:
        log_sum_exp.log_sum_exp(logits, running, softcap)

    def route(self, logits: Tensor, num_chosen: int, has_normalised_weights: bool, /) -> Routing:
        experts = logits.new_empty(len(logits), num_chosen, dtype=torch.int32)
        weights = logits.new_empty(len(logits), num_chosen)
        route.route(logits, experts, weights, is_normalised=has_normalised_weights)
        return Routing(experts, weights)

    def expert_mlp(self, x: Tensor, routing: Routing, packed: ExpertWeights, activation: Activation, /) -> Tensor:
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        tile = configurations.choose_expert_tile(self.architecture, x.element_size())
        expert_mlp.expert_mlp(x, *routing, *packed, y, tile, is_gelu=activation == "gelu_tanh")
        return y

    def tree_attention(self, qkv: Tensor, spec: AttentionSpec, tree: Tree, queries: Tensor, /) -> Tensor:
        return self._attend(qkv, spec, tree, queries, None)

    def attend_for_gradient(
        self, qkv: Tensor, spec: AttentionSpec, tree: Tree, queries: Tensor, /
    ) -> tuple[Tensor, Tensor]:
        heads, num_rows = spec.heads, tree.count_rows(queries)
        log_sums = qkv.new_empty(heads.num_kv_heads, num_rows, heads.group, dtype=torch.float32)
        return self._attend(qkv, spec, tree, queries, log_sums), log_sums

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
        out, log_sums = forward or self.attend_for_gradient(qkv, spec, tree, queries)
        heads = spec.heads
        tiles = configurations.choose_gradient_tiles(self.architecture, heads.head_dim, qkv.element_size(), heads.group)
        plan = plan_gradient(tree, queries, tiles.keys.key_step, tiles.keys.rows // heads.group)
        # Tokens that are no queries have no gradient as queries, and no tile either.
        make = torch.empty_like if queries is tree.all_queries else torch.zeros_like
        grad = make(qkv, memory_format=torch.contiguous_format)
        query_tiles, _ = tree.upload_tiles(queries, tiles.queries.rows // heads.group, tiles.queries.key_step)
        tree_attention_backward.tree_attention_backward(
            qkv,
            _drop_idle_window(spec, tree),
            tree,
            query_tiles,
            plan,
            out,
            log_sums,
            grad_out.contiguous(),
            grad,
            tiles.queries,
            tiles.keys,
        )
        return grad

    def _attend(self, qkv: Tensor, spec: AttentionSpec, tree: Tree, queries: Tensor, log_sums: Tensor | None) -> Tensor:
        heads = spec.heads
        if heads.head_dim > configurations.WIDEST_HEAD:
            raise BackendUnavailable(
                f"backend 'triton' has attention heads of at most {configurations.WIDEST_HEAD}, this model's have "
                f"{heads.head_dim}; use backend='reference'"
            )
        tile = self.tile or configurations.choose_attention_tile(
            self.architecture, heads.head_dim, qkv.element_size(), heads.group
        )
        tiles, steps = tree.upload_tiles(queries, tile.rows // heads.group, tile.key_step)
        out = qkv.new_empty(tree.count_rows(queries), heads.q_width)
        spec = _drop_idle_window(spec, tree)
        blocks = (tree.block_tokens, tree.node_blocks)
        tree_attention.tree_attention(qkv, spec, *blocks, steps, tiles, out, tile, log_sums)
        return out

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
        pooled_score.pooled_score(x, residual, rows, norm_weight, eps, head_weight, head_bias, features, scores)
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
        gradient = torch.zeros_like(scores)
        loss = pairwise_loss.pairwise_loss(scores, labels, group_offsets, margins, center_coefficient, gradient)
        return loss.to(scores.dtype), gradient


def _drop_idle_window(spec: AttentionSpec, tree: Tree) -> AttentionSpec:
    """Without a window that hides nothing, the steps that every row sees need no mask."""
    is_idle = spec.window is not None and spec.window >= tree.num_positions
    return dataclasses.replace(spec, window=None) if is_idle else spec
