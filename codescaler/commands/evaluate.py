"""The command `eval`: how well reward models rank, beside baselines that know no model."""

import argparse
import functools
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codescaler.commands.combination import add_combine_option, describe_combination, read_weights
from codescaler.commands.options import (
    Add,
    ModelName,
    Run,
    add_engine_options,
    add_model_option,
    load_tasks,
    open_engine,
    parse_models,
)
from codescaler.errors import InvalidInput
from codescaler.io.files import write_text_file

if TYPE_CHECKING:
    from codescaler.engine import Engine
    from codescaler.evaluate.scorers import Unit


def add_commands(add: Add) -> None:
    """Adds it to the command line."""
    import codescaler.evaluate

    summary = "Measure how well reward models rank, and whether they help to train a policy."
    benchmarks = add("eval", _run_bon, summary).add_subparsers(metavar="benchmark", required=True)

    def add_benchmark(name: str, run: Run, summary: str, file_help: str) -> argparse.ArgumentParser:
        command = benchmarks.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=codescaler.evaluate.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run, benchmark=name)
        command.add_argument("file", type=Path, help=f"{file_help}; JSON lines or a JSON array, .gz too")
        command.add_argument(
            "--rm",
            action="append",
            default=[],
            metavar="[NAME=]MODEL[:SCORER]",
            help="reward model: folder, hub id, nano; repeat. SCORER is one of --scorer, such as likelihood",
        )
        add_combine_option(command)
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
        command.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them (needs codescaler[evaluate])")
        return command

    bon = add_benchmark(
        "bon", _run_bon, "Best-of-N on programs with verdicts.", "groups: {task_id, prompt, candidates}"
    )
    bon.add_argument("--split", help="use the groups of this split only")
    bon.add_argument("--by", default="auto", help="difficulty, domain, length, none, auto: difficulty, else length")
    bon.add_argument("--tasks", type=Path, help="problems in any format, for difficulty and domain by task_id")
    bon.add_argument("--require-syntax", action="store_true", help="what does not parse is no program")
    pairs = add_benchmark("pairs", _run_pairs, "Accuracy on pairs.", "{prompt, chosen, rejected}")
    rm_bench = add_benchmark(
        "rm-bench", _run_rm_bench, "RM-Bench: easy, normal and hard by domain.", "its total_dataset"
    )
    rm_bench.add_argument("--domain", help="of rows that say none, as in its files of one domain, such as code")
    rewardbench = add_benchmark("rewardbench", _run_rewardbench, "RewardBench 1 and 2 by subset.", "its rows")
    reading = add_benchmark(
        "reading", _run_reading, "Does a model read the problem?", "groups: {task_id, prompt, candidates}"
    )
    reading.add_argument("--split", help="use the groups of this split only")
    fitness = add_benchmark(
        "fitness", _run_fitness, "Will a model help to train this policy?", "its samples: {task_id, prompt, candidates}"
    )
    fitness.add_argument("--split", help="use the groups of this split only")
    for command in (bon, pairs, rm_bench, rewardbench, reading, fitness):
        add_engine_options(command)
    _add_calibration(benchmarks)
    _add_combination(benchmarks)


def _add_calibration(benchmarks: Any) -> None:
    summary = "How often a gap between two scores is correct, by its size: what `codescaler rerank` says of it."
    calibration = benchmarks.add_parser("calibration", help=summary, description=summary)
    calibration.set_defaults(run=_run_calibration)
    calibration.add_argument(
        "file", type=Path, help="groups: {task_id, prompt, candidates}; JSON lines or an array, .gz too"
    )
    add_model_option(calibration)
    calibration.add_argument("--split", help="use the groups of this split only")
    calibration.add_argument("--name", help="what to call the problems (the file's name, and the split)")
    calibration.add_argument("-o", "--output", type=Path, help="file to write: rerank looks for MODEL/calibration.json")
    add_engine_options(calibration)


def _add_combination(benchmarks: Any) -> None:
    summary = "Fit the weights of a combination of models, on problems with verdicts: for --combine FILE."
    combination = benchmarks.add_parser("combination", help=summary, description=summary)
    combination.set_defaults(run=_run_combination)
    combination.add_argument(
        "file", type=Path, help="groups: {task_id, prompt, candidates}; JSON lines or an array, .gz too"
    )
    combination.add_argument(
        "--rm", action="append", default=[], metavar="[NAME=]MODEL[:SCORER]", help="a model; twice or more"
    )
    combination.add_argument("--split", help="use the groups of this split only")
    combination.add_argument("--name", help="what to call the problems (the file's name, and the split)")
    combination.add_argument("-o", "--output", type=Path, help="file to write, beside a model")
    add_engine_options(combination)


def _run_bon(options: argparse.Namespace) -> None:
    from codescaler.evaluate.best_of_n import evaluate_best_of_n
    from codescaler.evaluate.discrimination import evaluate_discrimination
    from codescaler.evaluate.plot import plot_best_of_n
    from codescaler.evaluate.problems import collect_file_scores, read_evaluation_problems, stratify
    from codescaler.evaluate.tables import format_best_of_n

    known = ("auto", "difficulty", "domain", "length", "none")
    if options.by not in known:
        raise InvalidInput(f"--by {options.by!r} is not known; use one of {', '.join(known)}")
    tasks = load_tasks(options.tasks) if options.tasks else []
    counts: Counter[str] = Counter()
    problems = read_evaluation_problems(
        options.file, split=options.split, tasks=tasks, require_syntax=options.require_syntax, counts=counts
    )
    _tell_left_out(counts)
    strata, own = stratify(problems, options.by), collect_file_scores(problems)
    scores, models = _score_units(options, problems)
    figures = evaluate_best_of_n(problems, own | scores, [*own, *models], strata)
    discrimination = evaluate_discrimination(problems, own | scores, [*own, *_list_logits(options)])
    figures |= {"left_out": dict(counts), "discrimination": discrimination}
    settings = {"split": options.split, "require_syntax": options.require_syntax}
    _show(options, format_best_of_n(figures), figures, models, settings)
    if options.plot:
        plot_best_of_n(figures, options.plot)


def _run_reading(options: argparse.Namespace) -> None:
    from codescaler.evaluate.plot import plot_bars
    from codescaler.evaluate.problems import read_evaluation_problems
    from codescaler.evaluate.reading import build_reading_cases, evaluate_reading, list_standards, list_units
    from codescaler.evaluate.tables import format_reading
    from codescaler.text.mismatches import RENAMED

    counts: Counter[str] = Counter()
    problems = read_evaluation_problems(options.file, split=options.split, counts=counts)
    cases = build_reading_cases(problems)
    counts["groups that name no function, or have no correct program"] = len(problems) - len(cases)
    _tell_left_out(counts)
    scores, models = _score_units(options, list_units(cases), list_standards(cases))
    figures = evaluate_reading(cases, scores, list(models)) | {"left_out": dict(counts)}
    _show(options, format_reading(figures), figures, models, {"split": options.split})
    if options.plot:
        known = {name: scorer["before"][RENAMED] for name, scorer in figures["scorers"].items()}
        bars = {name: estimate for name, estimate in known.items() if estimate is not None}
        plot_bars(bars, "A correct program is before another problem's under its name", options.plot)


def _run_fitness(options: argparse.Namespace) -> None:
    from codescaler.evaluate.fitness import build_fitness_cases, evaluate_fitness, list_standards, list_units
    from codescaler.evaluate.plot import plot_bars
    from codescaler.evaluate.problems import collect_file_scores, read_evaluation_problems
    from codescaler.evaluate.tables import format_fitness

    counts: Counter[str] = Counter()
    problems = read_evaluation_problems(options.file, split=options.split, counts=counts)
    _tell_left_out(counts)
    cases, own = build_fitness_cases(problems), collect_file_scores(problems)
    scores, models = _score_units(options, list_units(cases), list_standards(cases))
    logits = [*own, *_list_logits(options)]
    figures = evaluate_fitness(cases, scores, [*own, *models], own, logits=logits) | {"left_out": dict(counts)}
    _show(options, format_fitness(figures), figures, models, {"split": options.split})
    if options.plot:
        bars = {name: scorer["kept"] for name, scorer in figures["scorers"].items()}
        plot_bars(bars, f"{figures['num_groups']} groups: the best-scored sample is right", options.plot)


def _run_pairs(options: argparse.Namespace) -> None:
    from codescaler.evaluate.preferences import read_pairs

    _run_preferences(options, read_pairs, Counter())


def _run_rewardbench(options: argparse.Namespace) -> None:
    from codescaler.evaluate.preferences import read_rewardbench

    counts: Counter[str] = Counter()
    _run_preferences(options, functools.partial(read_rewardbench, counts=counts), counts)


def _run_preferences(options: argparse.Namespace, read: Callable[[Path], Sequence[Any]], counts: Counter[str]) -> None:
    from codescaler.evaluate.plot import plot_bars
    from codescaler.evaluate.preferences import drop_duplicates, evaluate_preferences
    from codescaler.evaluate.tables import format_preferences

    items, num_duplicates = drop_duplicates(read(options.file))
    _tell_left_out(counts)
    scores, models = _score_units(options, items, is_pooled=True)
    figures = evaluate_preferences(items, scores, list(models))
    figures |= {"num_duplicates": num_duplicates, "left_out": dict(counts)}
    _show(options, format_preferences(figures), figures, models)
    if options.plot:
        bars = {name: scorer["accuracy"] for name, scorer in figures["scorers"].items()}
        plot_bars(bars, f"{figures['num_items']} items: a chosen response is scored best", options.plot)


def _run_rm_bench(options: argparse.Namespace) -> None:
    from codescaler.evaluate.plot import plot_bars
    from codescaler.evaluate.preferences import drop_duplicates
    from codescaler.evaluate.rm_bench import evaluate_rm_bench, read_rm_bench
    from codescaler.evaluate.tables import format_rm_bench

    items, num_duplicates = drop_duplicates(read_rm_bench(options.file, options.domain))
    scores, models = _score_units(options, items)
    figures = evaluate_rm_bench(items, scores, list(models)) | {"num_duplicates": num_duplicates}
    _show(options, format_rm_bench(figures), figures, models)
    if options.plot:
        bars = {name: scorer["overall"]["average"] for name, scorer in figures["scorers"].items()}
        plot_bars(bars, f"RM-Bench, average ({len(items)} items)", options.plot)


def _run_calibration(options: argparse.Namespace) -> None:
    from codescaler.evaluate.calibration import make_calibration_record, measure_calibration
    from codescaler.evaluate.problems import read_evaluation_problems
    from codescaler.evaluate.scorers import score_with_engine
    from codescaler.evaluate.tables import format_calibration

    _require_folder(options.output)
    counts: Counter[str] = Counter()
    labelled = read_evaluation_problems(options.file, split=options.split, counts=counts)
    _tell_left_out(counts)
    problems = [problem for problem in labelled if problem.is_mixed]
    if not problems:
        raise InvalidInput(f"{options.file}: no group has a correct and an incorrect program; give some that have both")
    engine = open_engine(options)
    figures = measure_calibration(problems, score_with_engine(engine, problems, engine.folder.name))
    print(format_calibration(figures))
    if options.output:
        name = _name_problems(options)
        record = make_calibration_record(
            figures, head_digest=engine.head_digest, text=engine.text.describe(are_programs=True), dtype=engine.dtype,
            name=name, file=options.file.name, split=options.split,
        )  # fmt: skip
        write_text_file(options.output, json.dumps(record, indent=2) + "\n")


def _run_combination(options: argparse.Namespace) -> None:
    from codescaler.evaluate.combination import Member, fit_combination, make_combination_record
    from codescaler.evaluate.problems import read_evaluation_problems
    from codescaler.evaluate.scorers import score_with_engine
    from codescaler.evaluate.tables import format_combination

    _require_folder(options.output)
    named = _parse_models(options)
    if len(named) < 2:
        raise InvalidInput(f"a combination needs two models at least; give --rm twice, it is given {len(named)} times")
    counts: Counter[str] = Counter()
    problems = read_evaluation_problems(options.file, split=options.split, counts=counts)
    _tell_left_out(counts)
    scores, members = {}, {}
    for name, model in named.items():
        engine = open_engine(options, model)
        scores[name], members[name] = score_with_engine(engine, problems, name), Member.of(engine)
        del engine
    figures = fit_combination(problems, scores)
    print(format_combination(figures))
    if options.output:
        measured_on = _name_problems(options)
        record = make_combination_record(
            figures, members, name=measured_on, file=options.file.name, split=options.split
        )
        write_text_file(options.output, json.dumps(record, indent=2) + "\n")


def _name_problems(options: argparse.Namespace) -> str:
    return options.name or f"{options.file.name.partition('.')[0]} {options.split or ''}".strip()


def _tell_left_out(counts: Mapping[str, int]) -> None:
    from codescaler.evaluate.tables import describe_left_out

    if any(counts.values()):
        print(describe_left_out(counts), file=sys.stderr)


def _require_folder(path: Path | None) -> None:
    """Refuses a file that could not be written, before hours are spent on what it is to hold."""
    if path is not None and not path.absolute().parent.is_dir():
        raise InvalidInput(f"{path} cannot be written, {path.parent} is no folder; make it, or name another")


def _score_units(
    options: argparse.Namespace,
    units: "Sequence[Unit]",
    standards: Sequence[int] | None = None,
    *,
    is_pooled: bool = False,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns every scorer's scores, and what each model is; before a model is loaded, what can be refused is.

    `standards` and `is_pooled` as in `combine_units`.
    """
    from codescaler.evaluate.combination import Member, combine_units
    from codescaler.evaluate.plot import require_plot
    from codescaler.evaluate.scorers import score_with_all

    for path in (options.json, options.plot):
        _require_folder(path)
    if options.plot:
        require_plot(options.plot)
    described: dict[str, str] = {}
    members: dict[str, Member] = {}
    named = _parse_models(options)
    fitted = read_weights(options.combine)
    if options.combine is not None and len(named) < 2:
        raise InvalidInput(f"--combine needs two models at least; give --rm twice, it is given {len(named)} times")

    def open_model(name: str, model: ModelName) -> "Engine":
        print(f"{name}: loading {model.folder}", file=sys.stderr)
        engine = open_engine(options, model)
        members[name] = Member.of(engine)
        if fitted is not None:
            fitted.require_member(name, members[name])
        described[name] = f"{model.folder}{'' if model.scorer == 'reward' else f':{model.scorer}'}: {engine!r}"
        return engine

    scores = score_with_all(units, {name: functools.partial(open_model, name, model) for name, model in named.items()})
    if options.combine is None:
        return scores, described
    weights = dict.fromkeys(named, 1.0) if fitted is None else fitted.choose_weights(members)
    label = describe_combination([*named], options.combine)
    spread = ", by the spread within an item over all items" if is_pooled else ""
    described[label] = f"weights {weights} of scores that are standardised within the problem{spread}"
    combined = combine_units(units, {name: scores[name] for name in named}, weights, standards, is_pooled=is_pooled)
    return {label: combined, **scores}, described


def _list_logits(options: argparse.Namespace) -> list[str]:
    """The models whose scores are those of a reward head."""
    return [name for name, model in _parse_models(options).items() if model.scorer == "reward"]


def _parse_models(options: argparse.Namespace) -> dict[str, ModelName]:
    from codescaler.evaluate.problems import IN_FILE
    from codescaler.evaluate.scorers import BASELINES

    return parse_models(options.rm, options.scorer, taken=(*BASELINES, IN_FILE))


def _show(
    options: argparse.Namespace,
    text: str,
    figures: Mapping[str, Any],
    models: Mapping[str, str],
    settings: Mapping[str, Any] | None = None,
) -> None:
    print(text)
    if options.json:
        record = {"benchmark": options.benchmark, "file": options.file.name, "models": models, **(settings or {})}
        write_text_file(options.json, json.dumps({**record, "figures": figures}, indent=2) + "\n")
