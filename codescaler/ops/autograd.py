"""The operations with gradients: a `Backend` that training runs the same model code on.

Forward values are those of the backend underneath; each of our own operations is paired with its `<name>_backward`.
Linear layers keep plain weights, which an optimizer can change. Shape legend: `ops.backend`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from codescaler.ops import reference
from codescaler.ops.backend import Backend
from codescaler.ops.linear import LinearWeights, PlainFormat
from codescaler.ops.spec import AttentionSpec, Heads, RotaryTables
from codescaler.ops.tree import Tree
from codescaler.types import Activation

# Whether a GPU writes the float32 sums of a bfloat16 product as they are; releases of torch before 2.8 round them.
_HAS_WIDE_PRODUCT = "dtype" in torch.ops.aten.mm.overloads()


class TrainableLinear(torch.nn.Module):
    """A linear layer whose weight is kept as it is given, and multiplied in the dtype of what it multiplies.

    A weight of another dtype is cast in each forward, or once for all of them: see `hold_casts`. Nothing tells when a
    weight has changed: PyTorch's fused optimizers leave its version as it was.
    """

    def __init__(self, weights: LinearWeights, _: PlainFormat) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weights.weight)
        self.bias = None if weights.bias is None else torch.nn.Parameter(weights.bias)
        self.cast: Tensor | None = None  # the weight in another dtype, while it is held

    def forward(self, x: Tensor) -> Tensor:
        """Y = x W^T + b. Shapes: x [T, I] -> [T, O]. Dtypes: y as x."""
        if self.weight.dtype == x.dtype:
            return functional.linear(x, self.weight, self.bias)
        cast = self.cast
        if cast is None or cast.dtype != x.dtype:
            cast = self.weight.detach().to(x.dtype)
        y: Tensor = _apply(_CastLinear, x, self.weight, self.bias, cast)
        return y


@contextlib.contextmanager
def hold_casts(model: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Casts the weights of each `TrainableLinear` of `model` at once, for as long as they stay as they are."""
    linears = [module for module in model.modules() if isinstance(module, TrainableLinear)]
    linears = [linear for linear in linears if linear.weight.dtype != dtype]
    weights = [linear.weight.detach() for linear in linears]
    casts = [torch.empty_like(weight, dtype=dtype) for weight in weights]
    if casts:
        torch._foreach_copy_(casts, weights)  # a GPU does it in a few launches, where each weight would take one
    for linear, cast in zip(linears, casts, strict=True):
        linear.cast = cast
    try:
        yield
    finally:
        for linear in linears:
            linear.cast = None


def make_differentiable(backend: Backend) -> Backend:
    """Returns a backend whose operations record gradients; `pack_linear` gives a `TrainableLinear`."""
    return DifferentiableBackend(backend)


class DifferentiableBackend(Backend):
    """Another backend's operations, with gradients.

    In place means in place here too: the residual and qkv that an operation updates are its results.
    """

    products = {PlainFormat: TrainableLinear}  # noqa: RUF012
    token_block = None  # its slices of the residual could not be updated in place
    pooled_score = staticmethod(reference.pooled_score)  # a row a sequence: nothing to gain
    # Experts are not trained; `Checkpoint.require_trainable` says so.
    log_sum_exp = staticmethod(reference.log_sum_exp)
    route = staticmethod(reference.route)
    expert_mlp = staticmethod(reference.expert_mlp)

    def __init__(self, backend: Backend) -> None:
        self.backend, self.name = backend, backend.name
        self.description = f"{backend.description}, with gradients"
        self.has_bf16_unit, self.is_bf16_fast = backend.has_bf16_unit, backend.is_bf16_fast

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None, /) -> Tensor:
        if residual is None:
            y: Tensor = _apply(_RmsNorm, self.backend, x, weight, eps)
        else:
            y, _ = _apply(_AddRmsNorm, self.backend, x, weight, eps, residual)
        return y

    def rms_norm_backward(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        return self.backend.rms_norm_backward(*arguments)

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
        _apply(_QkNormRope, self.backend, qkv, heads, positions, rotary, q_norm, k_norm, eps)

    def glu(self, gate_up: Tensor, activation: Activation, /) -> Tensor:
        y: Tensor = _apply(_Glu, self.backend, gate_up, activation)
        return y

    def glu_backward(self, *arguments: Any) -> Tensor:
        return self.backend.glu_backward(*arguments)

    def tree_attention(self, qkv: Tensor, spec: AttentionSpec, tree: Tree, queries: Tensor, /) -> Tensor:
        out: Tensor = _apply(_TreeAttention, self.backend, qkv, spec, tree, queries)
        return out

    def tree_attention_backward(self, *arguments: Any) -> Tensor:
        return self.backend.tree_attention_backward(*arguments)

    def pairwise_loss(
        self,
        scores: Tensor,
        labels: Tensor,
        group_offsets: Tensor,
        margins: Tensor | None = None,
        center_coefficient: float = 0.0,
        /,
    ) -> tuple[Tensor, Tensor]:
        arguments = (labels, group_offsets, margins, center_coefficient)
        loss, gradient = _apply(_PairwiseLoss, self.backend, scores, *arguments)
        return loss, gradient


def _apply(function: Any, *arguments: Any) -> Any:
    return function.apply(*arguments)


class _CastLinear(Function):
    """Y = x W^T + b in the dtype of x, with gradients by weight and bias in that of the weights.

    On GPUs nobody rounds them to the dtype of x. A CPU has no such product: there that by the weight is rounded.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, cast: Tensor) -> Tensor:
        ctx.save_for_backward(x, cast)
        ctx.dtype = weight.dtype
        return functional.linear(x.detach(), cast, None if bias is None else bias.detach().to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        x, cast = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_x = grad_y @ cast if needs_x else None
        grad_weight = _multiply(grad_y.t(), x.detach(), ctx.dtype) if needs_weight else None
        return grad_x, grad_weight, grad_y.sum(dim=0, dtype=ctx.dtype) if needs_bias else None, None


def _multiply(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """A B in a wider dtype than that of a and b."""
    if a.is_cuda and _HAS_WIDE_PRODUCT and dtype == torch.float32:
        return torch.mm(a, b, out_dtype=dtype)
    return (a @ b).to(dtype)


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, backend: Backend, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.backend, ctx.eps = backend, eps
        ctx.save_for_backward(x, weight)
        return backend.rms_norm(x.detach(), weight.detach(), eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        z = x.detach().to(weight.dtype)
        grad_z, grad_weight = ctx.backend.rms_norm_backward(z, weight.detach(), ctx.eps, grad_y)
        return None, grad_z.to(x.dtype), grad_weight, None


class _AddRmsNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, backend: Backend, x: Tensor, weight: Tensor, eps: float, residual: Tensor
    ) -> tuple[Tensor, Tensor]:
        y = backend.rms_norm(x.detach(), weight.detach(), eps, residual.detach())
        ctx.backend, ctx.eps, ctx.x_dtype = backend, eps, x.dtype
        ctx.mark_dirty(residual)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(residual.clone(), weight)  # the next norm updates it in place
        return y, residual

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_residual: Tensor | None) -> Any:
        z, weight = ctx.saved_tensors
        if grad_y is None:
            grad_z, grad_weight = grad_residual, None
        else:
            grad_z, grad_weight = ctx.backend.rms_norm_backward(z, weight.detach(), ctx.eps, grad_y, grad_residual)
        return None, None if grad_z is None else grad_z.to(ctx.x_dtype), grad_weight, None, grad_z


class _QkNormRope(Function):
    @staticmethod
    def forward(
        ctx: Any,
        backend: Backend,
        qkv: Tensor,
        heads: Heads,
        positions: Tensor,
        rotary: RotaryTables,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        eps: float,
    ) -> Tensor:
        ctx.backend, ctx.heads, ctx.eps = backend, heads, eps
        before = qkv[:, : heads.q_width + heads.kv_width].clone() if q_norm is not None else None
        q_weight, k_weight = (None if weight is None else weight.detach() for weight in (q_norm, k_norm))
        backend.qk_norm_rope(qkv.detach(), heads, positions, rotary, q_weight, k_weight, eps)
        ctx.mark_dirty(qkv)
        ctx.save_for_backward(before, positions, *rotary, q_norm, k_norm)
        return qkv

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        before, positions, cos, sin, *norms = ctx.saved_tensors
        weights = (None if weight is None else weight.detach() for weight in norms)
        arguments = (ctx.heads, positions, RotaryTables(cos, sin), *weights, ctx.eps, grad)
        grad_qkv, *grad_norms = ctx.backend.qk_norm_rope_backward(before, *arguments)
        return None, grad_qkv, None, None, None, *grad_norms, None


class _Glu(Function):
    @staticmethod
    def forward(ctx: Any, backend: Backend, gate_up: Tensor, activation: Activation) -> Tensor:
        ctx.backend, ctx.activation = backend, activation
        ctx.save_for_backward(gate_up)
        return backend.glu(gate_up.detach(), activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        (gate_up,) = ctx.saved_tensors
        return None, ctx.backend.glu_backward(gate_up.detach(), ctx.activation, grad_y), None


class _TreeAttention(Function):
    @staticmethod
    def forward(ctx: Any, backend: Backend, qkv: Tensor, spec: AttentionSpec, tree: Tree, queries: Tensor) -> Tensor:
        ctx.backend, ctx.arguments = backend, (spec, tree, queries)
        out, more = backend.attend_for_gradient(qkv.detach(), spec, tree, queries)
        ctx.save_for_backward(qkv, *(() if more is None else (out, more)))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        qkv, *forward = ctx.saved_tensors
        arguments = (*ctx.arguments, grad_out, tuple(x.detach() for x in forward) or None)
        return None, ctx.backend.tree_attention_backward(qkv.detach(), *arguments), None, None, None


class _PairwiseLoss(Function):
    @staticmethod
    def forward(ctx: Any, backend: Backend, scores: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        loss, gradient = backend.pairwise_loss(scores.detach(), *arguments)
        ctx.mark_non_differentiable(gradient)
        ctx.save_for_backward(gradient)
        ctx.num_arguments = len(arguments)
        return loss, gradient

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return None, grad_loss * gradient, *(None for _ in range(ctx.num_arguments))
