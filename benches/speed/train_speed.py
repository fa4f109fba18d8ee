"""Times a training step beside TRL's `RewardTrainer`: `python benches train_speed MODEL DATA`.

Both learn from the same programs in the same precision: weights are float32, and products of `--dtype`. TRL's best
settings for a CPU: no gradient checkpointing, 8 pairs a step, pairs sorted by length so that little is padded. The
systems take turns; each round has other problems. Before a round is timed, the losses and all gradients of a batch must
agree, in float32. Two workloads:
    pairs   8 problems, of each one correct and one incorrect program; neighbours among 32 by length, as TRL would group
            them
    groups  problems with all their programs, every correct/incorrect pair counted: TRL takes as many of these pairs as
            time allows, 8 at a time, and is judged by pairs a second
`--memory` gives the peak memory of a step instead, each system in a process of its own.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benches.harness.results import RESULTS
from codescaler.checkpoint.load import open_checkpoint
from codescaler.commands.info import describe_environment, read_cpu_model
from codescaler.io.records import read_groups
from codescaler.io.tables import format_table
from codescaler.ops import select_backend
from codescaler.ops.autograd import hold_casts
from codescaler.testing import bench_device, describe_device, measure_peak_flops, measure_seconds
from codescaler.text.encoder import build_encoder
from codescaler.train.batches import make_micro_batch
from codescaler.train.config import TrainConfig
from codescaler.train.model import RewardModel, build_model
from codescaler.train.problems import (
    TokenizedProblem,
    build_training_problems,
    count_distinct_tokens,
    tokenize_problems,
)
from codescaler.train.speed import count_step_flops
from codescaler.train.speed import measure_peak_flops as plain_matmul_peak

PAIRS_A_STEP = 8
LEARNING_RATE = 1e-6  # weights hardly move, so that every round is of the same model
GRADIENT_LIMIT = 1e-3  # of a tensor's largest gradient: float32 noise of two orders of summation over thirty layers


@dataclass
class Ours:
    """A step as `codescaler.train.fit` does it: one forward and backward over a prefix tree, clipping, AdamW."""

    model: RewardModel
    config: TrainConfig
    optimizer: torch.optim.Optimizer

    def compute_loss(self, problems: Sequence[TokenizedProblem]) -> torch.Tensor:
        batch = make_micro_batch(problems, bench_device())
        scores = self.model(batch.tree)[-1, batch.places]
        return self.model.backend.pairwise_loss(scores, batch.labels, batch.offsets, batch.margins)[0]

    def run_step(self, problems: Sequence[TokenizedProblem]) -> None:
        with hold_casts(self.model, self.model.dtype):
            self.compute_loss(problems).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def compute_gradients(self) -> dict[str, torch.Tensor]:
        return dict(
            self.model.iterate_canonical({name: p.grad for name, p in self.model.get_trainable_parameters().items()})
        )


def load_ours(folder: Path, dtype: torch.dtype = torch.float32) -> Ours:
    device, config = bench_device(), TrainConfig()
    checkpoint = open_checkpoint(folder, head="optional")
    model = build_model(checkpoint, select_backend("auto", device.type), config, dtype, device)
    return Ours(model, config, torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True))


@dataclass
class Trl:
    """A step as TRL's `RewardTrainer` does it: its collator, its loss, clipping, AdamW."""

    trainer: Any
    optimizer: torch.optim.Optimizer

    def collate_inputs(self, pairs: Sequence[tuple[Any, Any]]) -> Any:
        return self.trainer.data_collator(
            [{"chosen_ids": correct.tolist(), "rejected_ids": incorrect.tolist()} for correct, incorrect in pairs]
        )

    def compute_loss(self, pairs: Sequence[tuple[Any, Any]]) -> torch.Tensor:
        return self.trainer.compute_loss(self.trainer.model, self.collate_inputs(pairs))

    def run_step(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        self.trainer.training_step(self.trainer.model, self.collate_inputs(pairs))
        torch.nn.utils.clip_grad_norm_(self.trainer.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def compute_gradients(self) -> dict[str, torch.Tensor]:
        found = {n.removeprefix("model."): p.grad for n, p in self.trainer.model.named_parameters()}
        found["head.weight"] = found.pop("score.weight")
        return found


def load_trl(folder: Path, out: str, dtype: torch.dtype = torch.float32) -> Trl:
    import datasets
    import transformers
    from trl import RewardConfig, RewardTrainer

    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    device = bench_device()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    settings = RewardConfig(
        output_dir=out,
        per_device_train_batch_size=PAIRS_A_STEP,
        gradient_checkpointing=False,
        learning_rate=LEARNING_RATE,
        use_cpu=device.type == "cpu",
        bf16=dtype == torch.bfloat16,
        report_to=[],
        max_length=None,
        pad_token=tokenizer.convert_ids_to_tokens(model.config.pad_token_id),
    )
    data = datasets.Dataset.from_list([{"chosen_ids": [1, 2], "rejected_ids": [1, 3]}])
    trainer = RewardTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # what `train` sets before the first step
    return Trl(trainer, torch.optim.AdamW(trainer.model.parameters(), lr=LEARNING_RATE, fused=True))


def list_pairs(problem: TokenizedProblem) -> list[tuple[Any, Any]]:
    correct, incorrect = (
        [ids for ids, label in zip(problem.sequences, problem.labels, strict=True) if label is wanted]
        for wanted in (True, False)
    )
    return [(r, w) for r in correct for w in incorrect]


def draw_pair(problem: TokenizedProblem, generator: random.Random) -> TokenizedProblem:
    correct, incorrect = generator.choice(list_pairs(problem))
    pair = [correct, incorrect]
    return TokenizedProblem(problem.task_id, pair, [True, False], 0.0, count_distinct_tokens(pair))


def count_padded_tokens(pairs: Sequence[tuple[Any, Any]]) -> int:
    return 2 * len(pairs) * max(len(ids) for pair in pairs for ids in pair)


def split_into_steps(pairs: list[tuple[Any, Any]]) -> list[list[tuple[Any, Any]]]:
    pairs = sorted(pairs, key=lambda pair: max(map(len, pair)))
    return [pairs[i : i + PAIRS_A_STEP] for i in range(0, len(pairs), PAIRS_A_STEP)]


def check(ours: Ours, trl: Trl, problems: Sequence[TokenizedProblem]) -> dict[str, float]:
    """Losses and gradients of the same pairs, one a problem."""
    pairs = [pair for problem in problems for pair in list_pairs(problem)]
    losses = [ours.compute_loss(problems), trl.compute_loss(pairs)]
    for loss in losses:
        loss.backward()
    mine, theirs = ours.compute_gradients(), trl.compute_gradients()
    # transformers gives the pad token's embedding no gradient, though a chat template may hold that token.
    pad = trl.trainer.model.config.pad_token_id
    mine["embed_tokens.weight"][pad] = theirs["embed_tokens.weight"][pad]
    assert mine.keys() == theirs.keys(), mine.keys() ^ theirs.keys()
    worst = max(float((mine[n] - g).abs().max() / g.abs().max().clamp_min(1e-12)) for n, g in theirs.items())
    ours.optimizer.zero_grad()
    trl.optimizer.zero_grad()
    gap = abs(losses[0].item() - losses[1].item())
    if not gap < 1e-4 or not worst < GRADIENT_LIMIT:
        sys.exit(f"FAIL: losses differ by {gap:.1e}, gradients by {worst:.1e} of their largest")
    return {"loss": losses[0].item(), "loss_difference": gap, "gradient_difference": worst}


def time_both(ours: Ours, trl: Trl, problems: list[TokenizedProblem], options: argparse.Namespace) -> dict[str, Any]:
    """Takes turns on both workloads; returns each one's rounds and medians."""
    device, generator, dtype = bench_device(), random.Random(options.seed), getattr(torch, options.dtype)
    # Training multiplies through whatever torch has, which for float32 may be faster than what scoring needs for bits.
    peak = max(measure_peak_flops(dtype), plain_matmul_peak(dtype, device))
    results: dict[str, Any] = {"matmul_peak_gflops": peak / 1e9}
    ours.run_step(problems[:1])
    trl.run_step(list_pairs(problems[0])[:2])
    for workload in ("pairs", "groups"):
        rounds = []
        for turn in range(options.rounds):
            some = generator.sample(problems, PAIRS_A_STEP)
            if workload == "pairs":
                pool = [draw_pair(problem, generator) for problem in generator.sample(problems, 4 * PAIRS_A_STEP)]
                pool.sort(key=lambda problem: max(map(len, problem.sequences)))
                some = pool[turn % 4 * PAIRS_A_STEP :][:PAIRS_A_STEP]
            pairs = [pair for problem in some for pair in list_pairs(problem)]
            batches = split_into_steps(pairs)
            batch = batches[len(batches) // 2]  # as long as half of them are
            tree = make_micro_batch(some, device).tree
            mine = measure_seconds(lambda: ours.run_step(some), device)  # noqa: B023
            theirs = measure_seconds(lambda: trl.run_step(batch), device)  # noqa: B023
            rounds.append(
                {
                    "ours_pairs_per_second": len(pairs) / mine,
                    "trl_pairs_per_second": len(batch) / theirs,
                    "ours_tokens_per_pair": tree.batch.num_tokens / len(pairs),
                    "trl_tokens_per_pair": sum(map(count_padded_tokens, batches)) / len(pairs),
                    "ours_mfu": count_step_flops(ours.model.config, "full", tree) / mine / peak,
                    "ratio": len(pairs) / mine / (len(batch) / theirs),
                }
            )
            print(json.dumps({"workload": workload, **rounds[-1]}), file=sys.stderr)
        medians = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        results[workload] = {"median": medians, "rounds": rounds}
    return results


def measure_peak_memory(options: argparse.Namespace, problems: list[TokenizedProblem]) -> dict[str, float]:
    """MiB of each system's process after a step on the same pairs, less what it held before the model was loaded."""
    if options.memory_of:
        generator = random.Random(options.seed)
        some = [draw_pair(problem, generator) for problem in generator.sample(problems, PAIRS_A_STEP)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with tempfile.TemporaryDirectory() as out:
            dtype = getattr(torch, options.dtype)
            if options.memory_of == "ours":
                step = partial(load_ours(options.model, dtype).run_step, some)
            else:
                pairs = [pair for problem in some for pair in list_pairs(problem)]
                step = partial(load_trl(options.model, out, dtype).run_step, pairs)
            for _ in range(2):  # the second has the optimizer's moments
                step()
        return {"mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}
    figures = {}
    for name in ("ours", "trl"):
        command = [sys.executable, "benches", "train_speed", str(options.model), str(options.data), "--memory-of", name]
        command += ["--dtype", options.dtype]
        output = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
        figures[f"{name}_mib"] = json.loads(output.splitlines()[-1])["mib"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of products")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", action="store_true", help="peak memory of a step instead of its time")
    parser.add_argument("--memory-of", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--save", help="name of the JSON under benches/results/")
    options = parser.parse_args()

    checkpoint = open_checkpoint(options.model, head="optional")
    groups = [group for group in read_groups(options.data) if group.split in (None, "train")]
    encoder = build_encoder(checkpoint, head="sequence_classification")
    problems, _ = tokenize_problems(
        build_training_problems(groups)[0], encoder=encoder, max_length=4096, max_tokens=16384
    )
    result: dict[str, Any] = {"device": describe_device(bench_device(), read_cpu_model()), "dtype": options.dtype}
    result |= describe_environment("auto", "trl", "transformers")
    if options.memory_of:
        print(json.dumps(measure_peak_memory(options, problems)))
        return
    if options.memory:
        result |= measure_peak_memory(options, problems)
        print(f"peak memory of a step: codescaler {result['ours_mib']:.0f} MiB, TRL {result['trl_mib']:.0f} MiB")
    else:
        with tempfile.TemporaryDirectory() as out:
            ours, trl = load_ours(options.model), load_trl(options.model, out)
            generator = random.Random(options.seed)
            result["agreement"] = check(ours, trl, [draw_pair(p, generator) for p in problems[:4]])
            if options.dtype != "float32":
                dtype = getattr(torch, options.dtype)
                ours, trl = load_ours(options.model, dtype), load_trl(options.model, out, dtype)
            result |= time_both(ours, trl, problems, options)
        rows = []
        for workload in ("pairs", "groups"):
            m = result[workload]["median"]
            rows.append(
                (
                    workload,
                    f"{m['ours_pairs_per_second']:.2f}",
                    f"{m['trl_pairs_per_second']:.2f}",
                    f"{m['ratio']:.1f}x",
                    f"{m['ours_tokens_per_pair']:.0f}",
                    f"{m['trl_tokens_per_pair']:.0f}",
                    f"{m['ours_mfu']:.0%}",
                )
            )
        header = ("workload", "pairs/s", "TRL pairs/s", "ratio", "tokens a pair", "TRL's", "share of matmul peak")
        print(format_table(header, rows))
        print(
            f"losses differ by {result['agreement']['loss_difference']:.1e}, gradients by at most "
            f"{result['agreement']['gradient_difference']:.1e} of a tensor's largest"
        )
    if options.save:
        path = RESULTS / f"train_{'memory' if options.memory else 'speed'}_{options.save}.json"
        command = f"python benches train_speed MODEL DATA --rounds {options.rounds}{' --memory' * options.memory}"
        command += "" if options.dtype == "float32" else f" --dtype {options.dtype}"
        path.write_text(json.dumps({"command": command, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
