"""Linear layers rounded one after the other, each for what it reads behind the rounded ones.

What goes into the stream has to bring it to where the whole model has it, and so makes good what was lost before; other
linear layers have to give what the whole model's give. A weight is moved to where it does that best, and then rounded
(GPTAQ, arXiv 2504.02692, which has the second rule for all).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from codescaler.errors import WeightsError
from codescaler.model.decoder import Decoder, Layer, weigh_errors
from codescaler.model.projections import FUSED
from codescaler.ops import LinearWeights, Tree
from codescaler.ops.autograd import TrainableLinear
from codescaler.ops.linear import PLAIN
from codescaler.quantize.rounding import shrink_moments

# Takes the canonical names of linear layers that are rows of one weight, that weight [O, I], and the moments [I, I] of
# its inputs; returns what is left of the weight.
RoundWeight: TypeAlias = Callable[[Sequence[str], Tensor, Tensor], Tensor]
_DAMPING = 0.01  # of the mean moment


class _Model:
    """The hidden states of one of the two models at all tokens of all trees; methods take a layer and go on."""

    def __init__(self, decoder: Decoder, trees: Iterable[Tree]) -> None:
        self.decoder, self.states = decoder, [decoder.start(tree) for tree in trees]

    @property
    def residuals(self) -> list[Tensor]:
        return [states.residual for states in self.states]

    def enter_attention(self, layer: Layer) -> list[Tensor]:
        return [layer.enter_attention(states.context, states.x, states.residual) for states in self.states]

    def attend(self, layer: Layer, inputs: Iterable[Tensor]) -> list[Tensor]:
        return [layer.attend(states.context, x) for states, x in zip(self.states, inputs, strict=True)]

    def enter_mlp(self, layer: Layer, inputs: Iterable[Tensor]) -> list[Tensor]:
        pairs = zip(self.states, inputs, strict=True)
        return [layer.enter_mlp(states.context, x, states.residual) for states, x in pairs]

    def compute_hidden(self, layer: Layer, inputs: Iterable[Tensor]) -> Iterator[Tensor]:
        """What the down projection multiplies."""
        backend, activation = self.decoder.backend, self.decoder.config.activation
        return (backend.linear_glu(x, layer.gate_up, activation) for x in inputs)

    def leave(self, layer: Layer, inputs: Iterable[Tensor]) -> list[Tensor]:
        """Ends the layer; returns what the down projection gives."""
        outputs = [layer.down(x) for x in inputs]
        for states, x in zip(self.states, outputs, strict=True):
            norm, eps = layer.post_mlp_norm, self.decoder.config.norm_eps
            states.x = x if norm is None else self.decoder.backend.rms_norm(x, norm, eps)
        return outputs


@torch.no_grad()
def round_layers(decoder: Decoder, embedding: Tensor, trees: Sequence[Tree], round_weight: RoundWeight) -> None:
    """Calls `round_weight` for each linear layer of a model without experts, from the first layer on.

    Args:
        decoder: the whole model, on a backend with gradients, whose linear layers keep their weights.
        embedding: the one that the rounded model has.
        trees: programs. Both models' states at all their tokens are held, and what one layer's MLP multiplies.
        round_weight: see there.

    Raises: WeightsError: inputs of a linear layer are not finite.
    """
    eps = decoder.config.norm_eps
    whole, rounded = _Model(decoder, trees), _Model(replace(decoder, embedding=embedding), trees)
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, Layer) and layer.experts is None
        fit = partial(_fit, round_weight, layer, index)
        x, y = whole.enter_attention(layer), rounded.enter_attention(layer)
        new = replace(layer, qkv=fit("qkv", y, map(layer.qkv, x)))
        x, y = whole.attend(layer, x), rounded.attend(new, y)
        x, given = whole.enter_mlp(layer, x), map(layer.o, x)
        if layer.post_attention_norm is None:
            wanted = [a - b for a, b in zip(whole.residuals, rounded.residuals, strict=True)]
            new = replace(new, o=fit("o", y, wanted, [weigh_errors(stream, eps) for stream in whole.residuals]))
        else:
            new = replace(new, o=fit("o", y, given))
        y = rounded.enter_mlp(new, y)
        new = replace(new, gate_up=fit("gate_up", y, map(layer.gate_up, x)))
        y = list(rounded.compute_hidden(new, y))
        outputs = whole.leave(layer, whole.compute_hidden(layer, x))
        if layer.post_mlp_norm is None:
            streams = [out.float() + stream for out, stream in zip(outputs, whole.residuals, strict=True)]
            wanted = [a - b for a, b in zip(streams, rounded.residuals, strict=True)]
            new = replace(new, down=fit("down", y, wanted, [weigh_errors(stream, eps) for stream in streams]))
        else:
            new = replace(new, down=fit("down", y, outputs))
        rounded.leave(new, y)


def _fit(
    round_weight: RoundWeight,
    layer: Layer,
    index: int,
    matrix: str,
    inputs: Sequence[Tensor],
    wanted: Iterable[Tensor],
    weights: Sequence[Tensor] | None = None,
) -> TrainableLinear:
    """A linear layer of rounded weights that gives nearly what is wanted of these inputs."""
    linear: TrainableLinear = getattr(layer, matrix)
    names, weight = [f"layers.{index}.{name}" for name in FUSED[matrix]], linear.weight.float()
    moments, missed = torch.zeros(weight.shape[1], weight.shape[1]), torch.zeros_like(weight)
    for x, target, share in zip(inputs, wanted, weights or [torch.ones(1, 1)] * len(inputs), strict=True):
        scaled = x.float() * share
        moments.addmm_(scaled.T, scaled)
        missed.addmm_(((target.float() - linear(x).float()) * share).T, scaled)
    if not bool(moments.isfinite().all() and missed.isfinite().all()):
        raise WeightsError(f"inputs or outputs of {names[0]} are not finite; look for such weights there and before it")
    count = sum(map(len, inputs))
    moments, missed = moments / count, missed / count
    shrunk = shrink_moments(moments, count)
    damped = shrunk.double() + (_DAMPING * float(moments.diagonal().mean()) + 1e-12) * torch.eye(len(moments))
    trust = count / (count + len(moments))  # as that of the moments
    moved = weight + trust * torch.cholesky_solve(missed.T.double(), torch.linalg.cholesky(damped)).T.float()
    left = round_weight(names, moved, shrunk)
    return TrainableLinear(LinearWeights(left.to(linear.weight.dtype), linear.bias), PLAIN)
