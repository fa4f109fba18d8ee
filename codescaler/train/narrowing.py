"""Narrower MLPs, one layer after the other, each fitted to what the whole model's stream is behind it.

A narrow MLP reads what the narrow layers before it made, not what the whole model would have given it, and so makes
good what they lost. Where each is fitted on the whole model's own inputs instead, the losses of all layers add up.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codescaler.errors import InvalidInput, WeightsError
from codescaler.model.decoder import GetTensor, HiddenStates, Layer, build_decoder, weigh_errors
from codescaler.ops import Backend, LinearWeights, Tree
from codescaler.ops.autograd import TrainableLinear, hold_casts, make_differentiable
from codescaler.ops.linear import PLAIN
from codescaler.ops.plan import plan
from codescaler.text.token_ids import Int32
from codescaler.types import Activation, ModelConfig

_BATCH_TOKENS = 8192  # of a forward
_DAMPING = 1e-3  # of a channel's own moment
_STEP_TOKENS = 1024  # of a step of the optimizer
_STEP_SIZE = 0.06  # of a weight, as a share of the root mean square of its matrix
_WARMUP_STEPS = 10
_HELD_OUT = 8  # of so many problems one is held out


@dataclass(frozen=True)
class NarrowMlp:
    """The MLP of one layer, by canonical names behind the layer's, and how much of what it has to add it does not.

    That is a share of mean squares in units of the whole model's stream, over the problems held out.
    """

    tensors: Mapping[str, Tensor]
    lost: float


@dataclass(frozen=True)
class _Task:
    """What an MLP reads, what it has to add, and what an error counts: the inverse size of the whole model's stream.

    Shapes: x [T, D], wanted [T, D], weights [T, 1].
    """

    x: Tensor
    wanted: Tensor
    weights: Tensor

    def choose(self, tokens: Tensor) -> "_Task":
        return _Task(self.x[tokens], self.wanted[tokens], self.weights[tokens])


class _Mlp(torch.nn.Module):
    def __init__(self, backend: Backend, activation: Activation, gate_up: LinearWeights, down: LinearWeights) -> None:
        super().__init__()
        self.backend, self.activation = backend, activation
        self.gate_up, self.down = TrainableLinear(gate_up, PLAIN), TrainableLinear(down, PLAIN)

    def compute_hidden(self, x: Tensor) -> Tensor:
        """What the down projection multiplies. Shapes: x [T, D] -> [T, F]."""
        return self.backend.linear_glu(x, self.gate_up, self.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x [T, D] -> [T, D]."""
        return self.backend.linear(self.compute_hidden(x), self.down)

    def iterate_hidden(self, task: _Task) -> Iterator[tuple[Tensor, Tensor]]:
        """What the down projection multiplies and what it has to give, weighted, a batch of tokens at a time."""
        bias = self.down.bias
        with hold_casts(self, task.x.dtype):
            for x, wanted, weights in zip(
                *(t.split(_BATCH_TOKENS) for t in (task.x, task.wanted, task.weights)), strict=True
            ):
                yield self.compute_hidden(x).float() * weights, (wanted if bias is None else wanted - bias) * weights

    def measure_loss(self, task: _Task) -> Tensor:
        """The mean square of what is missed."""
        missed: Tensor = (self(task.x).float() - task.wanted) * task.weights
        return missed.square().mean()


def narrow_mlps(
    config: ModelConfig,
    get: GetTensor,
    backend: Backend,
    programs: Sequence[Sequence[Int32]],
    width: int,
    num_passes: int,
) -> Iterator[NarrowMlp]:
    """Gives each layer's MLP with `width` channels, from the first layer on.

    Channels are chosen, and the down projection is fitted by least squares. Then AdamW trains all three projections;
    what it found is kept where it does better on every eighth problem, which is held out (a single one is not). Holds
    the streams of both models at all tokens, 40 bytes for each token and hidden dimension.

    Args:
        config: of the whole model. No norm is behind its MLPs, and it has no experts.
        get: reads a canonical tensor of it.
        backend: of a CPU.
        programs: the token lists of each problem.
        width: channels to keep.
        num_passes: of the training, over all tokens; 0 for none.

    Raises:
        InvalidInput: fewer tokens than channels.
        WeightsError: hidden states are not finite.
    """
    differentiable, cpu = make_differentiable(backend), torch.device("cpu")
    batches = [(index, batch) for index, lists in enumerate(programs) for batch in plan(lists, _BATCH_TOKENS)]
    is_held_out = torch.cat([torch.full((batch.num_tokens,), index % _HELD_OUT == 0) for index, batch in batches])
    held_out, fitted = is_held_out.nonzero()[:, 0], (~is_held_out).nonzero()[:, 0]
    fitted = fitted if len(fitted) else held_out  # of a single problem
    if len(fitted) < width:
        raise InvalidInput(
            f"the programs have {len(fitted)} distinct tokens to fit to, too few for {width} channels; give programs "
            "with a hundred tokens a channel"
        )
    decoder = build_decoder(config, get, differentiable, backend.fastest_dtype, cpu)
    trees = [Tree.from_batch(batch, cpu) for _, batch in batches]
    whole, narrow = ([decoder.start(tree) for tree in trees] for _ in range(2))
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, Layer) and layer.post_mlp_norm is None and layer.experts is None
        with torch.no_grad():
            task = _advance(layer, whole, narrow, config.norm_eps)
            if not bool(task.wanted.isfinite().all()):
                raise WeightsError(f"hidden states behind layer {index} are not finite; look for such weights there")
            lesson, control = task.choose(fitted), task.choose(held_out)
            mlp = _start(layer, differentiable, config.activation, lesson, width)
        missed = _train(mlp, lesson, control, num_passes)
        with torch.no_grad(), hold_casts(mlp, task.x.dtype):
            for states, x in zip(narrow, task.x.split([len(states.x) for states in narrow]), strict=True):
                states.x = mlp(x)
        size = float((control.wanted * control.weights).square().mean())
        yield NarrowMlp(_name_tensors(mlp, width), missed / size if size else 0.0)
        del task, lesson, control


def _advance(layer: Layer, whole: Sequence[HiddenStates], narrow: Sequence[HiddenStates], eps: float) -> _Task:
    """Takes the whole model through a layer, and the narrow one as far as the layer's MLP."""
    tasks = []
    for states, behind in zip(whole, narrow, strict=True):
        states.x, states.residual = layer(states.context, states.x, states.residual, False)
        stream = states.x.float() + states.residual
        o = layer.attend(behind.context, layer.enter_attention(behind.context, behind.x, behind.residual))
        x = layer.enter_mlp(behind.context, o, behind.residual)
        tasks.append(_Task(x, stream - behind.residual, weigh_errors(stream, eps)))
    return _Task(*(torch.cat([getattr(task, name) for task in tasks]) for name in ("x", "wanted", "weights")))


def _start(layer: Layer, backend: Backend, activation: Activation, task: _Task, width: int) -> _Mlp:
    """The channels that give most, and the down projection that does best with these."""
    (gate_up, gate_up_bias, _), (down, down_bias, _) = map(_read_weights, (layer.gate_up, layer.down))
    whole = _Mlp(backend, activation, LinearWeights(gate_up, gate_up_bias), LinearWeights(down, down_bias))
    power = torch.zeros(down.shape[1])
    for hidden, _ in whole.iterate_hidden(task):
        power += hidden.square().sum(dim=0)
    kept = (power * down.square().sum(dim=0)).topk(width).indices.sort().values
    rows = torch.cat([kept, kept + len(power)])
    bias = None if gate_up_bias is None else gate_up_bias[rows]
    mlp = _Mlp(backend, activation, LinearWeights(gate_up[rows], bias), LinearWeights(down[:, kept], down_bias))
    moments, crossed = torch.zeros(width, width), torch.zeros(task.wanted.shape[1], width)
    for hidden, wanted in mlp.iterate_hidden(task):
        moments.addmm_(hidden.T, hidden)
        crossed.addmm_(wanted.T, hidden)
    size = moments.diagonal()
    damped = moments + torch.diag(_DAMPING * size + 1e-9 * size.mean() + 1e-12)
    mlp.down.weight.copy_(torch.linalg.solve(damped.double(), crossed.double().T).T)
    return mlp


def _read_weights(linear: TrainableLinear) -> LinearWeights:
    """Copies, in float32."""
    weight, bias = (
        None if t is None else t.detach().to(torch.float32, copy=True) for t in (linear.weight, linear.bias)
    )
    assert weight is not None
    return LinearWeights(weight, bias)


def _train(mlp: _Mlp, task: _Task, control: _Task, num_passes: int) -> float:
    """Trains an MLP, unless that makes it worse on `control`; returns its loss there."""
    with torch.no_grad():
        before, start = float(mlp.measure_loss(control)), {name: t.clone() for name, t in mlp.state_dict().items()}
    groups = [
        {"params": list(linear.parameters()), "size": _STEP_SIZE * float(linear.weight.detach().square().mean().sqrt())}
        for linear in (mlp.gate_up, mlp.down)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(0)
    steps = [
        tokens
        for _ in range(num_passes)
        for tokens in torch.randperm(len(task.x), generator=generator).split(_STEP_TOKENS)
    ]
    for number, tokens in enumerate(steps):
        share = min(1.0, (number + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * number / len(steps)))
        for group in optimizer.param_groups:
            group["lr"] = group["size"] * share
        optimizer.zero_grad()
        mlp.measure_loss(task.choose(tokens)).backward()
        optimizer.step()
    with torch.no_grad():
        after = float(mlp.measure_loss(control))
        if after < before:
            return after
        mlp.load_state_dict(start)
    return before


def _name_tensors(mlp: _Mlp, width: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        gate_up, down = (getattr(linear, kind) for linear in (mlp.gate_up, mlp.down))
        if gate_up is not None:
            gate, up = gate_up.detach().split(width)
            tensors |= {f"gate_proj.{kind}": gate, f"up_proj.{kind}": up}
        if down is not None:
            tensors[f"down_proj.{kind}"] = down.detach()
    return tensors
