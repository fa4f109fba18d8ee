"""Each kernel's time in a forward beside the roofline's, and what lies between the launches.

A forward of `bon8` under torch's profiler. Matrix products are one row: their kernels do not say which layer they are
of.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity

from benches.gpu.parts import Emit, Row, Setting
from benches.gpu.random_models import SHAPES, SMALL_SHAPES, SMALL_WORKLOADS, build_ours
from benches.tools.roofline import predict
from codescaler.ops import Tree
from codescaler.ops.plan import plan
from codescaler.testing import WORKLOADS, ModelShape, Workload

OUR_KERNELS = ("rms_norm", "qk_norm_rope", "tree_attention", "glu", "pooled_score")


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
    activity = ProfilerActivity.CPU if setting.is_small else ProfilerActivity.CUDA
    with torch.inference_mode():
        for _ in range(2):
            decoder.forward(Tree.from_batch(batch, setting.device))
        with torch.profiler.profile(activities=[activity]) as profiler:
            decoder.forward(Tree.from_batch(batch, setting.device))
            if setting.device.type == "cuda":
                torch.cuda.synchronize()
    wanted = torch.autograd.DeviceType.CPU if setting.is_small else torch.autograd.DeviceType.CUDA
    events = [event for event in profiler.events() if event.device_type == wanted]
    return [*_make_kernel_rows(events, shape, workload), _make_gap_row(events)]


def _make_kernel_rows(events: Sequence[Any], shape: ModelShape, workload: Workload) -> list[Row]:
    spent: dict[str, list[float]] = defaultdict(list)
    for event in events:
        name = next((name for name in OUR_KERNELS if f"{name}_kernel" in event.name), "")
        is_copy = "elementwise" in event.name or "Mem" in event.name
        spent[name or ("copies and other" if is_copy else "linear")].append(event.time_range.elapsed_us())
    predicted = _predict_us(shape, workload)
    return [
        Row(name, None, {"launches": len(times), "us": sum(times), "roofline_us": predicted.get(name)})
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


def _make_gap_row(events: Sequence[Any]) -> Row:
    """Time in which no kernel ran, between the start of the first and the end of the last."""
    if not events:
        return Row("gaps", False, fault="the profiler saw no kernel")
    start, end = min(e.time_range.start for e in events), max(e.time_range.end for e in events)
    busy = sum(event.time_range.elapsed_us() for event in events)
    figures = {"launches": len(events), "span_us": end - start, "idle_us": max(end - start - busy, 0.0)}
    return Row("gaps", None, figures)
