"""Rows whose bits depend on their batch: with deterministic linear layers none may, with torch's they are counted.

Each model has real widths. `linear` is the deterministic product alone, over the numbers of rows of a batch: if it
fails, the product is at fault, and not the other kernels of `scores, deterministic`.
"""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benches.gpu.parts import Emit, Row, Setting
from codescaler.checkpoint.load import open_checkpoint
from codescaler.model.decoder import Decoder, build_decoder
from codescaler.ops import LinearWeights, select_backend
from codescaler.testing import WIDTHS, make_branching_lists, run_forward_lists, save_random_checkpoint
from codescaler.text.token_ids import Int32

VOCABULARY = 200
LINEAR, DETERMINISTIC, SCORES = "linear", "scores, deterministic", "scores"
ROW_COUNTS = (1, 17, 64, 2, 15, 16, 63, 65, 100, 128, 129, 257, 511)


def run(setting: Setting, emit: Emit) -> None:
    dtypes = ("float32",) if setting.is_small else ("float32", "bfloat16")
    families = ("qwen3",) if setting.is_small else tuple(WIDTHS)
    cases = list(itertools.product(families, dtypes, (LINEAR, DETERMINISTIC, SCORES)))
    # Experts are no linear layers.
    cases = [case for case in cases if case[2] != LINEAR or not case[0].endswith("_moe")]
    for case in setting.take(cases, lambda case: " ".join(case)):
        emit(_measure(*case, setting))
    if setting.shard == 0:
        for dtype in dtypes:
            emit(_measure_host(dtype))


def _measure(family: str, dtype: str, what: str, setting: Setting) -> Row:
    lists = make_branching_lists()
    with tempfile.TemporaryDirectory() as folder:
        widths = {} if setting.is_small else WIDTHS[family]
        settings = {
            "vocab_size": VOCABULARY,
            "num_hidden_layers": 1 if setting.is_small else 2,
            "pad_token_id": None,
        } | widths
        save_random_checkpoint(Path(folder), family, **settings)
        checkpoint = open_checkpoint(Path(folder))
        backend = select_backend("triton", setting.device.type, deterministic=what != SCORES)
        decoder = build_decoder(checkpoint.config, checkpoint.get, backend, getattr(torch, dtype), setting.device)
        count = _count_different_products if what == LINEAR else _count_different_rows
        num_rows, num_different = count(decoder, lists)
    is_ok = None if what == SCORES else num_different == 0
    return Row(f"{family} {dtype} {what}", is_ok, {"rows": num_rows, "different": num_different})


def _measure_host(dtype: str) -> Row:
    """The same of the CPU's own product: hosts of cards have instructions (AMX) that no other machine of ours has."""
    backend, different, num_counts = select_backend("cpu", "cpu"), [], 0
    for inputs, outputs in ((1024, 512), (3072, 256), (4864, 224)):
        generator = torch.Generator().manual_seed(0)
        weight, x = (torch.randn(n, inputs, generator=generator).to(getattr(torch, dtype)) for n in (outputs, 700))
        packed = backend.pack_linear(LinearWeights(weight * 0.02))
        together = backend.linear(x, packed)
        different += [
            f"{n}x{inputs}" for n in ROW_COUNTS if not torch.equal(backend.linear(x[:n], packed), together[:n])
        ]
        num_counts += len(ROW_COUNTS)
    is_ok = not different if dtype == "float32" or backend.has_bf16_unit else None
    figures = {"rows": num_counts, "different": len(different), "threads": torch.get_num_threads()}
    return Row(f"host {dtype} linear", is_ok, figures, f"rows x inputs: {' '.join(different)}" if different else "")


def _count_different_products(decoder: Decoder, lists: Sequence[Int32]) -> tuple[int, int]:
    """Counts the numbers of rows, of each linear layer of the first layer, that give a row other bits than most do."""
    config, different = decoder.config, []
    layer: Any = decoder.layers[0]
    heads = config.num_heads * config.head_dim
    widths = ((layer.qkv, config.hidden_size), (layer.o, heads), (layer.gate_up, config.hidden_size))
    for packed, width in (*widths, (layer.down, config.intermediate_size)):
        generator = torch.Generator(decoder.device).manual_seed(0)
        is_small = decoder.device.type == "cpu"  # where the interpreter is slow
        x = torch.randn(70 if is_small else 700, width, generator=generator, device=decoder.device).to(decoder.dtype)
        together = decoder.backend.linear(x, packed)
        counts = ROW_COUNTS[:3] if is_small else ROW_COUNTS
        different += [not torch.equal(decoder.backend.linear(x[:n], packed), together[:n]) for n in counts]
    return len(different), sum(different)


def _count_different_rows(decoder: Decoder, lists: Sequence[Int32]) -> tuple[int, int]:
    """Counts the lists, and those that have other features or scores in one tree of all than alone, or shuffled."""
    together, reverse = run_forward_lists(decoder, lists), run_forward_lists(decoder, lists[::-1])
    alone = [run_forward_lists(decoder, [tokens]) for tokens in lists]

    def is_same(index: int) -> bool:
        return all(
            torch.equal(value[index], other[place])
            for kind, value in enumerate(together)
            for other, place in ((alone[index][kind], 0), (reverse[kind], len(lists) - 1 - index))
        )

    return len(lists), sum(not is_same(index) for index in range(len(lists)))
