"""Second moments of the inputs of linear layers on real programs: x.T @ x over all tokens, divided by their number.

They say which inputs of a linear layer can stand for which others. This module does not know what that is good for.
All tokens go through the last layer too, which scoring asks for a program's last token alone.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from codescaler.errors import WeightsError
from codescaler.model.decoder import GetTensor, build_decoder
from codescaler.model.projections import list_fused_linears
from codescaler.ops import Backend, LinearWeights, Tree, replace_operations
from codescaler.ops.autograd import make_differentiable
from codescaler.ops.plan import plan
from codescaler.text.token_ids import Int32
from codescaler.types import ModelConfig

MAX_MOMENT_BYTES = 4 * 2**30  # of one pass over the programs
_BATCH_TOKENS = 8192


class Moments(NamedTuple):
    """Linear layers that multiply the same inputs, by canonical name, and the inputs' second moments [I, I]."""

    names: tuple[str, ...]
    moments: Tensor
    num_tokens: int


class _Observer:
    """A linear layer that adds up the second moments of its inputs while it has somewhere to put them."""

    def __init__(self, weights: LinearWeights) -> None:
        self.weight, self.bias = weights.weight.clone(), weights.bias
        self.moments, self.num_tokens = torch.empty(0), 0

    def __call__(self, x: Tensor) -> Tensor:
        if len(self.moments):
            self.moments.addmm_(x.T, x)
            self.num_tokens += len(x)
        return functional.linear(x, self.weight, self.bias)


def observe_moments(
    config: ModelConfig,
    get: GetTensor,
    backend: Backend,
    programs: Sequence[Sequence[Int32]],
    kinds: Collection[str] = ("q_proj", "o_proj", "gate_proj", "down_proj"),
) -> Iterator[Moments]:
    """Gives the moments of the inputs of linear layers, from the first layer on.

    `programs` are the token lists of each problem. `kinds` are the first of the linear layers that multiply the same
    inputs. Holds the model in float32, and of the moments as many as MAX_MOMENT_BYTES allow, at least one: each pass
    over the programs gives some.

    Raises: WeightsError: inputs of a linear layer are not finite.
    """
    linears: list[_Observer] = []

    def pack_linear(weights: LinearWeights, *_: Any) -> _Observer:
        linears.append(_Observer(weights))
        return linears[-1]

    observing, cpu = replace_operations(make_differentiable(backend), pack_linear=pack_linear), torch.device("cpu")
    decoder = build_decoder(config, get, observing, torch.float32, cpu)
    batches = [batch for lists in programs for batch in plan(lists, _BATCH_TOKENS, first_read=[0] * len(lists))]
    trees = [Tree.from_batch(batch, cpu) for batch in batches]
    pairs = zip(list_fused_linears(config.num_layers), linears, strict=False)  # a head's come after them
    left = [(names, linear) for names, linear in pairs if names[0].rpartition(".")[2] in kinds]
    while left:
        sizes = accumulate(4 * linear.weight.shape[1] ** 2 for _, linear in left)
        count = max(1, sum(size <= MAX_MOMENT_BYTES for size in sizes))
        now, left = left[:count], left[count:]
        for _, linear in now:
            linear.moments = torch.zeros(linear.weight.shape[1], linear.weight.shape[1])
        with torch.no_grad():
            for tree in trees:
                decoder.forward(tree)
        for names, linear in now:
            if not bool(linear.moments.isfinite().all()):
                raise WeightsError(
                    f"inputs of {names[0]} are not finite; look for such weights in the layers before it"
                )
            yield Moments(names, linear.moments / linear.num_tokens, linear.num_tokens)
            linear.moments = torch.empty(0)
