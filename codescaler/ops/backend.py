"""The narrow waist between the model and the machine: one `Backend` per device family states every operation once.

Shape legend, here and in every operation:
    T packed tokens, B sequences, U distinct sequences, R query rows, D hidden, N query heads, K kv heads,
    H head dim, E = (N + 2K)H fused q|k|v width, F ffn, I and O input and output width of a linear layer,
    X experts, C experts that a token goes through, V tokens of the vocabulary.
Activations are float32 or bfloat16 (`triton`: float16 too; `reference`: any). The residual stream, norm
weights, RoPE tables and the head are float32: they are small, and rounding them is what makes bfloat16 scores tie.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from codescaler.ops.linear import PLAIN, ExpertWeights, LinearFormat, LinearWeights, PackedLinear, stack_experts
from codescaler.ops.spec import AttentionSpec, Heads, RotaryTables, Routing
from codescaler.ops.tree import Tree
from codescaler.types import Activation


class Backend(ABC):
    """The operations of one device family, each defined by the function of the same name in `ops.reference`.

    Chosen once by `ops.select_backend` and passed by argument. An operation's gradient is the method `<name>_backward`;
    `ops.autograd` joins the two. Arguments are positional, so that tensors may have shape suffixes in a backend.

    Attributes:
        name: what the user calls it. description: what runs underneath.
        has_bf16_unit: whether there are instructions for bfloat16, and for products of int8 with activations of 8 bits.
        is_bf16_fast: whether bfloat16 is faster than float32.
        copies_weights: whether packing copies a weight, so that its memory may be written over.
        token_block: how many tokens go through a layer's wide projections at a time, None for all.
        products: the class (or function) that packs the weights of each format that this backend computes.
    """

    name: str
    description: str
    has_bf16_unit: bool = False
    is_bf16_fast: bool = False
    copies_weights: bool = False
    token_block: int | None = None
    products: Mapping[type[LinearFormat], Callable[[LinearWeights, Any], PackedLinear]]

    @property
    def fastest_dtype(self) -> torch.dtype:
        """Of linear layers: bfloat16 where it is faster, else float32."""
        return torch.bfloat16 if self.is_bf16_fast else torch.float32

    def supports(self, format: LinearFormat) -> str | None:
        """Returns why this backend has no linear layers of a format, or None if it has them."""
        if type(format) in self.products:
            return None
        return (
            f"backend {self.name!r} has no {format.name} linear layers; use another device, backend='reference', which "
            "is slow, or the model before it was quantised"
        )

    def allocate(self, like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor with any content, on the device of another one, and of its dtype if none is given."""
        return like.new_empty(shape, dtype=dtype)

    def pack_linear(self, weights: LinearWeights, format: LinearFormat = PLAIN, /) -> PackedLinear:
        """Returns a linear layer for this backend's `linear` alone; the format is one that `supports` lets pass."""
        return self.products[type(format)](weights, format)

    def linear(self, x: Tensor, packed: PackedLinear, /) -> Tensor:
        """Multiplies by packed weights and adds the bias. Shapes: x [T, I] -> [T, O]."""
        return packed(x)

    def linear_glu(self, x: Tensor, packed: PackedLinear, activation: Activation, /) -> Tensor:
        """Multiplies by packed weights of gate and up, and activates. Shapes: x [T, I] -> [T, F].

        `glu` of `linear`, bit for bit, where a backend does both in one pass too.
        """
        return self.glu(self.linear(x, packed), activation)

    def pack_experts(self, gate_up: Iterable[Tensor], down: Iterable[Tensor], num_experts: int, /) -> Any:
        """Returns copies of all experts' weights, in their order, for this backend's `expert_mlp` alone.

        A weight may be written over when the next one is asked for. Shapes: each gate_up [2F, D], each down [D, F].
        """
        return ExpertWeights(stack_experts(gate_up, num_experts), stack_experts(down, num_experts))

    @abstractmethod
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None, /) -> Tensor:
        """Normalises x, or the residual after it has taken x, in place. Shapes: x, residual [T, D] -> [T, D]."""

    @abstractmethod
    def rms_norm_backward(
        self, z: Tensor, weight: Tensor, eps: float, grad_y: Tensor, grad_residual: Tensor | None = None, /
    ) -> tuple[Tensor, Tensor]:
        """Returns gradients by z = residual + x, plus `grad_residual`, and by the weight. Shapes: [T, D], [D]."""

    @abstractmethod
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
        """Normalises (where there are weights) and rotates query and key heads in place. Shapes: qkv [T, E]."""

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
        """Returns gradients by qkv and by the norms. Shapes: grad [T, E] -> [T, E], [H], [H].

        `before` holds the query and key heads as they were, and is None without norms. Made of other operations here: a
        rotation's gradient is the rotation back, and behind it stands a norm's, head by head.
        """
        grad = grad.clone(memory_format=torch.contiguous_format)
        self.qk_norm_rope(grad, heads, positions, rotary.invert())
        if before is None or q_norm is None or k_norm is None:
            return grad, None, None
        grad_norms = []
        q, k, _ = grad.split([heads.q_width, heads.kv_width, heads.kv_width], dim=1)
        z_q, z_k = before.split([heads.q_width, heads.kv_width], dim=1)
        for part, z, weight in ((q, z_q, q_norm), (k, z_k, k_norm)):
            z, grad_y = (x.reshape(-1, heads.head_dim) for x in (z, part))
            grad_z, grad_norm = self.rms_norm_backward(z.to(weight.dtype), weight, eps, grad_y)
            part.copy_(grad_z.view_as(part))
            grad_norms.append(grad_norm)
        return grad, grad_norms[0], grad_norms[1]

    @abstractmethod
    def glu(self, gate_up: Tensor, activation: Activation, /) -> Tensor:
        """Multiplies the activated gate and up. Shapes: [T, 2F], gate first -> [T, F]."""

    @abstractmethod
    def glu_backward(self, gate_up: Tensor, activation: Activation, grad_y: Tensor, /) -> Tensor:
        """Returns the gradient by gate_up. Shapes: grad_y [T, F] -> [T, 2F]."""

    @abstractmethod
    def log_sum_exp(self, logits: Tensor, running: Tensor, softcap: float | None = None, /) -> None:
        """Takes a block of logits into each row's running softmax, in place. Shapes: [U, V], running [U, 2]."""

    @abstractmethod
    def route(self, logits: Tensor, num_chosen: int, has_normalised_weights: bool, /) -> Routing:
        """Chooses each token's experts and weights them. Shapes: [T, X] -> [T, C]. Dtypes: logits float32."""

    @abstractmethod
    def expert_mlp(self, x: Tensor, routing: Routing, packed: Any, activation: Activation, /) -> Tensor:
        """Sums what a token's experts make of it, by weight, in the order of `routing`. Shapes: [T, D] -> [T, D]."""

    @abstractmethod
    def tree_attention(self, qkv: Tensor, spec: AttentionSpec, tree: Tree, queries: Tensor, /) -> Tensor:
        """Attends from each query token to its own path. Shapes: qkv [T, E] -> [R, N * H].

        `queries` are the tree's `all_queries` or `read_queries`.
        """

    def attend_for_gradient(
        self, qkv: Tensor, spec: AttentionSpec, tree: Tree, queries: Tensor, /
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the result of `tree_attention`, and what else this backend's gradient reads, None for nothing."""
        return self.tree_attention(qkv, spec, tree, queries), None

    @abstractmethod
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
        """Returns the gradient by qkv. Shapes: grad_out [R, N * H] -> [T, E].

        `forward` is what `attend_for_gradient` returned. Where it is not given, it is computed again if need be.
        """

    @abstractmethod
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
        """Pools rows of residual + x, normalises and scores. Shapes: [U, D] -> features [B, D], scores [B]."""

    @abstractmethod
    def pairwise_loss(
        self,
        scores: Tensor,
        labels: Tensor,
        group_offsets: Tensor,
        margins: Tensor | None = None,
        center_coefficient: float = 0.0,
        /,
    ) -> tuple[Tensor, Tensor]:
        """Returns the Bradley-Terry loss of groups and its gradient. Shapes: scores [B] -> [], [B]."""


def replace_operations(backend: Backend, **replacements: Any) -> Backend:
    """Returns a copy of `backend` with other operations or attributes, by name; `backend` itself stays as it is.

    For what measures one operation at a time. A replacement is called as the method is, without `self`.
    """
    changed = copy.copy(backend)
    for name, replacement in replacements.items():
        assert hasattr(backend, name), f"{name} is no operation"
        setattr(changed, name, replacement)
    return changed
