"""The `triton` backend: our Triton kernels, and matrix products by torch (cuBLAS or hipBLASLt on a GPU).

Every operation is defined by the function of the same name in `ops.reference`; arguments, shapes and results are the
same. Nothing here waits for the device. With TRITON_INTERPRET=1 the kernels run in Triton's interpreter, on the CPU.
"""

import torch

from codescaler import kernels
from codescaler.errors import BackendUnavailable
from codescaler.kernels import configurations, glu, pairwise_loss, pooled_score, qk_norm_rope, rms_norm, tree_attention
from codescaler.kernels.configurations import AttentionConfiguration
from codescaler.ops import reference
from codescaler.ops.backend import Backend, Heads, Tree
from codescaler.types import Activation, Rounding

Tensor = torch.Tensor


def make_backend(tile: AttentionConfiguration | None = None) -> Backend:
    """Returns the backend for the current device's architecture; attention takes `tile`, by default the table's."""
    architecture = kernels.architecture()
    operations = TritonOperations(architecture, tile)
    return Backend(
        name="triton",
        description=f"Triton {kernels.VERSION}, {architecture}, torch's linear",
        has_bf16_unit=architecture != "interpreter",
        copies_weights=False,
        token_block=None,
        pack_linear=operations.pack_linear,
        pack_int8_linear=pack_int8_linear,
        linear=reference.linear,
        rms_norm=operations.rms_norm,
        qk_norm_rope=operations.qk_norm_rope,
        glu=operations.glu,
        tree_attention=operations.tree_attention,
        pooled_score=operations.pooled_score,
        pairwise_loss=operations.pairwise_loss,
        gradients=reference.GRADIENTS,  # PyTorch's own, as long as there is no kernel of ours for them
    )


def pack_int8_linear(weight: Tensor, scale: Tensor, bias: Tensor | None, rounding: Rounding) -> None:
    """There is no such kernel yet.

    Raises: BackendUnavailable.
    """
    raise BackendUnavailable(
        "backend 'triton' has no int8 linear map yet; use device='cpu', or the model as it was before quantisation"
    )


class TritonOperations:
    """The operations, with the configurations of one architecture."""

    def __init__(self, architecture: str, tile: AttentionConfiguration | None = None) -> None:
        self.architecture = architecture
        self.tile = tile

    def pack_linear(self, weight: Tensor, bias: Tensor | None) -> reference.Linear:
        """Keeps the weight as it is.

        Raises:
            BackendUnavailable: the weight is bfloat16, which Triton's interpreter computes wrongly.
        """
        if self.architecture == "interpreter" and weight.dtype == torch.bfloat16:
            raise BackendUnavailable(
                "backend 'triton' cannot compute in bfloat16 in Triton's interpreter, which gets it wrong; "
                "use dtype='float32', or unset TRITON_INTERPRET on a machine with a GPU"
            )
        return reference.Linear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor:
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        rms_norm.rms_norm(x, weight, eps, residual, y)
        return y

    def qk_norm_rope(
        self,
        qkv: Tensor,
        heads: Heads,
        positions: Tensor,
        cos: Tensor,
        sin: Tensor,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        eps: float = 0.0,
    ) -> None:
        shape = (heads.num_heads, heads.num_kv_heads, heads.head_dim)
        qk_norm_rope.qk_norm_rope(qkv, *shape, positions, cos, sin, q_norm, k_norm, eps)

    def glu(self, gate_up: Tensor, activation: Activation) -> Tensor:
        y = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        glu.glu(gate_up, y, is_gelu=activation == "gelu_tanh")
        return y

    def tree_attention(
        self,
        qkv: Tensor,
        heads: Heads,
        tree: Tree,
        queries: Tensor,
        scale: float,
        softcap: float | None = None,
        window: int | None = None,
    ) -> Tensor:
        group = heads.num_heads // heads.num_kv_heads
        if heads.head_dim > configurations.WIDEST_HEAD:
            raise BackendUnavailable(
                f"backend 'triton' has attention heads of at most {configurations.WIDEST_HEAD}, this model's have "
                f"{heads.head_dim}; use backend='reference'"
            )
        tile = self.tile or configurations.attention_tile(self.architecture, heads.head_dim, qkv.element_size(), group)
        if window is not None and window >= tree.num_positions:
            window = None  # it hides nothing, and without one the steps that every row sees need no mask
        tiles = tree.tiles(queries, tile.rows // group)
        out = qkv.new_empty(int(tree.host_queries(queries)[:, 2].sum()), heads.q_width)
        shape = (heads.num_heads, heads.num_kv_heads, heads.head_dim)
        tree_attention.tree_attention(
            qkv, *shape, tree.block_tokens, tree.node_blocks, tiles, scale, softcap, window, out, tile
        )
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
    ) -> tuple[Tensor, Tensor]:
        scores = scores.detach()
        gradient = torch.zeros_like(scores)
        loss = pairwise_loss.pairwise_loss(scores, labels, group_offsets, margins, center_coefficient, gradient)
        return loss.to(scores.dtype), gradient
