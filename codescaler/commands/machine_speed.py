"""What this machine reaches, in about ten seconds: for `codescaler info --bench`.

The peak is that of matrix products, measured now. Then layers of a random model of each shape run the workload bon8:
a problem of 512 tokens with 8 programs. The seconds of a whole model are those of its last layer, and for each other
layer what one more layer takes. Text and tokens are not in them. A real forward of 6 layers of 0.6B took 3% to 4% more
than predicted (one thread, AVX-512 BF16, bfloat16, processor time).
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codescaler.checkpoint.config import parse_config
from codescaler.io.tables import format_table
from codescaler.model.decoder import Decoder, build_decoder
from codescaler.ops import Tree, select_backend
from codescaler.ops.plan import plan
from codescaler.testing import (
    QWEN3_0_6B,
    QWEN3_1_7B,
    QWEN3_8B,
    WORKLOADS,
    ModelShape,
    bench_device,
    choose_fastest_dtype,
    count_score_flops,
    measure_peak_flops,
    measure_seconds,
)
from codescaler.testing.workloads import list_qwen3_tensor_sizes, make_qwen3_config

SHAPES = {"0.6B": QWEN3_0_6B, "1.7B": QWEN3_1_7B, "8B": QWEN3_8B}
BUDGET_S = 10.0
_WORKLOAD = "bon8"
_VOCABULARY = 4096  # of the random model: a look-up in a larger one takes as long
_MOST_ROUNDS = 3
_LAYERS_PER_ROUND = 3  # with the share of a round in the warm-up
_LIKELY_SHARE = 0.5  # of the peak, where nothing was measured yet
_POOL = 1 << 20  # random numbers that all weights repeat: drawing each would take longer than the forwards


@dataclass(frozen=True)
class LayerTimes:
    """Seconds of one workload in the last layer with all that is around it, and in each other layer."""

    last: float
    other: float

    def predict(self, num_layers: int) -> float:
        """The seconds of a model of so many layers."""
        return self.last + (num_layers - 1) * self.other


@dataclass(frozen=True)
class Prediction:
    """What a model of one shape should reach. `basis` is the shape whose layers gave the share of the peak."""

    shape: str
    seconds: float
    programs_per_s: float
    share_of_peak: float
    basis: str


def measure_machine(shapes: dict[str, ModelShape] = SHAPES, budget_s: float = BUDGET_S) -> dict[str, Any]:
    """Measures peaks, and as many shapes as the budget allows, the smallest always; returns what `--json` prints.

    A shape that is not measured takes the share of the peak of the last one that is. Each peak is measured once, and
    bfloat16's only where it is faster: emulated, it could take longer than all the rest.
    """
    end = time.perf_counter() + budget_s
    device, dtype = bench_device(), choose_fastest_dtype()
    dtypes = dict.fromkeys(("float32", dtype))
    peaks = {name: measure_peak_flops(getattr(torch, name), device) for name in dtypes}
    sequences = [[token % _VOCABULARY for token in tokens] for tokens in WORKLOADS[_WORKLOAD].draw_sequences()]
    flops = {name: count_score_flops(shape, sequences) for name, shape in shapes.items()}
    measured: dict[str, float] = {}  # seconds of a whole model
    share = _LIKELY_SHARE
    for name, shape in shapes.items():
        layer_s = flops[name] / shape.num_layers / peaks[dtype] / share
        num_rounds = min(int((end - time.perf_counter()) / layer_s / _LAYERS_PER_ROUND), _MOST_ROUNDS)
        if num_rounds < 1 and measured:
            break
        times = measure_layers(shape, dtype, device, sequences, max(num_rounds, 1))
        measured[name] = times.predict(shape.num_layers)
        share = flops[name] / measured[name] / peaks[dtype]
    predictions = []
    for name in shapes:
        last = name if name in measured else [*measured][-1]
        share = flops[last] / measured[last] / peaks[dtype]
        seconds = flops[name] / peaks[dtype] / share
        predictions.append(Prediction(name, seconds, len(sequences) / seconds, share, last))
    return {
        "workload": _WORKLOAD,
        "device": device.type,
        "dtype": dtype,
        "num_threads": torch.get_num_threads(),
        "peak_flops": peaks,
        "shapes": [asdict(prediction) for prediction in predictions],
    }


def measure_layers(
    shape: ModelShape, dtype: str, device: torch.device, sequences: list[list[int]], num_rounds: int
) -> LayerTimes:
    """Times the forward of a random model with one layer, and with two; medians of rounds that take turns."""
    two = build_random_decoder(replace(shape, num_layers=2, vocab_size=_VOCABULARY), getattr(torch, dtype), device)
    one = replace(two, layers=two.layers[1:])
    arrays = [np.array(tokens, dtype=np.int32) for tokens in sequences]
    (batch,) = plan(arrays, max_batch_tokens=sum(map(len, arrays)))
    tree = Tree.from_batch(batch, device)
    with torch.inference_mode():
        one.forward(tree)  # the first forward chooses and compiles kernels
        seconds = [
            [measure_seconds(partial(decoder.forward, tree), device) for decoder in (one, two)]
            for _ in range(num_rounds)
        ]
    last, both = (statistics.median(column) for column in zip(*seconds, strict=True))
    return LayerTimes(last, max(both - last, 0.0))


def build_random_decoder(shape: ModelShape, dtype: torch.dtype, device: torch.device) -> Decoder:
    """Returns a decoder with random weights, of the sizes of `shape`."""
    config = parse_config(make_qwen3_config(shape, dtype), where="config.json")
    named = list_qwen3_tensor_sizes(shape).items()
    sizes = {name.removeprefix("model.").replace("score.", "head."): size for name, size in named}
    pool = torch.empty(_POOL).normal_(0.0, 0.02, generator=torch.Generator().manual_seed(0)).to(dtype)

    def get(name: str) -> Tensor | None:
        if name not in sizes:
            return None
        count = int(np.prod(sizes[name]))
        return pool.repeat(-(-count // _POOL))[:count].view(sizes[name]) + float("norm" in name)

    return build_decoder(config, get, select_backend("auto", device.type), dtype, device)


def format_machine(measured: dict[str, Any]) -> str:
    """The table for people."""
    peaks = ", ".join(f"{value / 1e9:.0f} GFLOP/s in {name}" for name, value in measured["peak_flops"].items())
    table = format_table(
        ("model", "programs/s", "s a problem", "share of peak", "from"), _list_rows(measured["shapes"])
    )
    return (
        f"matrix products reach {peaks}\n\n{table}\n\n"
        f"Workload {measured['workload']} in {measured['dtype']}: 8 programs of one problem a forward."
    )


def _list_rows(shapes: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            made["shape"],
            f"{made['programs_per_s']:.3g}",
            f"{made['seconds']:.3g}",
            f"{made['share_of_peak']:.0%}",
            "its layers" if made["basis"] == made["shape"] else f"the share of {made['basis']}",
        )
        for made in shapes
    ]
