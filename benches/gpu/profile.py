"""Each kernel's time in a forward beside the roofline's, and what lies between the launches.

A forward of `bon8` under torch's profiler. Matrix products are one row: their kernels do not say which layer they are
of.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity

from benches.gpu.parts import Emit, Row, Setting
from benches.gpu.random_models import SHAPES, SMALL_SHAPES, SMALL_WORKLOADS, build_ours
from benches.tools.roofline import predict
from codescaler.engine.cuda_graphs import CudaGraphs
from codescaler.ops import Tree
from codescaler.ops.plan import plan
from codescaler.testing import WORKLOADS, ModelShape, Workload

OUR_KERNELS = (
    *("rms_norm", "qk_norm_rope", "tree_attention", "glu", "pooled_score"),
    *("rms_norm_backward", "qk_norm_rope_backward", "glu_backward", "pairwise_loss"),
    *(f"tree_attention_backward_{name}" for name in ("queries", "keys", "sums")),
)
# What the kernels of torch that are no matrix products have in their names.
OTHERS = {"multi_tensor_apply": "optimizer and clipping", "elementwise": "copies and other", "Mem": "copies and other"}


def run(setting: Setting, emit: Emit) -> None:
    name, workload = next(iter((SMALL_WORKLOADS if setting.is_small else WORKLOADS).items()))
    for shape_name, shape in (SMALL_SHAPES if setting.is_small else SHAPES).items():
        for row in _profile(shape, workload, setting):
            emit(Row(f"{shape_name} {name} {row.name}", row.is_ok, row.figures))


def _profile(shape: ModelShape, workload: Workload, setting: Setting) -> list[Row]:
    dtype = torch.float32 if setting.is_small else torch.bfloat16
    decoder = build_ours(shape, dtype, setting.device)
    sequences = [np.array(ids, dtype=np.int32) for ids in workload.draw_sequences()]
    (batch,) = plan(sequences, 10**9)
    with torch.inference_mode():
        for _ in range(2):
            decoder.forward(Tree.from_batch(batch, setting.device))
        events = record_kernels(lambda: decoder.forward(Tree.from_batch(batch, setting.device)), setting)
        rows = [*make_kernel_rows(events, _predict_us(shape, workload)), make_gap_row(events)]
        if setting.device.type == "cuda":
            graphs = CudaGraphs(decoder)
            for _ in range(3):  # a size is captured when it comes for the second time
                graphs.forward(batch)
            gaps = make_gap_row(record_kernels(lambda: graphs.forward(batch), setting))
            rows.append(replace(gaps, name="gaps, CUDA graph"))
    return rows


def record_kernels(call: Callable[[], object], setting: Setting) -> list[Any]:
    """Returns the profiler's events of the kernels of one call, which has run before."""
    activity = ProfilerActivity.CPU if setting.is_small else ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[activity]) as profiler:
        call()
        if setting.device.type == "cuda":
            torch.cuda.synchronize()
    wanted = torch.autograd.DeviceType.CPU if setting.is_small else torch.autograd.DeviceType.CUDA
    return [event for event in profiler.events() if event.device_type == wanted]


def make_kernel_rows(events: Sequence[Any], predicted_us: Mapping[str, float]) -> list[Row]:
    """Returns a row for each kernel of ours, and one for each kind of torch's: launches, time, and the prediction."""
    spent: dict[str, list[float]] = defaultdict(list)
    for event in events:
        ours = (name for name in OUR_KERNELS if f"{name}_kernel" in event.name)
        others = (name for part, name in OTHERS.items() if part in event.name)
        spent[next(ours, next(others, "linear"))].append(event.time_range.elapsed_us())
    return [
        Row(name, None, {"launches": len(times), "us": sum(times), "roofline_us": predicted_us.get(name)})
        for name, times in spent.items()
    ]


def _predict_us(shape: ModelShape, workload: Workload) -> dict[str, float]:
    """What the roofline says of all layers; the last layer counts in full, though it computes less."""
    launches: Any = predict(shape, workload)["codescaler"]["launches_of_a_layer"]
    predicted: dict[str, float] = defaultdict(float)
    for launch in launches:
        name = launch["name"] if launch["name"] in OUR_KERNELS else "linear"
        predicted[name] += launch["predicted_us"] * shape.num_layers
    return predicted


def make_gap_row(events: Sequence[Any]) -> Row:
    """Time in which no kernel ran, between the start of the first and the end of the last."""
    if not events:
        return Row("gaps", False, fault="the profiler saw no kernel")
    start, end = min(e.time_range.start for e in events), max(e.time_range.end for e in events)
    busy = sum(event.time_range.elapsed_us() for event in events)
    figures = {"launches": len(events), "span_us": end - start, "idle_us": max(end - start - busy, 0.0)}
    return Row("gaps", None, figures)
