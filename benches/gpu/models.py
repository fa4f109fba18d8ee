"""Whole models of every family and head beside transformers, on the card: the cases of `python benches parity`.

Truth is transformers in float32 on the same device, one sequence at a time. float32 may differ by a share of the mean
score, bfloat16 by twice what transformers' own bfloat16 does (see `benches.quality.parity`). Rows that are not the same
alone and in a batch are counted: bits of whole scores are not promised where cuBLAS multiplies.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import transformers

from benches.gpu.parts import Emit, Row, Setting
from benches.quality.parity import Truth, load_scorer, run_transformers
from benches.quality.parity_cases import CASES, Case, TokenLists, save
from benches.quality.tau import kendall_tau
from codescaler.engine import Engine
from codescaler.io.records import read_groups
from codescaler.testing import FLOAT32_SCORE_LIMIT, make_branching_lists, measure_rms_distance, score_error_limit

NANO = "nano: tau to the CPU's scores"
LEAST_TAU = 0.95
EXAMPLES = Path(__file__).parents[2] / "codescaler/examples/mbpp_unseen.jsonl.gz"


def run(setting: Setting, emit: Emit) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cases = [_shrink(CASES[0])] if setting.is_small else list(CASES)
    if setting.shard == 0 and not setting.is_small and NANO not in setting.done:
        emit(_rank_by_nano(setting))
    for case in setting.take(cases, lambda case: case.name):
        with tempfile.TemporaryDirectory() as folder:
            emit(_compare(case, Path(folder), setting))


def _rank_by_nano(setting: Setting) -> Row:
    """The model of the package: its rankings on the card beside those on the CPU."""
    problems = list(read_groups(EXAMPLES))
    device = str(setting.device)
    ours = Engine.from_pretrained("nano", backend="triton", device=device)
    truth = Engine.from_pretrained("nano", backend="cpu", device="cpu")
    taus = []
    for group in problems:
        pairs = [(group.prompt, code) for code in group.codes]
        taus.append(kendall_tau(ours.score(pairs), truth.score(pairs)))
    tau = float(np.mean(taus))
    return Row(NANO, tau >= LEAST_TAU, {"problems": len(problems), "tau": tau}, "" if tau >= LEAST_TAU else "low tau")


def _shrink(case: Case) -> Case:
    return replace(case, lists=_make_short_lists, settings={**case.settings, "num_hidden_layers": 1})


def _make_short_lists() -> TokenLists:
    return [tokens.tolist() for tokens in make_branching_lists()[-2:]]


def _compare(case: Case, folder: Path, setting: Setting) -> Row:
    save(case, folder)
    truth = run_transformers(case, folder, setting.device)
    device, lists = str(setting.device), case.lists()
    figures: dict[str, float | int] = {"sequences": len(lists), "different_rows": 0}
    is_close = True
    for dtype in ("float32",) if setting.is_small else ("float32", "bfloat16"):
        score = load_scorer(case, case.locate_model(folder), dtype=dtype, backend="triton", device=device)
        together = score(lists)
        alone = np.concatenate([score([ids]) for ids in lists])
        is_same = (together == alone).reshape(len(lists), -1).all(axis=1)
        figures["different_rows"] += int((~is_same).sum())
        error, limit = _measure_errors(together, truth, dtype)
        figures |= {f"{dtype}_error": error, f"{dtype}_limit": limit}
        is_close &= error <= limit
    return Row(case.name, is_close, figures, "" if is_close else "further from transformers than the limit")


def _measure_errors(values: np.ndarray, truth: Truth, dtype: str) -> tuple[float, float]:
    """The error and what it may be, both as shares of the mean score."""
    if dtype == "float32":
        return truth.measure_max_error(values), FLOAT32_SCORE_LIMIT
    limit = score_error_limit(truth.bfloat16, truth.float32) / truth.scale
    return measure_rms_distance(values, truth.float32) / truth.scale, limit
