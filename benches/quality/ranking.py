"""Makes a reward model from a language model and measures how it ranks: `python benches ranking MODEL GROUPS`.

GROUPS are problems with labelled programs and a field `split`: a head is fitted on "train", and the figures are for
"validation", by `codescaler.evaluate` and beside its baselines. Exit status 1 if transformers, given the folder that
was written, scores the validation programs otherwise:
    max |codescaler - transformers| <= 1e-4 * mean |score|, both in float32.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tqdm import tqdm

from benches.harness.baselines import load_transformers
from benches.harness.results import RESULTS
from codescaler.commands.info import describe_environment
from codescaler.commands.reports import format_head_report, make_record
from codescaler.engine import Engine
from codescaler.evaluate.best_of_n import evaluate_best_of_n
from codescaler.evaluate.problems import parse_problem
from codescaler.evaluate.scorers import score_with_all
from codescaler.evaluate.tables import format_best_of_n
from codescaler.io.records import Group, parse_group, read_lines
from codescaler.testing import FLOAT32_SCORE_LIMIT
from codescaler.train import fit_head

OURS = "reward model"


def main() -> int:
    """Fits, scores, prints, and returns the exit status."""
    arguments = _make_parser().parse_args()
    splits = read_splits(arguments.groups)
    with tempfile.TemporaryDirectory(prefix="codescaler-ranking-") as scratch:
        folder = arguments.output or Path(scratch) / "rm"
        head = fit_head(arguments.model, splits["train"], folder, show_progress=True)
        engine, groups = Engine.from_pretrained(folder), splits["validation"]
        print(format_head_report(head), end="\n\n")
        problems = [parse_problem(group) for group in groups]
        figures = evaluate_best_of_n(problems, score_with_all(problems, {OURS: lambda: engine}), [OURS])
        print(format_best_of_n(figures))
        parity = _measure_parity(folder, groups, arguments.parity_programs)
    print(f"\n{'PASS' if parity['holds'] else 'FAIL'}: {parity['sentence']}")
    if arguments.save:
        path = RESULTS / f"ranking_{arguments.save}.json"
        values = {
            **describe_environment("auto", "transformers"),
            "dtype": engine.dtype,
            "head": make_record(head) | {"output_dir": None},
            "figures": figures,
            "transformers": parity,
        }
        path.write_text(json.dumps(values, indent=2) + "\n")
        print(f"wrote {path}", file=sys.stderr)
    return 0 if parity["holds"] else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches ranking", description=__doc__.partition("\n\n")[0])
    parser.add_argument("model", help="folder or hub id of a language model")
    parser.add_argument("groups", type=Path, help="JSON lines of labelled programs with a field split; .gz too")
    parser.add_argument("--output", type=Path, help="keep the reward model in this folder")
    parser.add_argument("--parity-programs", type=int, default=100, help="scored by transformers too (%(default)s)")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benches/results/ranking_NAME.json")
    return parser


def read_splits(path: Path) -> dict[str, list[Group]]:
    """Returns the groups of each split, after a check that no problem is in both."""
    splits: dict[str, list[Group]] = {"train": [], "validation": []}
    for name, _, record in read_lines(path):
        if record.get("split") not in splits:
            sys.exit(f"{name}: split is {record.get('split')!r}; give one of {', '.join(splits)}")
        group = parse_group(record, name)
        if any(candidate.passed is None for candidate in group.candidates):
            sys.exit(f"{name}: a candidate has no passed; give true or false")
        splits[record["split"]].append(group)
    shared = {group.task_id for group in splits["train"]} & {group.task_id for group in splits["validation"]}
    if shared:
        sys.exit(f"{path}: {sorted(shared)[0]} is in both splits; a problem may be in one only")
    return splits


def _list_programs(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Every distinct program with its prompt, in order."""
    return list(dict.fromkeys((g.prompt, c.code) for g in groups for c in g.candidates if c.code is not None))


def _measure_parity(folder: Path, groups: Sequence[Group], num_programs: int) -> dict[str, Any]:
    """Scores programs with transformers from text on: its template, its tokenizer, its model, in float32."""
    pairs = _list_programs(groups)[:num_programs]
    scores = Engine.from_pretrained(folder, dtype="float32").score(pairs)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, truth = load_transformers(folder, torch.float32), []
    for prompt, code in tqdm(pairs, desc="transformers", unit=" programs"):
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": code}]
        ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            truth.append(model(**ids).logits[0, 0].item())
    difference = float(np.abs(scores - np.array(truth)).max())
    limit = FLOAT32_SCORE_LIMIT * float(np.abs(truth).mean())
    return {
        "num_programs": len(pairs),
        "max_difference": difference,
        "limit": limit,
        "holds": difference <= limit,  # NaN does not
        "sentence": f"transformers' scores of {len(pairs)} programs with the written folder are at most "
        f"{difference:.1e} off ours, {limit:.1e} is allowed (float32)",
    }


if __name__ == "__main__":
    started = time.monotonic()
    status = main()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(status)
