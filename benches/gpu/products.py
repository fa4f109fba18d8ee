"""Our own products beside torch's, at the projections of named models on the tokens of `bon8`, and a sweep of tiles.

Every tile that compiles is checked first, and must have the bits of the table's tile: a tile that has others may not
stand in the table, and its row is red. `price` is the time of a product over that of torch. Calls are timed in a CUDA
graph, since a launch takes as long as a small product.
"""

import dataclasses
import functools
import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import torch
from codescaler.kernels import count_processors, get_architecture, linear
from codescaler.kernels.configurations import (
    LinearConfiguration,
    choose_linear_configuration,
    list_linear_configurations,
)
from torch import Tensor
from torch.nn import functional

from benches.gpu.parts import Emit, Row, Setting, make_setting
from benches.gpu.random_models import SHAPES, SMALL_SHAPES
from codescaler.ops import Backend, Heads, LinearWeights, select_backend
from codescaler.ops.linear import PackedLinear
from codescaler.quantize.fp8 import quantize_weight_to_fp8
from codescaler.quantize.int8 import quantize_weight
from codescaler.testing import WORKLOADS, ModelShape, assert_accurate, measure_seconds
from codescaler.types import Activation, Fp8Scheme, QuantScheme

# Rows, columns, warps, stages, and programs of a multiprocessor.
SWEEP = (
    *((128, 256, 8, 3, 1), (256, 128, 8, 3, 1), (128, 128, 8, 3, 2), (128, 128, 4, 3, 2), (128, 64, 4, 4, 2)),
    *((64, 256, 4, 4, 1), (64, 128, 4, 4, 2), (64, 128, 4, 3, 3), (64, 64, 4, 4, 3)),
)
SMALL_SWEEP = ((64, 64, 4, 4, 2),)
NUM_SHOWN = 2  # tiles of a product beside the table's: the fastest
NUM_COMPILERS = 12  # processes that compile and check beside one another
CALLS_OF_A_GRAPH = 5
ROW_COUNTS = (1, 8, 16, 63, 64, 65, 129, 500, 1000)  # in which a row must have its bits
_STD = 0.02

Tile = LinearConfiguration


@dataclasses.dataclass(frozen=True)
class Case:
    """One projection: its inputs, and what is done to them; with `activation`, `weight` is of gate and up."""

    x: Tensor
    weight: Tensor
    activation: Activation | None

    def multiply(self, tile: Tile) -> Tensor:
        count = len(self.weight)
        y = self.x.new_empty(len(self.x), count // 2 if self.activation else count)
        linear.linear(self.x, self.weight, None, y, tile, self.activation)
        return y

    def get_table_tile(self) -> Tile:
        architecture, processors = get_architecture(), count_processors()
        return choose_linear_configuration(architecture, 2, len(self.x), len(self.weight), processors)


def run(setting: Setting, emit: Emit) -> None:
    first = list_linear_configurations(get_architecture(), 2)[0]
    sweep = SMALL_SWEEP if setting.is_small else SWEEP
    tiles = [
        Tile(rows, columns, first.step, warps, stages, first.has_descriptors, programs)
        for rows, columns, warps, stages, programs in sweep
    ]
    tiles = list(dict.fromkeys((*list_linear_configurations(get_architecture(), 2), *tiles)))
    with ProcessPoolExecutor(1 if setting.is_small else NUM_COMPILERS, multiprocessing.get_context("spawn")) as pool:
        checks = {tile: pool.submit(check, tile, setting.is_small) for tile in tiles}
        faults = {tile: result.result() for tile, result in checks.items()}
    for tile, fault in faults.items():
        # That a card has no room for a tile is no fault of ours; a wrong result is.
        emit(Row(_name(tile), not fault or (None if "OutOfResources" in fault else False), {}, fault))
    right = [tile for tile, fault in faults.items() if not fault]
    for name, shape in (SMALL_SHAPES if setting.is_small else SHAPES).items():
        _measure_model(name, shape, right, setting, emit)


def check(tile: Tile, is_small: bool) -> str:
    """Compiles a tile, plain and with SwiGLU, and returns what is wrong with it. Runs in a process of the pool."""
    setting = make_setting(is_small, 0, 1, frozenset())
    try:
        for activation in (None, "silu"):
            _check(_make_case(300, 256, 256, activation, setting), tile)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    return ""


def _check(case: Case, tile: Tile) -> None:
    result = case.multiply(tile)
    if not torch.equal(result, case.multiply(case.get_table_tile())):
        raise ValueError("other bits than the table's tile")
    if case.activation is None:
        truth = functional.linear(case.x.double(), case.weight.double())
        assert_accurate(result, truth, functional.linear(case.x, case.weight))


def _make_case(rows: int, outputs: int, inputs: int, activation: str | None, setting: Setting) -> Case:
    dtype = torch.float16 if setting.is_small else torch.bfloat16  # the interpreter gets bfloat16 wrong
    generator = torch.Generator(setting.device).manual_seed(0)
    x, weight = (torch.randn(count, inputs, generator=generator, device=setting.device) for count in (rows, outputs))
    return Case(x.to(dtype), (_STD * weight).to(dtype), activation)


def _list_projections(shape: ModelShape) -> Iterator[tuple[str, int, int, str | None]]:
    """Name, outputs, inputs and activation."""
    heads = Heads(shape.num_heads, shape.num_kv_heads, shape.head_dim)
    yield "qkv", heads.qkv_width, shape.hidden_size, None
    yield "o", shape.hidden_size, heads.q_width, None
    yield "gate_up", 2 * shape.intermediate_size, shape.hidden_size, "silu"
    yield "down", shape.hidden_size, shape.intermediate_size, None


def _measure_model(model: str, shape: ModelShape, tiles: list[Tile], setting: Setting, emit: Emit) -> None:
    tokens = 70 if setting.is_small else WORKLOADS["bon8"].num_distinct_tokens
    ours_us = torch_us = 0.0
    for name, outputs, inputs, activation in _list_projections(shape):
        case = _make_case(tokens, outputs, inputs, activation, setting)
        flops = 2.0 * tokens * outputs * inputs
        by_torch = _measure_us(functools.partial(_multiply_by_torch, case, setting), setting)
        emit(Row(f"{model} {name} torch", None, {"us": by_torch, "tflops": flops / by_torch / 1e6}))
        table = case.get_table_tile()
        expected = case.multiply(table)
        timed: dict[Tile, float] = {}
        for tile in dict.fromkeys((table, *tiles)):
            if torch.equal(case.multiply(tile), expected):
                timed[tile] = _measure_us(functools.partial(case.multiply, tile), setting)
            else:
                emit(Row(f"{model} {name} {_name(tile)}", False, {}, "other bits than the table's tile"))
        different = _count_different_row_counts(case, expected)
        for tile in dict.fromkeys((table, *sorted(timed, key=timed.__getitem__)[:NUM_SHOWN])):
            figures = {"us": timed[tile], "tflops": flops / timed[tile] / 1e6, "price": timed[tile] / by_torch}
            is_table = tile == table
            figures |= {"different": different} if is_table else {}
            label = f"{model} {name} {'table: ' if is_table else ''}{_name(tile)}"
            emit(Row(label, different == 0 if is_table else True, figures))
        for row in _measure_formats(case, by_torch, flops, setting):
            emit(Row(f"{model} {name} {row.name}", row.is_ok, row.figures))
        ours_us, torch_us = ours_us + timed[table], torch_us + by_torch
    emit(Row(f"{model} layer", None, {"us": ours_us, "torch_us": torch_us, "price": ours_us / torch_us}))


def _measure_formats(case: Case, by_torch_us: float, flops: float, setting: Setting) -> Iterator[Row]:
    """Products of quantised weights, their rounding of rows included, beside torch's in two bytes: `price`."""
    backend = _select_backend(setting.device.type)
    inputs = case.x.shape[1]
    for scheme, quantise in (
        (Fp8Scheme(), quantize_weight_to_fp8),
        (QuantScheme(8, has_hadamard=False), quantize_weight),
        (QuantScheme.of(16, inputs), quantize_weight),
    ):
        if backend.supports(scheme) is None:
            weight, scale = quantise(case.weight)
            packed = backend.pack_linear(LinearWeights(weight, None, scale[:, 0].float()), scheme)
            us = _measure_us(functools.partial(_multiply_packed, backend, case.x, packed, case.activation), setting)
            name = f"{scheme.name}, inputs of {scheme.bits} bits"
            yield Row(name, None, {"us": us, "tflops": flops / us / 1e6, "price": us / by_torch_us})


def _multiply_by_torch(case: Case, setting: Setting) -> Tensor:
    y = functional.linear(case.x, case.weight)
    if case.activation:
        return _select_backend(setting.device.type).glu(y, case.activation)
    return y


@functools.cache
def _select_backend(device_type: str, deterministic: bool = False):  # type: ignore[no-untyped-def]
    return select_backend("triton", device_type, deterministic=deterministic)


def _count_different_row_counts(case: Case, expected: Tensor) -> int:
    """How many numbers of rows give the first rows other bits than all rows do, by the tiles of the table."""
    backend = _select_backend(case.x.device.type, deterministic=True)
    packed = backend.pack_linear(LinearWeights(case.weight))
    counts = [count for count in ROW_COUNTS if count <= len(case.x)]
    results = (_multiply_packed(backend, case.x[:count], packed, case.activation) for count in counts)
    return sum(not torch.equal(result, expected[: len(result)]) for result in results)


def _multiply_packed(backend: Backend, x: Tensor, packed: PackedLinear, activation: Activation | None) -> Tensor:
    return backend.linear_glu(x, packed, activation) if activation else backend.linear(x, packed)


def _measure_us(call: Callable[[], Tensor], setting: Setting) -> float:
    if setting.device.type != "cuda":
        return 1e6 * measure_seconds(call, setting.device)
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS_OF_A_GRAPH):
            call()
    seconds = [measure_seconds(graph.replay, setting.device) for _ in range(setting.num_rounds)]
    return 1e6 * statistics.median(seconds) / CALLS_OF_A_GRAPH


def _name(tile: Tile) -> str:
    name = f"{tile.rows} x {tile.columns} warps {tile.num_warps} stages {tile.num_stages}"
    return name if tile.num_programs == 1 else f"{name} programs {tile.num_programs}"
