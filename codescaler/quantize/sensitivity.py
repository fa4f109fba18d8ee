"""Which linear layers of a reward model may be int8 or fp8 without changing its rankings, and folders of such models.

The rule: a model's fused linear layers are int8, with activations of 8 bits where these are faster, but for those that
would move scores too far. How far each one moves them is measured, to first order and on real programs: the gradient of
the score by the linear layer's output, times what rounding changes of that output. Changes of different linear layers
are as good as independent, so their squares add up. One layer after the other goes from activations of 8 bits to 16, or
to what it was: the layer that gains most for its size first. The rule stops when what is left is below a limit, a share
of the standard deviation of a problem's scores (`choose_bits_within`). Inputs go through a Hadamard transform first
(`ops.reference.apply_hadamard`). fp8 has activations of 8 bits alone, and no transform. The head, the embedding and the
norms stay as they are.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from codescaler.checkpoint.download import resolve_folder
from codescaler.checkpoint.load import Checkpoint, open_checkpoint
from codescaler.checkpoint.save import new_folder
from codescaler.errors import InvalidInput, UnsupportedModel, WeightsError
from codescaler.io.records import read_groups
from codescaler.model.decoder import build_decoder
from codescaler.model.projections import list_fused_linears
from codescaler.ops import Backend, LinearWeights, Tree, reference, replace_operations, select_backend
from codescaler.ops.autograd import make_differentiable
from codescaler.ops.plan import plan
from codescaler.ops.reference import apply_hadamard
from codescaler.quantize.folders import require_own_tensors
from codescaler.quantize.fp8 import quantize_weight_to_fp8
from codescaler.quantize.int8 import quantize_weight, save_quantized
from codescaler.text.encoder import build_encoder
from codescaler.text.program import make_conversation
from codescaler.text.settings import TextSettings
from codescaler.text.token_ids import Int32
from codescaler.types import ACTIVATION_BITS, ActivationBits, Fp8Scheme, Quantization, QuantScheme, Scheme

# RMS change of a problem's scores over their standard deviation. 0.05 costs about 0.04 of Kendall's tau (benches
# fidelity).
LIMIT = 0.05
NUM_PROBLEMS = 4
_DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
# Four programs a problem: their differences are these three orthogonal contrasts.
_CONTRASTS = ((1.0, 1.0, -1.0, -1.0), (1.0, -1.0, 1.0, -1.0), (1.0, -1.0, -1.0, 1.0))
PROGRAMS = Path(__file__).parents[1] / "examples" / "mbpp_fit.jsonl.gz"

_log = logging.getLogger(__name__)


Fused = tuple[str, ...]  # canonical names of linear layers that are multiplied as one
Changes = Mapping[Fused, Mapping[ActivationBits, float]]


@dataclass(frozen=True)
class QuantChoice:
    """What is to be int8, and why.

    `changes` says of each fused linear layer how far int8 moves scores, over the standard deviation of a problem's
    scores, with activations of so many bits; `linears` are the linear layers that are int8, by canonical name; `change`
    is the sum (of squares) over these.
    """

    changes: Changes
    linears: Mapping[str, Scheme]
    change: float

    @property
    def kept(self) -> list[tuple[str, ...]]:
        """The fused linear layers that stay as they are, those that would move scores most first."""
        left = [names for names in self.changes if names[0] not in self.linears]
        return sorted(left, key=lambda names: -self.get_least_change(names))

    def get_least_change(self, names: Fused) -> float:
        """How far a fused linear layer would move scores at the least, if it were quantised."""
        return min(self.changes[names].values())

    def count(self, bits: ActivationBits) -> int:
        """Fused linear layers that are int8, with activations of so many bits."""
        return sum(names[0] in self.linears and self.linears[names[0]].bits == bits for names in self.changes)


@dataclass(frozen=True)
class QuantReport:
    """What `quantize` wrote."""

    folder: Path
    choice: QuantChoice
    bytes_before: int
    bytes_after: int

    def make_record(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        kept = {", ".join(names): self.choice.get_least_change(names) for names in self.choice.kept}
        return {
            "folder": str(self.folder),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "num_quantized_linears": len(self.choice.linears),
            "num_fused_by_activation_bits": {bits: self.choice.count(bits) for bits in ACTIVATION_BITS},
            "change": self.choice.change,
            "kept": kept,
        }


def quantize(
    model: str | Path,
    folder: str | Path,
    *,
    base_model: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    limit: float | None = None,
    activation_bits: ActivationBits | None = None,
    dtype: str = "auto",
    quantization: Quantization = "int8",
    sensitivity_data: str | Path | None = None,
) -> QuantReport:
    """Writes a reward model with int8 or fp8 linear layers to `folder`, whole or not at all.

    `quantization` is "int8" or "fp8", which GPUs from sm_89 on multiply; a CPU emulates fp8 while it measures.
    `limit` is the RMS change of a problem's scores, over their standard deviation, that quantised linear layers may add
    up to (None: LIMIT); inf quantises all. `activation_bits` are the fewest of an int8 linear layer's activations: 8 is
    fastest on CPUs with AVX-512 BF16, 16 moves scores less and is as fast on others; None means what is fastest here.
    `dtype` is that of the embedding and of linear layers that stay: "float32", "bfloat16" or "auto", as it is.
    `sensitivity_data` is a file of groups of programs to measure on, every problem with four different programs; None:
    the first problems that come with the package.

    Raises:
        InvalidInput: the folder is there already; limit, activation_bits, dtype or quantization is none.
        UnsupportedModel, WeightsError: the model cannot be used.
        BackendUnavailable: there are no C++ kernels here.
    """
    if dtype not in _DTYPES:
        raise InvalidInput(f"dtype {dtype!r}; give one of {', '.join(_DTYPES)}")
    source = resolve_folder(model, revision=revision, local_files_only=local_files_only)
    checkpoint = open_checkpoint(source, base_model=base_model, local_files_only=local_files_only)
    require_own_tensors(checkpoint, quantization, f"load this one with quantization={quantization!r}")
    with new_folder(Path(folder)) as written:
        backend = select_backend("cpu", "cpu")
        choice = choose_quantized(
            checkpoint, backend, limit, activation_bits, quantization, sensitivity_data=sensitivity_data
        )
        save_quantized(checkpoint, choice.linears, written, _DTYPES[dtype])
        return QuantReport(Path(folder), choice, count_bytes(checkpoint), count_bytes(open_checkpoint(written)))


def count_bytes(checkpoint: Checkpoint) -> int:
    """Returns what the tensors of a checkpoint take, as they are stored; packed ones as if they were expanded."""
    sources = checkpoint.sources.values()
    return sum(math.prod(source.shape) * getattr(torch, source.dtype).itemsize for source in sources)


def choose_bits_within(
    changes: Changes, sizes: Mapping[Fused, int], limit: float, activation_bits: ActivationBits
) -> dict[Fused, ActivationBits]:
    """Returns the fused linear layers that are int8, with the bits of their activations, so that changes are within a
    limit.

    A move, from 8 bits to 16 or from either to what the linear layer was, costs its size: 8 bits save time, and int8
    memory. The move that takes most of the changes for its cost comes first.
    """
    left: dict[Fused, ActivationBits] = dict.fromkeys(changes, activation_bits)

    def list_moves(fused: Fused) -> Iterator[tuple[float, Fused, bool]]:
        energy, bits = changes[fused][left[fused]] ** 2, left[fused]
        yield energy / sizes[fused] / (2 if bits == 8 else 1), fused, False
        if bits == 8 and 16 in changes[fused]:
            yield (energy - changes[fused][16] ** 2) / sizes[fused], fused, True

    while sum_in_quadrature(changes, left) > limit:
        _, fused, stays_int8 = max(move for fused in left for move in list_moves(fused))
        if stays_int8:
            left[fused] = 16
        else:
            del left[fused]
    return left


def sum_in_quadrature(changes: Changes, left: Mapping[Fused, ActivationBits]) -> float:
    """Returns how far these fused linear layers, with activations of so many bits, move scores together."""
    return float(sum(changes[fused][bits] ** 2 for fused, bits in left.items()) ** 0.5)


def choose_quantized(
    checkpoint: Checkpoint,
    backend: Backend,
    limit: float | None = None,
    activation_bits: ActivationBits | None = None,
    quantization: Quantization = "int8",
    text: TextSettings | None = None,
    sensitivity_data: str | Path | None = None,
) -> QuantChoice:
    """Measures a reward model on programs and applies the rule; the same every time.

    Holds the model in float32 and twice in int8 meanwhile. `limit`, `activation_bits` and `sensitivity_data` as in
    `quantize`; the second says nothing of fp8. `text` says how programs are read, as scoring will read them.

    Raises:
        InvalidInput: the model has no head, or is int8 already; the limit is below 0. UnsupportedModel: it has experts.
        WeightsError: it has no tokenizer or chat template, by which programs are read, or gives no finite scores.
    """
    if checkpoint.config.quantized_linears:
        raise InvalidInput(f"{checkpoint.folder} is {checkpoint.config.quantization} already; load it as it is")
    if quantization not in ("int8", "fp8"):
        raise InvalidInput(f"quantization {quantization!r}; give 'int8' or 'fp8'")
    if checkpoint.config.experts is not None:
        raise UnsupportedModel(f"{checkpoint.folder} is a mixture of experts, which is not quantised; load it as it is")
    limit = LIMIT if limit is None else limit
    if not limit >= 0:
        raise InvalidInput(f"limit {limit}; give a number of at least 0, such as {LIMIT}, or inf for all linear layers")
    if quantization == "fp8":
        if activation_bits not in (None, 8):
            raise InvalidInput(f"activation_bits {activation_bits} with fp8, which has 8; leave it out")
        activation_bits = 8
    if activation_bits is None:
        activation_bits = 8 if backend.has_bf16_unit else 16
    if activation_bits not in ACTIVATION_BITS:
        raise InvalidInput(f"activation_bits {activation_bits}; give 8 or 16")
    if checkpoint.config.head == "none":
        raise InvalidInput("int8 is chosen by what it does to scores; give a model with a reward head")
    with torch.inference_mode(False), torch.enable_grad():
        energies, score_energy = _measure(checkpoint, backend, quantization, text, sensitivity_data)
    names, sources = list_fused_linears(checkpoint.config.num_layers), checkpoint.sources
    changes = {
        fused: dict(zip(_list_bits(quantization), row, strict=True))
        for fused, row in zip(names, np.sqrt(energies / score_energy).tolist(), strict=True)
    }
    sizes = {fused: sum(math.prod(sources[f"{name}.weight"].shape) for name in fused) for fused in names}
    left = choose_bits_within(changes, sizes, limit, activation_bits)
    total = sum_in_quadrature(changes, left)
    linears = {
        name: _make_scheme(quantization, bits, sources[f"{name}.weight"].shape[1])
        for fused, bits in left.items()
        for name in fused
    }
    choice = QuantChoice(changes, linears, total)
    _log.info(
        "%s: %d of %d linear layers, %d with activations of 8 bits and %d of 16, which move scores by %.3f of their "
        "standard deviation; as they are stay: %s",
        quantization,
        len(left),
        len(names),
        choice.count(8),
        choice.count(16),
        choice.change,
        "; ".join(f"{', '.join(fused)} ({choice.get_least_change(fused):.3f})" for fused in choice.kept) or "none",
    )
    return choice


def _list_bits(quantization: Quantization) -> tuple[ActivationBits, ...]:
    """How many bits activations may have."""
    return ACTIVATION_BITS if quantization == "int8" else (8,)


def _make_scheme(quantization: Quantization, bits: ActivationBits, num_inputs: int) -> Scheme:
    return QuantScheme.of(bits, num_inputs) if quantization == "int8" else Fp8Scheme()


class _Rounded:
    """One fused linear layer, exact and quantised with each number of bits, and what these did in a forward."""

    def __init__(self, backend: Backend, weights: LinearWeights, quantization: Quantization) -> None:
        weight, bias, _ = weights
        self.weight, self.bias = weight, bias
        schemes = [_make_scheme(quantization, bits, weight.shape[1]) for bits in _list_bits(quantization)]
        quantize = quantize_weight if quantization == "int8" else quantize_weight_to_fp8
        rounded, scale = quantize(apply_hadamard(weight) if schemes[0].has_hadamard else weight)
        # What a CPU does not multiply, the reference emulates.
        self.backend = backend if backend.supports(schemes[0]) is None else reference.BACKEND
        self.quantised = [
            self.backend.pack_linear(LinearWeights(rounded, bias, scale[:, 0]), scheme) for scheme in schemes
        ]
        self.errors = [weight.new_empty(0) for _ in schemes]
        self.changes = [0.0 for _ in schemes]

    def __call__(self, x: Tensor) -> Tensor:
        # The first linear layer's input depends on nothing that has a gradient.
        apply: Callable[..., Tensor] = _Observed.apply
        return apply(x if x.requires_grad else x.detach().requires_grad_(), self)


class _Observed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: _Rounded) -> Tensor:
        ctx.linear = linear
        y = functional.linear(x, linear.weight, linear.bias)
        x = x.detach()
        linear.errors = [linear.backend.linear(x, packed) - y for packed in linear.quantised]
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None]:
        ctx.linear.changes = [float((grad_y * error).sum()) for error in ctx.linear.errors]
        return grad_y @ ctx.linear.weight, None


def _measure(
    checkpoint: Checkpoint,
    backend: Backend,
    quantization: Quantization,
    text: TextSettings | None,
    data: str | Path | None,
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], float]:
    """Sums of squares over problems and contrasts: of the changes of each fused linear layer by bits, and of the
    scores.
    """
    linears: list[_Rounded] = []

    def pack_linear(weights: LinearWeights) -> _Rounded:
        linears.append(_Rounded(backend, weights, quantization))
        return linears[-1]

    observing = replace_operations(make_differentiable(backend), pack_linear=pack_linear)
    cpu = torch.device("cpu")
    decoder = build_decoder(checkpoint.config, checkpoint.get, observing, torch.float32, cpu)
    # Those of a head come last, and are never quantised.
    num_linears = len(list_fused_linears(checkpoint.config.num_layers))
    energies, score_energy = np.zeros((num_linears, len(_list_bits(quantization)))), 0.0
    for lists in list_programs(checkpoint, data, text):
        (batch,) = plan(lists, 10**9)
        _, scores = decoder.forward(Tree.from_batch(batch, cpu))
        assert scores is not None
        for signs in _CONTRASTS:
            contrast = scores @ scores.new_tensor(signs)  # in whatever order: the three stay the same three
            torch.autograd.backward(contrast, retain_graph=True)
            energies += np.square([linear.changes for linear in linears[: len(energies)]])
            score_energy += contrast.item() ** 2
    if not np.isfinite(energies).all() or not 0.0 < score_energy < np.inf:
        raise WeightsError(
            f"{checkpoint.folder} gives scores that are not finite, or all the same; look for such weights"
        )
    return energies, score_energy


def list_programs(
    checkpoint: Checkpoint, data: str | Path | None = None, text: TextSettings | None = None
) -> Iterator[Sequence[Int32]]:
    """Gives the token lists of four different programs for each problem of a file of groups that has as many.

    `data` None: of the first problems that come with the package.

    Raises: InvalidInput: no problem has four programs.
    """
    encoder, count = build_encoder(checkpoint, text=text), len(_CONTRASTS[0])
    groups = read_groups(PROGRAMS if data is None else data)
    programs = ((group, [code for code in group.codes if code]) for group in groups)
    enough = [(group, codes[:count]) for group, codes in programs if len(codes) >= count]
    if not enough:
        raise InvalidInput(f"{data} has no problem with {count} different programs; give one that has")
    if len(enough) < len(groups):
        _log.info(
            "%d of %d problems have fewer than %d different programs", len(groups) - len(enough), len(groups), count
        )
    for group, codes in enough if data else enough[:NUM_PROBLEMS]:
        names = [f"{group.name}: program {index}" for index in range(count)]
        conversations = [make_conversation(group.problem, code, group.system) for code in codes]
        yield encoder.encode_pairs(conversations, names).sequences
