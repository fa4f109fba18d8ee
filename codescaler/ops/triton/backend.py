"""`TritonBackend`: each operation makes its results, and launches the Triton kernel of its name.

Nothing here waits for the device. With TRITON_INTERPRET=1 the kernels run in Triton's interpreter, on the CPU.
"""

import dataclasses
from functools import partial

import torch
from torch import Tensor

from codescaler import kernels
from codescaler.errors import BackendUnavailable
from codescaler.kernels import configurations, glu, pairwise_loss, pooled_score, qk_norm_rope, rms_norm, tree_attention
from codescaler.kernels.configurations import AttentionConfiguration
from codescaler.ops import reference
from codescaler.ops.backend import Backend
from codescaler.ops.linear import LinearWeights, PackedLinear, PlainFormat
from codescaler.ops.spec import AttentionSpec, Heads, RotaryTables
from codescaler.ops.tree import Tree
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

    # PyTorch's own, as long as there is no kernel of ours for them.
    rms_norm_backward = staticmethod(reference.rms_norm_backward)
    glu_backward = staticmethod(reference.glu_backward)
    tree_attention_backward = staticmethod(reference.tree_attention_backward)

    def __init__(
        self, architecture: str, tile: AttentionConfiguration | None = None, *, deterministic: bool = False
    ) -> None:
        self.architecture = architecture
        self.tile = tile
        linear = "deterministic" if deterministic else "torch's"
        self.description = f"Triton {kernels.VERSION}, {architecture}, {linear} linear"
        self.has_bf16_unit = architecture != "interpreter"
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

    def glu(self, gate_up: Tensor, activation: Activation, /) -> Tensor:
        y = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        glu.glu(gate_up, y, is_gelu=activation == "gelu_tanh")
        return y

    def tree_attention(self, qkv: Tensor, spec: AttentionSpec, tree: Tree, queries: Tensor, /) -> Tensor:
        heads = spec.heads
        if heads.head_dim > configurations.WIDEST_HEAD:
            raise BackendUnavailable(
                f"backend 'triton' has attention heads of at most {configurations.WIDEST_HEAD}, this model's have "
                f"{heads.head_dim}; use backend='reference'"
            )
        tile = self.tile or configurations.choose_attention_tile(
            self.architecture, heads.head_dim, qkv.element_size(), heads.group
        )
        if spec.window is not None and spec.window >= tree.num_positions:
            # It hides nothing, and without a window the steps that every row sees need no mask.
            spec = dataclasses.replace(spec, window=None)
        tiles = tree.upload_tiles(queries, tile.rows // heads.group)
        out = qkv.new_empty(int(tree.get_host_queries(queries)[:, 2].sum()), heads.q_width)
        tree_attention.tree_attention(qkv, spec, tree.block_tokens, tree.node_blocks, tiles, out, tile)
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
