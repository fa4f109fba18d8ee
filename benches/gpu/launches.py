"""What a launch costs the host: our operations beside torch's, each on so little that the card waits for the host.

Ours are launched in turn by `codescaler.kernels.launch` and by Triton itself.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from unittest import mock

import numpy as np
import torch
from codescaler.kernels.launch import Kernel

from benches.gpu.parts import Emit, Row, Setting
from codescaler.ops import AttentionSpec, Heads, LinearWeights, RotaryTables, Tree, select_backend
from codescaler.ops.plan import plan

NUM_CALLS = 300  # of a round; the card's queue holds a thousand
HEADS, HIDDEN, TOKENS = Heads(2, 1, 64), 128, 16

Call = Callable[[], object]


def run(setting: Setting, emit: Emit) -> None:
    calls = dict(_list_calls(setting))
    spent: dict[str, dict[str, list[float]]] = {name: {"us": [], "triton_us": []} for name in calls}
    for _ in range(setting.num_rounds):
        for name, call in calls.items():
            spent[name]["us"].append(_measure_us(call, setting))
            if not name.startswith("torch"):
                with mock.patch.object(Kernel, "__getitem__", _launch_by_triton):
                    spent[name]["triton_us"].append(_measure_us(call, setting))
    for name, of_systems in spent.items():
        emit(Row(name, None, {system: statistics.median(us) for system, us in of_systems.items() if us}))


def _launch_by_triton(kernel: Kernel, grid: tuple[int, ...]) -> Callable[..., None]:
    return partial(kernel.launch_by_triton, grid)


def _measure_us(call: Call, setting: Setting) -> float:
    count = 1 if setting.is_small else NUM_CALLS
    call()
    if setting.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        call()
    return 1e6 * (time.perf_counter() - start) / count


def _list_calls(setting: Setting) -> Iterator[tuple[str, Call]]:
    device, dtype = setting.device, torch.float32 if setting.is_small else torch.bfloat16

    def make(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
        return torch.zeros(*shape, dtype=of, device=device)

    backend = select_backend("triton", device.type, deterministic=True)
    (batch,) = plan([np.arange(TOKENS, dtype=np.int32)], 10**9)
    tree = Tree.from_batch(batch, device)
    x, residual, weight = make(TOKENS, HIDDEN), make(TOKENS, HIDDEN, of=torch.float32), make(HIDDEN, HIDDEN)
    norm, qkv = make(HIDDEN, of=torch.float32), make(TOKENS, HEADS.qkv_width)
    packed = backend.pack_linear(LinearWeights(weight))
    table = make(TOKENS, HEADS.head_dim // 2, of=torch.float32)
    rotary, spec = RotaryTables(table, table), AttentionSpec(HEADS, 1.0)
    yield "torch empty", lambda: torch.empty_like(x)
    yield "torch add", lambda: x.add_(1)
    yield "torch linear", lambda: torch.nn.functional.linear(x, weight)
    yield "rms_norm", lambda: backend.rms_norm(x, norm, 1e-6, residual)
    yield "qk_norm_rope", lambda: backend.qk_norm_rope(qkv, HEADS, tree.positions, rotary)
    yield "tree_attention", lambda: backend.tree_attention(qkv, spec, tree, tree.all_queries)
    yield "glu", lambda: backend.glu(x, "silu")
    yield "linear, deterministic", lambda: backend.linear(x, packed)
    yield "linear_glu, deterministic", lambda: backend.linear_glu(x, packed, "silu")
