"""The `cpu` backend: C++ kernels of `codescaler._C`, and oneDNN matrix products through torch.

Every operation is defined by the function of the same name in `ops.reference`; arguments, shapes and results are
the same. Threads are torch's: `torch.set_num_threads` governs both halves.
"""

import functools
from typing import NamedTuple

import torch  # before the extension: the order decides which OpenMP runtime both use

from codescaler import _C
from codescaler.errors import BackendUnavailable
from codescaler.ops.backend import Backend, Gradients, Heads, Tree
from codescaler.types import Activation, Rounding

Tensor = torch.Tensor

# oneDNN picks other kernels for a few rows than for many, and those sum in another order (seen at M = 1, K = 3072
# and 4864); from this many rows on, every row count gives a row the same bits.
MIN_LINEAR_ROWS = 16

# So that the gate and up activations (512 x 6144 x 2 bytes at 0.6B shapes) stay in the last-level cache between two
# operations.
TOKEN_BLOCK = 512


def supported_isas() -> list[str]:
    """Instruction sets of the C++ kernels that this host can run, best first."""
    return _C.supported_isas()


def make_backend(isa: str | None = None) -> Backend:
    """Returns the backend on instruction set `isa`, by default the best that this host has.

    Raises:
        BackendUnavailable: the host lacks `isa`.
    """
    supported = supported_isas()
    isa = isa or supported[0]
    if isa not in supported:
        raise BackendUnavailable(f"instruction set {isa!r} is not supported by this CPU; it has {', '.join(supported)}")
    operations = CpuOperations(_C.KernelSet(isa))
    return Backend(
        name="cpu",
        description=f"C++ {isa}, {_describe_linear()}",
        has_bf16_unit=isa == "avx512_bf16",
        copies_weights=True,
        token_block=TOKEN_BLOCK,
        pack_linear=pack_linear,
        pack_int8_linear=operations.pack_int8_linear,
        linear=operations.linear,
        rms_norm=operations.rms_norm,
        qk_norm_rope=operations.qk_norm_rope,
        glu=operations.glu,
        tree_attention=operations.tree_attention,
        pooled_score=operations.pooled_score,
        pairwise_loss=pairwise_loss,
        gradients=Gradients(
            rms_norm_backward=operations.rms_norm_backward,
            glu_backward=operations.glu_backward,
            tree_attention_backward=operations.tree_attention_backward,
        ),
    )


@functools.cache  # on first use, not at import: it computes, so it belongs on the thread of the caller
def has_packed_linear(dtype: torch.dtype) -> bool:
    """Whether torch's private oneDNN calls are here, take this dtype on this CPU, and compute what they should."""
    try:
        x, weight = torch.ones(MIN_LINEAR_ROWS, 32, dtype=dtype), torch.ones(16, 32, dtype=dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        return bool((torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "") == 32.0).all())
    except (AttributeError, RuntimeError):
        return False


def _describe_linear() -> str:
    names = [str(t).removeprefix("torch.") for t in (torch.float32, torch.bfloat16) if has_packed_linear(t)]
    return f"packed oneDNN linear for {' and '.join(names)}" if names else "no packed linear"


_IS_GELU: dict[Activation, bool] = {"silu": False, "gelu_tanh": True}


class PackedLinear:
    """A copy of a linear map's weight, in oneDNN's own layout where torch's private calls are here, and its bias."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.is_packed = has_packed_linear(weight.dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.is_packed else weight.clone()
        self.bias = bias


class PackedInt8Linear(NamedTuple):
    """A linear map's int8 weight in the layout of one instruction set, its rows' scales and its bias, float32."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    rounding: Rounding


def pack_linear(weight: Tensor, bias: Tensor | None) -> PackedLinear:
    return PackedLinear(weight.contiguous(), bias)


def padded_rows(rows: int) -> int:
    """Returns the number of rows that a product of `rows` rows runs over.

    oneDNN compiles and keeps a kernel for every number of rows it meets, 0.6 MB each (AVX2, oneDNN of torch 2.13), and
    the heap in between is lost to larger results: 10,000 programs took 0.5 GB more at their end than at their start.
    So there are few numbers, further apart where a row more is a smaller share.
    """
    step = MIN_LINEAR_ROWS if rows <= 128 else 64 if rows <= 512 else 128
    return max(-(-rows // step) * step, MIN_LINEAR_ROWS)


def linear(x: Tensor, packed: PackedLinear) -> Tensor:
    rows = len(x)
    missing = padded_rows(rows) - rows
    if missing:
        x = torch.nn.functional.pad(x, (0, 0, 0, missing))
    if packed.is_packed:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed.weight, packed.bias, "none", [], "")
    else:
        y = torch.nn.functional.linear(x, packed.weight, packed.bias)
    return y[:rows]


class CpuOperations:
    """The operations that are our own C++, on one instruction set."""

    def __init__(self, kernels: _C.KernelSet) -> None:
        self.kernels = kernels

    def pack_int8_linear(
        self, weight: Tensor, scale: Tensor, bias: Tensor | None, rounding: Rounding
    ) -> PackedInt8Linear:
        num_bytes = self.kernels.packed_int8_bytes(len(weight), weight.shape[1], rounding.bits)
        packed = torch.empty(num_bytes, dtype=torch.int8)
        self.kernels.pack_int8_linear(weight.contiguous(), rounding.bits, packed, torch.get_num_threads())
        return PackedInt8Linear(packed, scale, bias, rounding)

    def linear(self, x: Tensor, packed: PackedLinear | PackedInt8Linear) -> Tensor:
        if isinstance(packed, PackedLinear):
            return linear(x, packed)
        y = x.new_empty(len(x), len(packed.scale))
        bits, is_rotated = packed.rounding
        self.kernels.int8_linear(
            x, packed.weight, packed.scale, packed.bias, bits, is_rotated, y, torch.get_num_threads()
        )
        return y

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor:
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        self.kernels.rms_norm(x, weight, eps, residual, y, torch.get_num_threads())
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
        self.kernels.qk_norm_rope(
            qkv,
            heads.num_heads,
            heads.num_kv_heads,
            heads.head_dim,
            positions,
            cos,
            sin,
            q_norm,
            k_norm,
            eps,
            torch.get_num_threads(),
        )

    def glu(self, gate_up: Tensor, activation: Activation) -> Tensor:
        y = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        self.kernels.glu(gate_up, _IS_GELU[activation], y, torch.get_num_threads())
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
        out = qkv.new_empty(int(queries[:, 2].sum()), heads.q_width)
        arguments = _attention_arguments(qkv, heads, tree, queries, scale, softcap, window)
        self.kernels.tree_attention(*arguments, out, torch.get_num_threads())
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
        bias = 0.0 if head_bias is None else float(head_bias)
        self.kernels.pooled_score(
            x, residual, rows, norm_weight, eps, head_weight, bias, features, scores, torch.get_num_threads()
        )
        return features, scores

    def rms_norm_backward(
        self, z: Tensor, weight: Tensor, eps: float, grad_y: Tensor, also_grad_z: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        grad_z = torch.empty_like(z, memory_format=torch.contiguous_format)
        sums = z.new_empty(-(-len(z) // _WEIGHT_ROWS), z.shape[1])
        self.kernels.rms_norm_backward(
            z.contiguous(),
            weight,
            eps,
            grad_y.contiguous(),
            None if also_grad_z is None else also_grad_z.contiguous(),
            grad_z,
            sums,
            torch.get_num_threads(),
        )
        return grad_z, sums.sum(dim=0)

    def glu_backward(self, gate_up: Tensor, activation: Activation, grad_y: Tensor) -> Tensor:
        grad = torch.empty_like(gate_up, memory_format=torch.contiguous_format)
        self.kernels.glu_backward(
            gate_up.contiguous(), _IS_GELU[activation], grad_y.contiguous(), grad, torch.get_num_threads()
        )
        return grad

    def tree_attention_backward(
        self,
        qkv: Tensor,
        heads: Heads,
        tree: Tree,
        queries: Tensor,
        scale: float,
        softcap: float | None,
        window: int | None,
        grad_out: Tensor,
    ) -> Tensor:
        grad_qkv = torch.zeros_like(qkv, memory_format=torch.contiguous_format)
        arguments = _attention_arguments(qkv, heads, tree, queries, scale, softcap, window)
        self.kernels.tree_attention_backward(*arguments, grad_out.contiguous(), grad_qkv, torch.get_num_threads())
        return grad_qkv


def _attention_arguments(
    qkv: Tensor, heads: Heads, tree: Tree, queries: Tensor, scale: float, softcap: float | None, window: int | None
) -> tuple[Tensor, int, int, int, Tensor, Tensor, Tensor, Tensor, Tensor, float, float, int]:
    """What attention's kernel and its gradient's are both given, in their order."""
    return (
        qkv,
        heads.num_heads,
        heads.num_kv_heads,
        heads.head_dim,
        tree.positions,
        tree.block_tokens,
        tree.node_block_offsets,
        tree.node_blocks,
        queries,
        scale,
        softcap or 0.0,
        window or 0,
    )


_WEIGHT_ROWS = 64  # kWeightRows of csrc/core/kernels.h


def pairwise_loss(
    scores: Tensor,
    labels: Tensor,
    group_offsets: Tensor,
    margins: Tensor | None = None,
    center_coefficient: float = 0.0,
) -> tuple[Tensor, Tensor]:
    scores = scores.detach()
    gradient = torch.empty_like(scores)
    loss = _C.pairwise_loss(scores, labels, group_offsets, margins, center_coefficient, gradient)
    return scores.new_tensor(loss), gradient
