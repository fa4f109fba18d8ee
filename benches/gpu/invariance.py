"""Rows whose bits depend on their batch: of our kernels none may, of whole scores they are counted.

Each model has real widths. `kernels` has the linear layers of the CPU backend, whose bits do not depend on the batch:
what differs there is the doing of our kernels. `scores` has the linear layers of a user's forward.
"""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benches.gpu.parts import Emit, Row, Setting
from codescaler.checkpoint.load import open_checkpoint
from codescaler.model.decoder import Decoder, build_decoder
from codescaler.ops import select_backend
from codescaler.testing import WIDTHS, make_branching_lists, run_forward_lists, save_random_checkpoint, use_cpu_linear
from codescaler.text.token_ids import Int32

VOCABULARY = 200


def run(setting: Setting, emit: Emit) -> None:
    dtypes = ("float32",) if setting.is_small else ("float32", "bfloat16")
    families = ("qwen3",) if setting.is_small else tuple(WIDTHS)
    cases = list(itertools.product(families, dtypes, ("kernels", "scores")))
    for case in setting.take(cases, lambda case: " ".join(case)):
        emit(_measure(*case, setting))


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
        backend = select_backend("triton", setting.device.type)
        if what == "kernels":
            backend = use_cpu_linear(backend)
        decoder = build_decoder(checkpoint.config, checkpoint.get, backend, getattr(torch, dtype), setting.device)
        num_different = _count_different_rows(decoder, lists)
    figures = {"rows": len(lists), "different": num_different}
    return Row(f"{family} {dtype} {what}", num_different == 0 if what == "kernels" else None, figures)


def _count_different_rows(decoder: Decoder, lists: Sequence[Int32]) -> int:
    """Counts the lists that have other features or another score in one tree of all than alone, or than shuffled."""
    together, reverse = run_forward_lists(decoder, lists), run_forward_lists(decoder, lists[::-1])
    alone = [run_forward_lists(decoder, [tokens]) for tokens in lists]

    def is_same(index: int) -> bool:
        return all(
            torch.equal(value[index], other[place])
            for kind, value in enumerate(together)
            for other, place in ((alone[index][kind], 0), (reverse[kind], len(lists) - 1 - index))
        )

    return sum(not is_same(index) for index in range(len(lists)))
