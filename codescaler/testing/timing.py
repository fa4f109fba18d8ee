"""How long calls and their kernels take, and how fast a machine can be: by the clock on CPUs, by events on GPUs."""

import functools
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from codescaler.ops import LinearWeights, select_backend
from codescaler.types import QuantScheme

# Tokens, inputs and outputs of the products that a peak is taken from. On a CPU the block of tokens that the decoder
# walks in, so that inputs and outputs stay in the cache, and 0.6B shapes; on a GPU one product that fills it.
_CPU_PEAK_SIZES = ((512, 1024, 4096), (512, 3072, 1024))
_GPU_PEAK_SIZES = ((8192, 8192, 8192),)
_FLUSH_BYTES = 1 << 28  # more than any GPU's second-level cache
_MOST_FILLS = 768  # with the calls fewer than the 1024 launches that a device queues


def bench_device() -> torch.device:
    """Returns the device that benches run on: the first GPU where there is one."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def describe_device(device: torch.device, cpu_name: str) -> str:
    """Returns what a table calls the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name


def choose_fastest_dtype() -> str:
    """Returns the dtype in which `bench_device` scores fastest: bfloat16 but on a CPU where it is slow."""
    is_fast = bench_device().type == "cuda" or select_backend("auto", "cpu").is_bf16_fast
    return "bfloat16" if is_fast else "float32"


def measure_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds that a call takes, the host's work included.

    On a GPU they are between two events, from a cache that was flushed.
    """
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    _make_flush_buffer(device).zero_()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end)) / 1000.0


def measure_kernel_seconds(
    call: Callable[[], object], device: torch.device, num_calls: int = 10, *, is_flushed: bool = False
) -> float:
    """Returns the seconds that the kernels of a call take, without the host's work: the mean of `num_calls` calls.

    On a GPU the device is kept busy until the host has launched all calls; how long that must be is found by trial.
    With `is_flushed` each call starts from a cache that was flushed, and the flush is not counted. On a CPU the kernels
    are the call.

    Raises:
        RuntimeError: the call waits for the device, so that its launches cannot be brought forward.
    """
    if device.type != "cuda":
        return statistics.mean(measure_seconds(call, device) for _ in range(num_calls))
    buffer = _make_flush_buffer(device)
    for num_fills in (16, 64, 256, _MOST_FILLS):  # of which each keeps an H200 busy for 60 us
        torch.cuda.synchronize(device)
        for _ in range(num_fills):
            buffer.zero_()
        spans = []
        for _ in range(num_calls if is_flushed else 1):
            if is_flushed:
                buffer.zero_()
            spans.append(_record_span(call, 1 if is_flushed else num_calls))
        is_launched_in_time = not spans[0][0].query()
        torch.cuda.synchronize(device)
        if is_launched_in_time:
            return sum(float(begin.elapsed_time(end)) for begin, end in spans) / num_calls / 1000.0
    raise RuntimeError(
        f"the device ran dry before {num_calls} calls were launched, after {_MOST_FILLS} fills: the call waits for it"
    )


def _record_span(call: Callable[[], object], num_calls: int) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    """Launches the calls between two events."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(num_calls):
        call()
    end.record()
    return begin, end


@functools.cache
def _make_flush_buffer(device: torch.device) -> torch.Tensor:
    return torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)


def measure_peak_flops(dtype: torch.dtype, device: torch.device | None = None, is_int8: bool = False) -> float:
    """Returns a device's peak in FLOP/s (by default the CPU's), measured now: the best linear layer, a median of 7.

    With `is_int8` its weights are int8 and activations, of dtype `dtype`, are rounded to 8 bits; where oneDNN
    multiplies integers faster on a CPU with AVX-512 BF16, its speed is the peak.
    """
    device = device or torch.device("cpu")
    backend = select_backend("auto", device.type)
    peaks = []
    for rows, num_inputs, num_outputs in _GPU_PEAK_SIZES if device.type == "cuda" else _CPU_PEAK_SIZES:
        x = torch.ones(rows, num_inputs, dtype=dtype, device=device)
        weight = torch.ones(num_outputs, num_inputs, dtype=torch.int8 if is_int8 else dtype, device=device)
        if is_int8:
            scale = torch.ones(num_outputs, device=device)
            packed = backend.pack_linear(LinearWeights(weight, None, scale), QuantScheme(8, has_hadamard=False))
        else:
            packed = backend.pack_linear(LinearWeights(weight))
        products: list[Callable[[], torch.Tensor]] = [partial(backend.linear, x, packed)]
        if is_int8 and backend.has_bf16_unit and hasattr(torch.ops.onednn, "qlinear_pointwise"):
            products.append(_make_onednn_int8_product(rows, weight))
        for product in products:
            product()  # the first call chooses and compiles a kernel
            seconds = statistics.median(measure_seconds(product, device) for _ in range(7))
            peaks.append(2.0 * rows * num_inputs * num_outputs / seconds)
    return max(peaks)


def _make_onednn_int8_product(rows: int, weight: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The product of unsigned and signed 8-bit integers, by oneDNN through torch's private call: for its time."""
    outputs, inputs = weight.shape
    x = torch.full((rows, inputs), 129, dtype=torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack(weight, x.shape)
    scales, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
    return partial(
        torch.ops.onednn.qlinear_pointwise,
        x, 1.0, 128, packed, scales, zeros, None, 1.0, 0, torch.bfloat16, "none", [], "",
    )  # fmt: skip
