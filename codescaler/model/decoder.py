"""The decoder's scoring forward over a packed prefix tree: one code for every family, backend and dtype.

Knows no files and no batches of text: it takes canonical tensors (see `weights.Checkpoint`) and a `Tree`.
Families differ in configuration only. Shape legend: `ops.backend`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from codescaler.model.mlp_head import MlpHead, build_mlp_head
from codescaler.model.projections import FUSED, ROUTER, list_expert_names
from codescaler.model.rope import build_rope_tables
from codescaler.ops import AttentionSpec, Backend, Heads, LinearWeights, RotaryTables, Tree
from codescaler.types import ModelConfig

GetTensor = Callable[[str], Tensor | None]


class Memory(Protocol):
    """Keys and values of tokens that no forward computes again."""

    def join(self, qkv_TE: Tensor, q_width: int, /) -> Tensor:
        """Returns a layer's q|k|v with those of remembered tokens below; called once a layer, in their order."""


@dataclass(frozen=True)
class ForwardContext:
    """What every layer of one forward needs besides its own weights and activations."""

    config: ModelConfig
    backend: Backend
    tree: Tree
    rotary: RotaryTables
    local_rotary: RotaryTables  # of layers with a window
    memory: Memory | None = None

    def compute_by_blocks(self, compute: Callable[..., Tensor], width: int, first: Tensor, *others: Tensor) -> Tensor:
        """Returns what is computed of tensors, a block of tokens (`Backend.token_block`) at a time.

        Shapes: [T, any] each -> [T, width], of the dtype of the first.
        """
        block = self.backend.token_block or len(first)
        if len(first) <= block:
            return compute(first, *others)
        whole = self.backend.allocate(first, len(first), width)
        for *parts, out in zip(*(tensor.split(block) for tensor in (first, *others, whole)), strict=True):
            out.copy_(compute(*parts))
        return whole


@dataclass
class HiddenStates:
    """What one forward has between two layers. `num_layers` are done. Shapes: [T, D]; after the last layer [U, D]."""

    context: ForwardContext
    x: Tensor  # not yet added to the residual
    residual: Tensor
    num_layers: int = 0

    def cut(self, is_kept: Sequence[bool]) -> None:
        """Leaves those sequences of the tree that are kept, in the order of `TreeBatch.sequences`.

        What stays has the bits of a forward without the others from the start on. No prefix is remembered.
        """
        assert self.context.memory is None and self.num_layers < self.context.config.num_layers
        tree, tokens = self.context.tree.cut(is_kept)
        self.context = replace(self.context, tree=tree)
        self.x, self.residual = self.x[tokens], self.residual[tokens]


def weigh_errors(stream_TD: Tensor, eps: float) -> Tensor:
    """What an error in the stream counts at each token: the next norm divides by the stream's size. Shapes: [T, 1]."""
    return (stream_TD.square().mean(dim=1, keepdim=True) + eps).rsqrt()


@dataclass(frozen=True)
class Layer:
    """One layer's attention and weights: norm weights float32, linear layers packed by the backend.

    A layer with experts has a router, float32, and `experts` in place of gate_up and down.
    """

    attention: AttentionSpec

    input_norm: Tensor
    qkv: Any
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Any
    post_attention_norm: Tensor | None  # Gemma only: on the attention's output
    mlp_norm: Tensor
    gate_up: Any
    down: Any
    post_mlp_norm: Tensor | None  # Gemma only: on the MLP's output
    router: Any = None
    experts: Any = None

    def __call__(
        self, context: ForwardContext, x_TD: Tensor, residual_TD: Tensor, is_last: bool
    ) -> tuple[Tensor, Tensor]:
        """Returns (delta, residual): the output that is not yet added to the residual, and the residual.

        The residual is updated in place.

        Shapes: [T, D]; of the last layer [U, D], since only the pooled tokens are read after it.
        """
        o_TE = self._attend(context, self._compute_qkv(context, x_TD, residual_TD), is_last)
        if is_last:
            residual_TD = residual_TD[context.tree.read_tokens]
        return self._run_after_attention(context, o_TE, residual_TD), residual_TD

    def enter_attention(self, context: ForwardContext, x_TD: Tensor, residual_TD: Tensor) -> Tensor:
        """Adds what the layer before gave to the residual, in place, and returns what queries, keys and values read."""
        return context.backend.rms_norm(x_TD, self.input_norm, context.config.norm_eps, residual_TD)

    def attend(self, context: ForwardContext, x_TD: Tensor) -> Tensor:
        """Returns attention's output before its projection. Shapes: x [T, D] -> [T, NH]."""
        return self._attend(context, self._compute_qkv_block(context, x_TD, context.tree.positions), is_last=False)

    def _attend(self, context: ForwardContext, qkv_TE: Tensor, is_last: bool) -> Tensor:
        backend, tree = context.backend, context.tree
        if context.memory is not None:
            qkv_TE = context.memory.join(qkv_TE, self.attention.heads.q_width)
        # Keys and values need every token, the rest of the last layer only the pooled ones.
        return backend.tree_attention(qkv_TE, self.attention, tree, tree.read_queries if is_last else tree.all_queries)

    def _compute_qkv(self, context: ForwardContext, x_TD: Tensor, residual_TD: Tensor) -> Tensor:
        """Queries, keys and values, a block of tokens at a time; updates the residual."""

        def compute(x: Tensor, residual: Tensor, positions: Tensor) -> Tensor:
            return self._compute_qkv_block(context, self.enter_attention(context, x, residual), positions)

        width = self.attention.heads.qkv_width
        return context.compute_by_blocks(compute, width, x_TD, residual_TD, context.tree.positions)

    def _compute_qkv_block(self, context: ForwardContext, x_TD: Tensor, positions: Tensor) -> Tensor:
        qkv_TE = context.backend.linear(x_TD, self.qkv)
        rotary = context.rotary if self.attention.window is None else context.local_rotary
        norms = self.q_norm, self.k_norm, context.config.norm_eps
        context.backend.qk_norm_rope(qkv_TE, self.attention.heads, positions, rotary, *norms)
        return qkv_TE

    def _run_after_attention(self, context: ForwardContext, o_TE: Tensor, residual_TD: Tensor) -> Tensor:
        """Output projection and MLP, a block of tokens at a time; returns the output that is not yet added."""
        run = partial(self._run_block_after_attention, context)
        if self.experts is not None:  # whose weights are read once for all tokens: they are far more than its rows
            return run(o_TE, residual_TD)
        return context.compute_by_blocks(run, residual_TD.shape[1], o_TE, residual_TD)

    def _run_block_after_attention(self, context: ForwardContext, o_TE: Tensor, residual_TD: Tensor) -> Tensor:
        x = self._run_mlp(context, self.enter_mlp(context, o_TE, residual_TD))
        if self.post_mlp_norm is not None:
            x = context.backend.rms_norm(x, self.post_mlp_norm, context.config.norm_eps)
        return x

    def enter_mlp(self, context: ForwardContext, o_TE: Tensor, residual_TD: Tensor) -> Tensor:
        """Adds attention's output to the residual, in place, and returns what the MLP multiplies."""
        eps, backend = context.config.norm_eps, context.backend
        x = backend.linear(o_TE, self.o)
        if self.post_attention_norm is not None:
            x = backend.rms_norm(x, self.post_attention_norm, eps)
        return backend.rms_norm(x, self.mlp_norm, eps, residual_TD)

    def _run_mlp(self, context: ForwardContext, x_TD: Tensor) -> Tensor:
        backend, activation, experts = context.backend, context.config.activation, context.config.experts
        if self.experts is None or experts is None:
            return backend.linear(backend.linear_glu(x_TD, self.gate_up, activation), self.down)
        logits_TX = backend.linear(x_TD.to(_upcast(x_TD.dtype)), self.router)
        routing = backend.route(logits_TX, experts.num_chosen, experts.has_normalised_weights)
        return backend.expert_mlp(x_TD, routing, self.experts, activation)


@dataclass(frozen=True)
class Decoder:
    """Weights and configuration of one model on one backend; `dtype` is that of the activations.

    `layers` may be anything that is called as a `Layer` is: training wraps them. On a CPU the embedding is a view of
    the checkpoint's file, in the dtype stored there: a forward converts the rows that it looks up, and the others are
    never read.
    """

    config: ModelConfig
    backend: Backend
    dtype: torch.dtype
    embedding: Tensor
    layers: Sequence[Callable[[ForwardContext, Tensor, Tensor, bool], tuple[Tensor, Tensor]]]
    norm: Tensor
    head_weight: Tensor | None
    head_bias: Tensor | None
    mlp_head: MlpHead | None = None  # in place of the linear head above

    @property
    def head_tensors(self) -> tuple[Tensor, ...]:
        """The head's tensors, in float32; none without a head."""
        if self.mlp_head is not None:
            return self.mlp_head.tensors
        return tuple(tensor for tensor in (self.head_weight, self.head_bias) if tensor is not None)

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def forward(self, tree: Tree, memory: Memory | None = None) -> tuple[Tensor, Tensor | None]:
        """Returns each sequence's final-norm hidden state and raw score at its last token.

        `memory` has the keys and values of the tree's remembered prefixes.

        Shapes: features [B, D], scores [B] or None without a head. Dtypes: float32.
        """
        states = self.start(tree, memory)
        self.advance(states, len(self.layers))
        return self.score(states)

    def start(self, tree: Tree, memory: Memory | None = None) -> HiddenStates:
        """Returns the states before the first layer; `advance` changes them, and `pool` reads them."""
        config = self.config
        rotary = build_rope_tables(config.rope, config.head_dim, tree.num_positions, self.device)
        local_rotary = rotary
        if config.local_rope is not None:
            local_rotary = build_rope_tables(config.local_rope, config.head_dim, tree.num_positions, self.device)
        context = ForwardContext(config, self.backend, tree, rotary, local_rotary, memory)
        # Not by indexing: the gradient of that adds up in no fixed order.
        x_TD = torch.nn.functional.embedding(tree.token_ids, self.embedding).to(self.dtype)
        if config.embedding_scale is not None:
            x_TD *= torch.tensor(config.embedding_scale, dtype=torch.float32).to(self.dtype)
        residual_TD = self.backend.allocate(x_TD, *x_TD.shape, dtype=_upcast(self.dtype)).zero_()
        return HiddenStates(context, x_TD, residual_TD)

    def advance(self, states: HiddenStates, num_layers: int) -> None:
        """Runs layers until so many are done."""
        for index in range(states.num_layers, num_layers):
            is_last = index + 1 == len(self.layers)
            states.x, states.residual = self.layers[index](states.context, states.x, states.residual, is_last)
        states.num_layers = num_layers

    def score(self, states: HiddenStates) -> tuple[Tensor, Tensor | None]:
        """Returns what `forward` does, after the last layer."""
        features_BD, scores_B = self.pool(states, self.head_weight, self.head_bias)
        return features_BD, scores_B if self.mlp_head is None else self.mlp_head(self.backend, features_BD)

    def pool(
        self, states: HiddenStates, head_weight: Tensor | None, head_bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns features and scores after any layer, by any linear head. The norm is that of the last layer.

        Shapes: head_weight [1, D], head_bias [1] -> as `forward`.
        """
        tree = states.context.tree
        rows = tree.rows if states.num_layers == len(self.layers) else tree.read_tokens[tree.rows]
        return self.backend.pooled_score(
            states.x, states.residual, rows, self.norm, self.config.norm_eps, head_weight, head_bias
        )


def build_decoder(
    config: ModelConfig, get: GetTensor, backend: Backend, dtype: torch.dtype, device: torch.device
) -> Decoder:
    """Reads canonical tensors one at a time through `get` (None where absent), converts and packs them.

    Linear layers of `config.quantized_linears` are int8 there already.
    """
    heads = Heads(config.num_heads, config.num_kv_heads, config.head_dim)
    new = partial(torch.empty, dtype=dtype, device=device)
    scratch = new(0)

    def reuse_scratch(size: int) -> Tensor:
        # Memory never touched before takes longer to get than a weight takes to convert.
        nonlocal scratch
        if size > len(scratch):
            scratch = new(size)
        return scratch[:size]

    def read_upcast(name: str, offset: float = 0.0) -> Tensor | None:
        tensor = get(name)
        return None if tensor is None else tensor.to(device, _upcast(dtype)) + offset

    def build_norm(name: str) -> Tensor:
        weight = read_upcast(name, config.norm_weight_offset)
        assert weight is not None, name
        return weight

    def join_quantised(tensors: Sequence[Tensor | None]) -> Tensor | None:
        parts = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(parts).to(device) if len(parts) == len(tensors) else None

    def build_linear(matrix: str, at: str) -> Any:
        names = [f"{at}{name}" for name in FUSED[matrix]]
        weights, biases = ([get(f"{name}.{kind}") for name in names] for kind in ("weight", "bias"))
        scheme = config.quantized_linears.get(names[0])
        if scheme is None:
            weight = _stack_rows(weights, dtype, device, reuse_scratch if backend.copies_weights else new)
            return backend.pack_linear(LinearWeights(weight, _stack_rows(biases, dtype, device, new)))
        weight, bias = join_quantised(weights), join_quantised(biases)
        scale = join_quantised([get(f"{name}.weight_scale") for name in names])
        assert weight is not None and scale is not None, names
        bias = None if bias is None else bias.to(_upcast(dtype))
        return backend.pack_linear(LinearWeights(weight, bias, scale[:, 0].to(_upcast(dtype))), scheme)

    def read_experts(matrix: str, at: str, count: int) -> Iterator[Tensor]:
        for names in list_expert_names(matrix, count):
            yield _stack_rows([get(f"{at}{name}.weight") for name in names], dtype, device, reuse_scratch)

    def build_mlp(at: str, is_sparse: bool) -> dict[str, Any]:
        if not is_sparse or config.experts is None:
            return {"gate_up": build_linear("gate_up", at), "down": build_linear("down", at)}
        count = config.experts.num_experts
        router = read_upcast(f"{at}{ROUTER}")
        assert router is not None, at
        experts = backend.pack_experts(read_experts("gate_up", at, count), read_experts("down", at, count), count)
        return {"gate_up": None, "down": None, "router": backend.pack_linear(LinearWeights(router)), "experts": experts}

    def build_layer(index: int) -> Layer:
        at = f"layers.{index}."
        post = config.has_post_norms
        return Layer(
            attention=AttentionSpec(
                heads, config.attention_scale, config.attention_softcap, config.layer_windows[index]
            ),
            input_norm=build_norm(f"{at}input_layernorm.weight"),
            qkv=build_linear("qkv", at),
            q_norm=read_upcast(f"{at}self_attn.q_norm.weight", config.norm_weight_offset),
            k_norm=read_upcast(f"{at}self_attn.k_norm.weight", config.norm_weight_offset),
            o=build_linear("o", at),
            post_attention_norm=build_norm(f"{at}post_attention_layernorm.weight") if post else None,
            mlp_norm=build_norm(f"{at}{'pre_feedforward' if post else 'post_attention'}_layernorm.weight"),
            post_mlp_norm=build_norm(f"{at}post_feedforward_layernorm.weight") if post else None,
            **build_mlp(at, config.experts is not None and index in config.experts.layers),
        )

    embedding = get("embed_tokens.weight")
    assert embedding is not None
    layers = tuple(build_layer(index) for index in range(config.num_layers))
    mlp_head = build_mlp_head(read_upcast, backend) if config.head == "mlp" else None
    return Decoder(
        config=config,
        backend=backend,
        dtype=dtype,
        embedding=embedding if device.type == "cpu" else embedding.to(device, dtype),
        layers=layers,
        norm=build_norm("norm.weight"),
        head_weight=None if mlp_head else read_upcast("head.weight"),
        head_bias=None if mlp_head else read_upcast("head.bias"),
        mlp_head=mlp_head,
    )


def _upcast(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _stack_rows(
    tensors: list[Tensor | None], dtype: torch.dtype, device: torch.device, buffer: Callable[[int], Tensor]
) -> Any:
    """Rows of several tensors one below the other, in a buffer unless they are so already; None where absent."""
    present = [tensor for tensor in tensors if tensor is not None]
    assert len(present) in (0, len(tensors)), "a bias on one part of a fused projection only"
    if not present:
        return None
    if len(present) == 1 and (present[0].dtype, present[0].device) == (dtype, device):
        return present[0]
    stacked = buffer(sum(tensor.numel() for tensor in present)).view(-1, *present[0].shape[1:])
    for rows, tensor in zip(stacked.split([len(tensor) for tensor in present]), present, strict=True):
        rows.copy_(tensor)
    return stacked
