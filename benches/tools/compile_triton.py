"""Compiles every Triton kernel for six GPUs, without one: `python benches compile_triton`, or `make compile-triton`.

The operations of the `triton` backend run on tensors without memory, and each launch is compiled and not run, so
what is compiled is what a GPU would be given: types, constants, and which pointers and strides are multiples of 16. The
table is held against the committed one of this release of Triton. Exit status 1 if a row breaks a rule, or is worse: a
spill more, or a tensor instruction lost. `--accept` writes the new table. Registers are shown and not held: what they
cost is spills. A release without a table is held to the rules alone, and the last line says so.

Float32 takes no tensor core, and is not asked for one.
"""

import argparse
import importlib
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import triton
from codescaler.kernels import fp8_linear, get_architecture, int8_linear, linear
from codescaler.kernels.configurations import list_linear_configurations
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from codescaler.ops import AttentionSpec, Backend, Heads, RotaryTables, Tree
from codescaler.ops.linear import ExpertWeights
from codescaler.ops.plan import plan
from codescaler.ops.triton import make_backend
from codescaler.ops.triton.backend import has_fp8
from codescaler.testing import WORKLOADS

RELEASE = ".".join(triton.__version__.split(".")[:2])
RESULTS = Path(__file__).parents[1] / "results" / f"triton_compile_{RELEASE}.json"
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
# Target -> what Triton calls it, shared memory a program may have, and the tensor instruction that products must show.
TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 163 * 1024, "mma.sync"),
    "sm_89": (GPUTarget("cuda", 89, 32), 99 * 1024, "mma.sync"),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 * 1024, "wgmma"),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 * 1024, "tcgen05"),
    "sm_120": (GPUTarget("cuda", 120, 32), 99 * 1024, "mma.sync"),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 * 1024, "mfma"),
}
INSTRUCTIONS = ("tcgen05.mma", "wgmma.mma_async", "mma.sync", "v_mfma")
# What consists of matrix products.
PRODUCTS = ("tree_attention", "tree_attention_backward_queries", "tree_attention_backward_keys")
META = torch.device("meta")
NUM_PROCESSORS = 132  # that a launch is told of: the kernel is the same for any number
# Name -> heads, hidden, ffn, QK-norm, activation, soft-cap.
MODELS = {
    "qwen3-1.7b": (Heads(16, 8, 128), 2048, 6144, True, "silu", None),
    "qwen2.5-0.5b": (Heads(14, 2, 64), 896, 4864, False, "silu", None),
    "gemma2-2b": (Heads(8, 4, 256), 2304, 9216, False, "gelu_tanh", 50.0),
}

EXPERTS = (128, 8, 2048, 768)  # experts, those of a token, hidden, ffn: Qwen3-30B-A3B


@dataclass(frozen=True)
class Row:
    """One kernel at one configuration on one target; None, and why, where the target cannot have it."""

    kernel: str
    config: str
    target: str
    registers: int | None
    spill_bytes: int | None
    shared_bytes: int | None
    tensor_instruction: str
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kernel, self.config, self.target


class Stub:
    """Stands for a GPU's driver as far as compiling asks."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target
        self.utils = SimpleNamespace(get_device_properties=lambda _: {"multiprocessor_count": NUM_PROCESSORS})

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target.arch)  # Triton keeps kernels by device

    def get_current_stream(self, device: str) -> int:
        return 0


def main() -> int:
    """Compiles, prints the table, and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python benches compile_triton")
    parser.add_argument("--accept", action="store_true", help="take the new table as the one to hold others against")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="all, if none is named")
    arguments = parser.parse_args()
    if arguments.accept and len(arguments.targets) < len(TARGETS):
        parser.error("--accept writes the whole table; leave --targets out")
    # A process for each target, since a process has one active driver. By its name, since this module runs as a script.
    compile_target = importlib.import_module("benches.tools.compile_triton")._compile
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        rows = []
        for name, of_target in zip(arguments.targets, pool.imap(compile_target, arguments.targets), strict=True):
            print(f"{name}: {len(of_target)} kernels", file=sys.stderr, flush=True)
            rows += of_target
    print(_format_table(rows))
    committed = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    committed = [row for row in committed if row["target"] in arguments.targets]
    faults = [fault for row in rows for fault in _find_faults(row)]
    if committed and not arguments.accept:
        faults += _find_worse(rows, {(row["kernel"], row["config"], row["target"]): row for row in committed})
    if arguments.accept and not faults:
        values = {"triton": triton.__version__, "command": "make compile-triton", "rows": [asdict(row) for row in rows]}
        RESULTS.write_text(json.dumps(values, indent=1) + "\n")
    for fault in faults:
        print("FAIL:", fault)
    held = f"the table of Triton {RELEASE}" if committed else f"the rules alone: there is no table of Triton {RELEASE}"
    print(f"{len(rows)} kernels, {len(faults)} faults, held to {held}; nothing here says how fast they are.")
    return 1 if faults else 0


def _compile(name: str) -> list[Row]:
    target = TARGETS[name][0]
    driver.set_active(Stub(target))
    rows: dict[tuple[str, str, str], Row] = {}
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        shown = {key: int(value) for key, value in constants.items() if key not in ("enable_fp_fusion", "KEY_BLOCK")}
        tensors = [getattr(value, "base", value) for value in args if hasattr(value, "base") or torch.is_tensor(value)]
        dtypes = dict.fromkeys(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
        config = " ".join([",".join(dtypes), *(f"{k}={v}" for k, v in shown.items())])
        kernel = self.__name__.removesuffix("_kernel")
        try:
            row = Row(kernel, config, name, *_measure(run(self, *args, grid=grid, warmup=True, **constants)))
        except Exception as error:
            row = Row(kernel, config, name, None, None, None, "", f"{type(error).__name__}: {str(error)[:200]}")
        rows[row.key] = row

    JITFunction.run = compile_only
    try:
        for _ in _launch_all():
            pass
    finally:
        JITFunction.run = run
    return list(rows.values())


def _launch_all() -> Iterator[None]:
    """Calls every operation at the shapes of every model."""
    backend = make_backend()
    sequences = [np.array(ids, dtype=np.int32) for ids in WORKLOADS["bon8"].draw_sequences()]
    tree = Tree.from_batch(plan(sequences, 10**9)[0], META)
    count = len(tree.token_ids)
    for heads, hidden, ffn, has_norm, activation, softcap in MODELS.values():
        x, residual = _make_empty(count, hidden), _make_empty(count, hidden, dtype=torch.float32)
        weight, norm = residual[0], _make_empty(heads.head_dim, dtype=torch.float32) if has_norm else None
        table = _make_empty(tree.num_positions, heads.head_dim // 2, dtype=torch.float32)
        backend.rms_norm(x, weight, 1e-6, residual)
        if softcap is not None:
            backend.rms_norm(x, weight, 1e-6)  # Gemma2 normalises outputs too
        qkv = _make_empty(count, heads.qkv_width)
        backend.qk_norm_rope(qkv, heads, tree.positions, RotaryTables(table, table), norm, norm, 1e-6)
        backend.glu(_make_empty(count, 2 * ffn), activation)
        yield
        backend.tree_attention(qkv, AttentionSpec(heads, 0.1, softcap), tree, tree.all_queries)
        yield
        if softcap is not None:
            backend.tree_attention(qkv, AttentionSpec(heads, 0.1, softcap, 512), tree, tree.all_queries)
        backend.pooled_score(x, residual, tree.rows, weight, 1e-6, weight[None], None)
        backend.log_sum_exp(_make_empty(count, 8192), _make_empty(count, 2, dtype=torch.float32), softcap)
        yield
        backend.rms_norm_backward(residual, weight, 1e-6, x, residual)
        before = qkv[:, : heads.q_width + heads.kv_width] if has_norm else None
        rotary = RotaryTables(table, table)
        backend.qk_norm_rope_backward(before, heads, tree.positions, rotary, norm, norm, 1e-6, qkv)
        backend.glu_backward(_make_empty(count, 2 * ffn), activation, _make_empty(count, ffn))
        yield
        for queries in (tree.all_queries, tree.read_queries):
            spec = AttentionSpec(heads, 0.1, softcap)
            out, log_sums = backend.attend_for_gradient(qkv, spec, tree, queries)
            backend.tree_attention_backward(qkv, spec, tree, queries, out, (out, log_sums))
            yield
    for dtype in (torch.bfloat16, torch.float32):
        _launch_experts(backend, count, dtype)
        yield
    heads = MODELS["qwen3-1.7b"][0]
    qkv = _make_empty(count, heads.q_width + 2 * heads.kv_width, dtype=torch.float32)
    backend.tree_attention(qkv, AttentionSpec(heads, 0.1), tree, tree.all_queries)
    out, log_sums = backend.attend_for_gradient(qkv, AttentionSpec(heads, 0.1), tree, tree.all_queries)
    arguments = (tree, tree.all_queries, out, (out, log_sums))
    backend.tree_attention_backward(qkv, AttentionSpec(heads, 0.1), *arguments)
    yield
    for _ in _launch_linears(count):
        yield
    labels, offsets = _make_empty(64, dtype=torch.bool), _make_empty(9, dtype=torch.int64)
    backend.pairwise_loss(
        _make_empty(64, dtype=torch.float32), labels, offsets, _make_empty(8, dtype=torch.float32), 0.01
    )
    yield


def _launch_experts(backend: Backend, count: int, dtype: torch.dtype) -> None:
    """Calls the operations of Qwen3-30B-A3B's experts."""
    num_experts, num_chosen, hidden, ffn = EXPERTS
    routing = backend.route(_make_empty(count, num_experts, dtype=torch.float32), num_chosen, True)
    weights = ExpertWeights(
        _make_empty(num_experts, 2 * ffn, hidden, dtype=dtype), _make_empty(num_experts, hidden, ffn, dtype=dtype)
    )
    backend.expert_mlp(_make_empty(count, hidden, dtype=dtype), routing, weights, "silu")


def _launch_linears(num_rows: int) -> Iterator[None]:
    """Calls the product with tiles of its table, plain and with SwiGLU: the two widest tiles and the narrowest one."""
    for dtype in (torch.bfloat16, torch.float32):
        tiles = list_linear_configurations(get_architecture(), dtype.itemsize)
        x, weight, y = (_make_empty(size, 2048, dtype=dtype) for size in (num_rows, 4096, num_rows))
        for tile in dict.fromkeys((*tiles[:2], tiles[-1])):
            linear.linear(x, weight[:2048], None, y, tile)
            yield
            linear.linear(x, weight, None, y, tile, "silu")
            yield
    weight, sums = _make_empty(2048, 2048, dtype=torch.int8), _make_empty(2048, dtype=torch.int32)
    tiles, scale = list_linear_configurations(get_architecture(), 1), _make_empty(2048, dtype=torch.float32)
    for dtype, tile in itertools.product((torch.bfloat16, torch.float32), dict.fromkeys((tiles[0], tiles[-1]))):
        x, y = (_make_empty(num_rows, 2048, dtype=dtype) for _ in range(2))
        for num_steps in (127, 8191):
            int8_linear.int8_linear(x, weight, sums, scale, None, y, num_steps, tile, has_hadamard=True)
            yield
        if has_fp8(get_architecture()):
            fp8_linear.fp8_linear(x, _make_empty(2048, 2048, dtype=torch.float8_e4m3fn), scale, None, y, tile)
            yield


def _make_empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=META)


def _measure(compiled: Any) -> tuple[int, int, int, str]:
    """Registers, spilled bytes a thread, shared memory and tensor instruction."""
    text = compiled.asm.get("ptx") or compiled.asm["amdgcn"]
    instruction = next((name for name in INSTRUCTIONS if name in text), "")
    if "cubin" in compiled.asm:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            dump = subprocess.run([CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, check=True)
        usage = dump.stdout.decode()
        registers, spilled = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK"))
    else:
        keys = ("vgpr_count", "private_segment_fixed_size")
        registers, spilled = (int(re.search(rf"\.{key}:\s*(\d+)", text)[1]) for key in keys)
    return registers, spilled, compiled.metadata.shared, instruction


def _find_faults(row: Row) -> list[str]:
    """The rules that a row breaks."""
    if row.registers is None:  # listed with its reason; `_find_worse` sees to it that somebody has accepted that
        return []
    _, limit, instruction = TARGETS[row.target]
    faults = [f"{row.key}: {row.shared_bytes} bytes of shared memory, {limit} are there"] * (row.shared_bytes > limit)
    if row.kernel == "multiply_experts" and row.config.startswith("bfloat16"):
        if instruction not in row.tensor_instruction:
            faults.append(f"{row.key}: {row.tensor_instruction or 'no tensor instruction'}, not {instruction}")
        if row.spill_bytes:
            faults.append(f"{row.key}: {row.spill_bytes} bytes spilled")
    if row.kernel in (*PRODUCTS, "linear", "scaled_product"):
        is_wide = "HEAD_DIM=256" in row.config
        is_exact = row.config.startswith(("float32", "int8"))
        if not is_exact and instruction not in row.tensor_instruction:
            faults.append(f"{row.key}: {row.tensor_instruction or 'no tensor instruction'}, not {instruction}")
        if row.spill_bytes and not is_wide:
            faults.append(f"{row.key}: {row.spill_bytes} bytes spilled")
    return faults


def _find_worse(rows: list[Row], committed: dict[tuple[str, str, str], dict[str, Any]]) -> list[str]:
    faults = [f"{key}: gone from the table; see --accept" for key in committed.keys() - {row.key for row in rows}]
    for row in rows:
        old = committed.get(row.key)
        if old is None:
            faults.append(f"{row.key}: not in the committed table; see --accept")
        elif row.registers is None:
            faults += [f"{row.key}: does not compile any more: {row.reason}"] * (old["registers"] is not None)
        elif old["registers"] is not None:
            is_worse = row.spill_bytes > old["spill_bytes"] or row.tensor_instruction != old["tensor_instruction"]
            faults += [f"{row.key}: worse than {old}; see --accept"] * is_worse
    return faults


def _format_table(rows: list[Row]) -> str:
    lines = [f"{'target':8} {'registers':>9} {'spilled':>8} {'shared':>8}  {'tensor':16} kernel and configuration"]
    for row in rows:
        numbers = ("-" if value is None else value for value in (row.registers, row.spill_bytes, row.shared_bytes))
        registers, spilled, shared = numbers
        name = f"{row.kernel} {row.config} {row.reason}"
        lines.append(f"{row.target:8} {registers:>9} {spilled:>8} {shared:>8}  {row.tensor_instruction:16} {name}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
