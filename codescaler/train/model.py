"""The decoder as a module whose weights an optimizer changes: the engine's own forward, on float32 weights.

Knows canonical tensor names on the way in and out (`weights.Checkpoint`), and nothing of data or of optimizers.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils.checkpoint import checkpoint

from codescaler.checkpoint.load import Checkpoint
from codescaler.engine.exits import choose_layers
from codescaler.model.decoder import Decoder, ForwardContext, Layer, build_decoder
from codescaler.model.projections import FUSED
from codescaler.ops import Backend, Tree
from codescaler.ops.autograd import TrainableLinear, make_differentiable
from codescaler.train.config import TrainConfig
from codescaler.types import ModelConfig


class LoraLinear(torch.nn.Module):
    """A frozen linear layer plus alpha / rank * B A for each of the projections that are rows of it.

    Source: Hu et al. 2021, arXiv:2106.09685, equation 3. A starts uniform as in PEFT, B at 0.
    """

    def __init__(
        self, base: TrainableLinear, sizes: tuple[int, ...], config: TrainConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.base, self.scale, self.sizes = base, config.lora_alpha / config.lora_rank, sizes
        width = base.weight.shape[1]
        bound = 1 / math.sqrt(width)  # Kaiming's for a slope of sqrt(5)
        start = (torch.rand(len(sizes), config.lora_rank, width, generator=generator) * 2 - 1) * bound
        self.a = Parameter(start.to(base.weight.device))
        self.b = torch.nn.ParameterList(
            Parameter(torch.zeros(size, config.lora_rank, device=base.weight.device)) for size in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        """Y = x W^T + scale * x A^T B^T. Shapes: x [T, I] -> [T, O]."""
        low = torch.nn.functional.linear(x, self.a.flatten(0, 1).to(x.dtype)).chunk(len(self.sizes), dim=1)
        changes = [
            torch.nn.functional.linear(part, b.to(x.dtype)) * self.scale for part, b in zip(low, self.b, strict=True)
        ]
        change = changes[0] if len(changes) == 1 else torch.cat(changes, dim=1)
        return self.base(x) + change  # type: ignore[no-any-return]


class TrainableLayer(torch.nn.Module):
    """One decoder layer; called as a `model.decoder.Layer` is."""

    def __init__(self, layer: Layer, is_checkpointed: bool) -> None:
        super().__init__()
        self.is_checkpointed = is_checkpointed
        for field in dataclasses.fields(layer):
            value = getattr(layer, field.name)
            setattr(self, field.name, Parameter(value) if isinstance(value, Tensor) else value)

    def forward(
        self, context: ForwardContext, x_TD: Tensor, residual_TD: Tensor, is_last: bool
    ) -> tuple[Tensor, Tensor]:
        """See `model.decoder.Layer.__call__`."""
        layer = Layer(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Layer)})

        # The residual of a copy is updated in place: what a checkpoint keeps must stay, and FSDP gives a view.
        def call(x_TD: Tensor, residual_TD: Tensor) -> tuple[Tensor, Tensor]:
            return layer(context, x_TD, residual_TD.clone(), is_last)

        if not (self.is_checkpointed and torch.is_grad_enabled()):
            return call(x_TD, residual_TD)
        results: tuple[Tensor, Tensor] = checkpoint(
            call, x_TD, residual_TD, use_reentrant=False, preserve_rng_state=False
        )
        return results


class RewardModel(torch.nn.Module):
    """A reward model that learns. Parameters that do not learn are there too, and have `requires_grad` False."""

    def __init__(self, decoder: Decoder, train_config: TrainConfig) -> None:
        super().__init__()
        self.config, self.backend, self.dtype = decoder.config, decoder.backend, decoder.dtype
        self.exits = choose_layers(self.config.num_layers) if train_config.exit_weight else ()
        embedding = decoder.embedding
        self.embedding = Parameter(embedding.float() if train_config.method == "full" else embedding)
        self.layers = torch.nn.ModuleList(
            TrainableLayer(layer, train_config.gradient_checkpointing)
            for layer in decoder.layers
            if isinstance(layer, Layer)
        )
        self.norm = Parameter(decoder.norm)
        head = decoder.head_weight
        self.head = Parameter(decoder.norm.new_zeros(1, len(decoder.norm)) if head is None else head)
        if train_config.method != "full":
            for parameter in self.parameters():
                parameter.requires_grad_(False)
            self.head.requires_grad_()
        if train_config.method == "lora":
            generator = torch.Generator().manual_seed(train_config.seed)
            for layer in self.layers:
                for name in FUSED:
                    sizes = _list_sizes(self.config, name)
                    setattr(layer, name, LoraLinear(getattr(layer, name), sizes, train_config, generator))

    def forward(self, tree: Tree) -> Tensor:
        """Returns the scores at each exit, by the same head, and then the scores; each in the tree's order.

        Shapes: [exits + 1, B], float32.
        """
        layers = [*self.layers]
        decoder = Decoder(self.config, self.backend, self.dtype, self.embedding, layers, self.norm, self.head, None)
        states = decoder.start(tree)
        scores = []
        for num_layers in (*self.exits, len(layers)):
            decoder.advance(states, num_layers)
            score = decoder.pool(states, self.head, None)[1]
            assert score is not None
            scores.append(score)
        return torch.stack(scores)

    @property
    def exit_depths(self) -> list[float]:
        """The layers before each exit, as shares of all."""
        return [num_layers / self.config.num_layers for num_layers in self.exits]

    @property
    def device(self) -> torch.device:
        return self.norm.device

    def get_trainable_parameters(self) -> dict[str, Parameter]:
        """The parameters that learn, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def iterate_canonical(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yields canonical names and tensors of parameters given by their name here; with LoRA's, PEFT's names."""
        for name, tensor in tensors.items():
            path = name.split(".")
            if path[0] == "embedding":
                yield "embed_tokens.weight", tensor
            elif path[0] == "head":
                yield "head.weight", tensor
            elif path[0] == "norm":
                yield "norm.weight", tensor - self.config.norm_weight_offset
            elif path[2] in FUSED:
                yield from self._split_projections(f"layers.{path[1]}", path[2], path[3:], tensor)
            else:
                name = _get_norm_name(self.config, path[2])
                yield f"layers.{path[1]}.{name}.weight", tensor - self.config.norm_weight_offset

    def _split_projections(
        self, layer: str, fused: str, rest: list[str], tensor: Tensor
    ) -> Iterator[tuple[str, Tensor]]:
        names = [f"{layer}.{name}" for name in FUSED[fused]]
        if rest[0] == "a":
            yield from ((f"{name}.lora_A.weight", a) for name, a in zip(names, tensor, strict=True))
        elif rest[0] == "b":
            yield f"{names[int(rest[1])]}.lora_B.weight", tensor
        else:
            parts = tensor.split(_list_sizes(self.config, fused))
            yield from ((f"{name}.{rest[-1]}", part) for name, part in zip(names, parts, strict=True))


def _list_sizes(config: ModelConfig, fused: str) -> tuple[int, ...]:
    """Output widths of the projections of a fused matrix."""
    q_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "qkv": (q_width, kv_width, kv_width),
        "o": (config.hidden_size,),
        "gate_up": (config.intermediate_size, config.intermediate_size),
        "down": (config.hidden_size,),
    }[fused]


def _get_norm_name(config: ModelConfig, field: str) -> str:
    return {
        "input_norm": "input_layernorm",
        "q_norm": "self_attn.q_norm",
        "k_norm": "self_attn.k_norm",
        "post_attention_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm" if config.has_post_norms else "post_attention_layernorm",
        "post_mlp_norm": "post_feedforward_layernorm",
    }[field]


def build_model(
    checkpoint: Checkpoint, backend: Backend, train_config: TrainConfig, dtype: torch.dtype, device: torch.device
) -> RewardModel:
    """Reads a checkpoint into float32 weights whose forward computes in `dtype`; what is frozen is kept in `dtype`.

    A head's bias is left out: differences of scores, which are all that is learned from, do not see it.
    """

    def get(name: str) -> Any:
        tensor = checkpoint.get(name)
        return None if tensor is None else tensor.clone()  # the mapped file is not to be written to

    stored = torch.float32 if train_config.method == "full" else dtype
    decoder = build_decoder(checkpoint.config, get, make_differentiable(backend), stored, device)
    model = RewardModel(dataclasses.replace(decoder, dtype=dtype), train_config)
    return model
