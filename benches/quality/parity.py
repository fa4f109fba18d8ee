"""Proves that scores equal those of transformers, case by case: `python benches parity`.

Truth is transformers (or PEFT, unmerged) in float32 on the CPU, one sequence at a time, on the same weights.
A case holds if
    float32:  max |ours - truth| <= 1e-4 * scale, the scale being mean |truth|;
    bfloat16: RMS(ours - truth) <= 2 * RMS(transformers' bfloat16 - truth) + 1e-3 * scale;
    batch:    all sequences at once give the bits that each gives alone, in both dtypes.
Exit status 1 if a case fails.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import peft
import torch
import transformers
from safetensors.torch import load_file

from benches.quality.parity_cases import CASES, Case, TokenLists, save
from codescaler.commands.info import describe_environment
from codescaler.engine import Engine
from codescaler.testing import FLOAT32_SCORE_LIMIT, measure_rms_distance, score_error_limit

RESULTS = Path(__file__).parents[1] / "results" / "parity.json"
CPU = torch.device("cpu")

Values = npt.NDArray[np.float32]  # [B] scores, or [B, D] features


@dataclass(frozen=True)
class Truth:
    """What transformers gives for a case: float32 is the truth, bfloat16 the yardstick of that dtype."""

    float32: Values
    bfloat16: Values

    @property
    def scale(self) -> float:
        return float(np.abs(self.float32).mean())

    def measure_max_error(self, values: Values) -> float:
        """Largest difference to the truth, as a share of its scale."""
        return float(np.abs(values - self.float32).max()) / self.scale


@dataclass(frozen=True)
class Row:
    """One line of the table. Errors and the limit are shares of `scale`, the mean |truth|."""

    family: str
    head: str
    special: str
    num_sequences: int
    scale: float
    spread: float
    fp32_max: float
    transformers_bf16_rms: float
    bf16_rms: float
    bf16_limit: float
    is_batch_exact: bool

    @property
    def is_close(self) -> bool:
        # NaN compares false, so it fails.
        return self.fp32_max <= FLOAT32_SCORE_LIMIT and self.bf16_rms <= self.bf16_limit

    @property
    def ok(self) -> bool:
        return self.is_close and self.is_batch_exact


def measure(case: Case, folder: Path, *, backend: str = "auto") -> Row:
    """Saves a case below `folder`, an empty one, and compares its scores."""
    save(case, folder)
    return compare(case, case.locate_model(folder), run_transformers(case, folder), backend=backend)


def compare(case: Case, model: Path, truth: Truth, *, backend: str = "auto") -> Row:
    """Scores a case with the model in folder `model` and holds the result against `truth`."""
    lists = case.lists()
    ours, is_batch_exact = {}, True
    for dtype in ("float32", "bfloat16"):
        run = load_scorer(case, model, dtype=dtype, backend=backend)
        ours[dtype] = run(lists)
        alone = np.concatenate([run([ids]) for ids in lists])
        is_batch_exact &= ours[dtype].tobytes() == alone.tobytes()
    scale = truth.scale
    return Row(
        family=case.family,
        head=case.head,
        special=case.special,
        num_sequences=len(truth.float32),
        scale=scale,
        spread=float(truth.float32.std()),
        fp32_max=truth.measure_max_error(ours["float32"]),
        transformers_bf16_rms=measure_rms_distance(truth.bfloat16, truth.float32) / scale,
        bf16_rms=measure_rms_distance(ours["bfloat16"], truth.float32) / scale,
        bf16_limit=score_error_limit(truth.bfloat16, truth.float32) / scale,
        is_batch_exact=is_batch_exact,
    )


def load_scorer(
    case: Case, model: Path, *, dtype: str = "float32", backend: str = "auto", device: str = "cpu"
) -> Callable[[TokenLists], Values]:
    """Loads the model in folder `model` and returns what the case compares: its scores, or its features."""
    head: Literal["required", "none"] = "none" if case.head == "none" else "required"
    engine = Engine.from_pretrained(
        model, device=device, dtype=dtype, backend=backend, head=head, classifier_from_token=case.rows or None
    )
    return engine.features_tokens if head == "none" else engine.score_tokens


def run_transformers(case: Case, folder: Path, device: torch.device = CPU) -> Truth:
    """Runs what `save` wrote below `folder` with transformers on `device`, one sequence at a time."""
    with device:  # every tensor that is made here is made there
        return _run_transformers(case, folder)


def _run_transformers(case: Case, folder: Path) -> Truth:
    lists = case.lists()
    if case.lora is None:
        float32, bfloat16 = (
            _compute_with_transformers(case, case.locate_base(folder), lists, dtype)
            for dtype in (torch.float32, torch.bfloat16)
        )
        return Truth(float32, bfloat16)
    model = _load(transformers.AutoModelForSequenceClassification, case, case.locate_base(folder), torch.float32)
    if "vocab_size" in case.lora:
        model.resize_token_embeddings(case.lora["vocab_size"])
    with warnings.catch_warnings():
        # PEFT 0.21 reads an attribute that transformers 5.23 deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = peft.PeftModel.from_pretrained(model, case.locate_model(folder)).eval().to(torch.get_default_device())
    float32 = _compute_one_by_one(lambda ids: adapted(input_ids=ids).logits[0, 0], lists)
    merged = folder / "merged"
    adapted.merge_and_unload().save_pretrained(merged)
    return Truth(float32, _compute_with_transformers(case, merged, lists, torch.bfloat16))


def _load(auto: Any, case: Case, folder: Path, dtype: torch.dtype) -> Any:
    """Loads in `dtype`. (A model cast by `.to` would have its RoPE frequencies rounded as well.)"""
    # SDPA knows no soft-cap: for Gemma2, eager attention is transformers' only right one on a CPU.
    attention = "eager" if case.family == "gemma2" else "sdpa"
    config = transformers.AutoConfig.from_pretrained(folder)
    config.num_labels = 1
    model = auto.from_pretrained(folder, config=config, dtype=dtype, attn_implementation=attention)
    return model.eval().to(torch.get_default_device())


def _compute_with_transformers(case: Case, folder: Path, lists: TokenLists, dtype: torch.dtype) -> Values:
    if case.head == "sequence":
        model = _load(transformers.AutoModelForSequenceClassification, case, folder, dtype)
        return _compute_one_by_one(lambda ids: model(ids, use_cache=False).logits[0, 0], lists)
    if case.head == "token":
        model = _load(transformers.AutoModelForTokenClassification, case, folder, dtype)
        return _compute_one_by_one(lambda ids: model(ids, use_cache=False).logits[0, -1, 0], lists)
    if case.head == "rows":
        model = _load(transformers.AutoModelForCausalLM, case, folder, dtype)
        signs = torch.tensor([-1.0, 1.0][-len(case.rows) :])
        rows = list(case.rows)
        return _compute_one_by_one(lambda ids: model(ids, use_cache=False).logits[0, -1, rows].float() @ signs, lists)
    model = _load(transformers.AutoModel, case, folder, dtype)
    head = torch.nn.Identity() if case.head == "none" else _read_own_head(folder, dtype)
    lists = [[*ids, *case.appended] for ids in lists]
    return _compute_one_by_one(lambda ids: head(model(ids, use_cache=False).last_hidden_state[0, -1]).squeeze(), lists)


def _read_own_head(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """Reads a head that no transformers class has, from whichever file holds it: one linear layer, or two and a ReLU.

    Source: the models' own code, in which the head is an nn.Linear, or an nn.Sequential of Linear, ReLU and Linear.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    heads = ("v_head", "value_head", "score", "regression_head")
    parts = {name: tensor for name, tensor in sorted(tensors.items()) if name.split(".")[0] in heads}
    layers = []
    for name, weight in parts.items():
        if name.endswith(".weight"):
            bias = parts.get(name.replace(".weight", ".bias"))
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
            layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).to(torch.get_default_device(), dtype)


def _compute_one_by_one(value: Callable[[torch.Tensor], torch.Tensor], lists: TokenLists) -> Values:
    with torch.inference_mode():
        return torch.stack([value(torch.tensor([ids])).float() for ids in lists]).cpu().numpy()


_COLUMNS = "{:<11} {:<9} {:<54} {:>9} {:>9} {:>11} {:>9} {:>9}  {}"
_TITLES = ("family", "head", "special", "sequences", "fp32 max", "transf. bf16", "ours bf16", "limit", "ok")


def format_table(rows: Iterable[Row]) -> str:
    """Lays rows out under titles."""
    lines = [_COLUMNS.format(*_TITLES)]
    for row in rows:
        numbers = (row.fp32_max, row.transformers_bf16_rms, row.bf16_rms, row.bf16_limit)
        verdict = "yes" if row.ok else "NO" if row.is_batch_exact else "NO: batch differs from single"
        lines.append(
            _COLUMNS.format(
                row.family, row.head, row.special, row.num_sequences, *(f"{n:.2g}" for n in numbers), verdict
            )
        )
    return "\n".join(lines)


def _report_rows(rows: list[Row], backend: str, seconds: float) -> dict[str, Any]:
    """What a result file holds."""
    return {
        "command": "python benches parity --save",
        **describe_environment(backend, "transformers", "peft"),
        "seconds": round(seconds, 1),
        "fp32_limit": FLOAT32_SCORE_LIMIT,
        "rows": [asdict(row) | {"ok": row.ok} for row in rows],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python benches parity", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="SUBSTRING", default="", help="cases whose name has this in it")
    parser.add_argument("--backend", default="auto", help="the engine's backend")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} to {RESULTS.parent.name}/")
    options = parser.parse_args(arguments)
    if options.save and options.only:
        parser.error("--save is for the whole table; leave --only out")
    cases = [case for case in CASES if options.only in case.name]
    if not cases:
        parser.error(f"no case has {options.only!r} in its name")
    transformers.logging.set_verbosity_error()  # it would tell of heads that AutoModel leaves aside
    transformers.logging.disable_progress_bar()
    rows = []
    start = time.perf_counter()
    for number, case in enumerate(cases, 1):
        print(f"[{number}/{len(cases)}, {time.perf_counter() - start:.0f} s] {case.name}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(case, Path(folder), backend=options.backend))
    print(format_table(rows))
    print("Errors and limit are shares of the mean |score|: fp32 max |difference|, bf16 RMS.")
    failed = sum(not row.ok for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} cases hold.")
    if options.save:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(
            json.dumps(_report_rows(rows, options.backend, time.perf_counter() - start), indent=1) + "\n"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
