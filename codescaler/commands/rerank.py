"""The command `rerank`."""

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codescaler.commands.calibration import read_model_calibration
from codescaler.commands.combination import add_scorer_options, open_scorer
from codescaler.commands.options import Add, add_engine_options, add_extract_option, read_problem, read_text
from codescaler.errors import InvalidInput

if TYPE_CHECKING:
    from codescaler.commands.reports import Screen
    from codescaler.engine import Engine
    from codescaler.evaluate.calibration import Calibration
    from codescaler.evaluate.combination import CombinedScorer
    from codescaler.io.records import Candidate, Group
    from codescaler.types import RankedCandidate


def add_commands(add: Add) -> None:
    """Adds them to the command line."""
    rerank = add("rerank", _rerank, "Rank candidate programs of a problem, best first.")
    rerank.add_argument("problem", type=Path, help="text of the problem; or groups, JSON lines (.jsonl, .jsonl.gz)")
    rerank.add_argument("candidates", type=Path, nargs="*", help="files of one program each")
    add_scorer_options(rerank)
    rerank.add_argument(
        "--calibration", type=Path, metavar="FILE", help="file of `eval calibration` (MODEL/calibration.json)"
    )
    add_extract_option(rerank, is_optional=True)
    rerank.add_argument("--language", default="python", help="that the programs must parse as (%(default)s)")
    rerank.add_argument(
        "--asked-first",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="rank programs that do not define what the problem's tests or signature call after those that do (on)",
    )
    rerank.add_argument(
        "--adaptive",
        nargs="?",
        const="exits",
        metavar="SMALL",
        help="drop candidates that are far behind before they have a score, by the exits of `fit-exits`, or by a small "
        "model",
    )
    rerank.add_argument("--top-k", type=int, help="show this many")
    rerank.add_argument("--json", action="store_true", help="print JSON, for a file of groups one line each")
    add_engine_options(rerank)


def _rerank(options: argparse.Namespace) -> None:
    from codescaler.commands import reports as report
    from codescaler.io.records import Candidate, Group, read_groups

    if options.top_k is not None and options.top_k < 1:
        raise InvalidInput(f"--top-k {options.top_k}; give a whole number of at least 1")
    if options.candidates:
        programs = tuple(Candidate(read_text(path)) for path in options.candidates)
        groups = [Group(str(options.problem), read_problem(options.problem), programs)]
        names = [str(path) for path in options.candidates]
    elif options.problem.name.endswith((".jsonl", ".jsonl.gz")):
        if options.extract:
            raise InvalidInput("--extract is for files of completions; the code of a group has been extracted")
        groups, names = read_groups(options.problem), None
    else:
        raise InvalidInput(
            f"there is no candidate for {options.problem}; name files of programs, or give a .jsonl file"
        )
    if not groups:
        raise InvalidInput(f"{options.problem} holds no groups")
    scorer = open_scorer(options)
    if options.adaptive is not None:
        _require_adaptive(scorer, options)
    calibration = read_model_calibration(scorer, options.calibration)
    rankings = []
    for group in groups:
        where = names or [f"{group.name}: candidates[{index}]" for index in range(len(group.candidates))]
        ranked, members = _rank_group(scorer, group, options, where)
        rankings.append(ranked)
        previews = (f"candidate {index}: {_preview_program(c)}" for index, c in enumerate(group.candidates))
        labels = [*(names or previews)]
        facts = _list_facts(group, ranked, calibration, options.language)
        shown = facts[: options.top_k]
        for fact in facts:
            if members:
                fact["members"] = members.get(fact["code"])
            if fact["same_as"] is not None:
                labels[fact["index"]] += f" (the program of {labels[fact['same_as']]})"
        if options.json:
            measured = (
                None if calibration is None else {"name": calibration.name, "num_problems": calibration.num_problems}
            )
            print(json.dumps({"task_id": group.task_id, "calibrated_on": measured, "ranking": shown}))
        else:
            print(
                report.format_ranking(group, shown, labels, _choose_span(facts, calibration), _detect_screen()),
                end="\n\n",
            )
    if not options.json:
        print(_describe_scores(scorer, calibration, options.model))
        if summary := report.summarize_rankings(groups, rankings):
            print(f"\n{summary}")
    if not options.extract and (num := _count_completions(groups, rankings)):
        told = "1 candidate that does not parse holds" if num == 1 else f"{num} candidates that do not parse hold"
        advice = "--extract takes programs out" if options.candidates else "put the program alone into `code`"
        print(f"{told} a code fence, as completions do; {advice}", file=sys.stderr)


def _count_completions(groups: "Sequence[Group]", rankings: "Sequence[Sequence[RankedCandidate]]") -> int:
    return sum(
        not candidate.is_valid and "```" in (group.candidates[candidate.index].code or "")
        for group, ranked in zip(groups, rankings, strict=True)
        for candidate in ranked
    )


def _require_adaptive(scorer: "Engine | CombinedScorer", options: argparse.Namespace) -> None:
    from codescaler.engine import Engine

    if not isinstance(scorer, Engine):
        raise InvalidInput("--adaptive is of one model, and --combine ranks by several; leave one out")
    scorer.open_ranker(options.adaptive).require_top_k(options.top_k)


def _rank_group(
    scorer: "Engine | CombinedScorer", group: "Group", options: argparse.Namespace, names: Sequence[str]
) -> "tuple[list[RankedCandidate], dict[str | None, dict[str, float]]]":
    """Ranks a group; candidates without code come last, unscored. Of a combination, also each program's own scores."""
    from codescaler.engine import Engine
    from codescaler.engine.ranking import rank_candidates
    from codescaler.evaluate.combination import combine_scores, read_program
    from codescaler.types import RankedCandidate

    members: dict[str | None, dict[str, float]] = {}

    def score_pairs(pairs: Sequence[Any], called: Sequence[str]) -> Iterator[float]:
        if isinstance(scorer, Engine):
            return scorer.score_stream(pairs, called)
        scores, programs = scorer.score_members(pairs, called), [read_program(pair) for pair in pairs]
        for place, program in enumerate(programs):
            members[program] = {name: values[place] for name, values in scores.items()}
        return iter(combine_scores(programs, scores, scorer.weights).tolist())

    held = [index for index, candidate in enumerate(group.candidates) if candidate.code is not None]
    codes = [group.candidates[index].code or "" for index in held]
    called = [names[index] for index in held]
    if isinstance(scorer, Engine) and options.adaptive is not None:
        settings = {"language": options.language, "names": called, "system": group.system}
        settings |= {"asked_first": options.asked_first, "adaptive": options.adaptive}
        found = scorer.rerank(group.problem, codes, options.extract, **settings)
    else:
        rest = (None, options.language, called, group.system, options.asked_first)
        found = rank_candidates(score_pairs, group.problem, codes, options.extract, *rest)
    ranked = [dataclasses.replace(candidate, index=held[candidate.index]) for candidate in found]
    absent = [RankedCandidate(i, None, False, None) for i, c in enumerate(group.candidates) if c.code is None]
    return ranked + absent, members


def _list_facts(
    group: "Group", ranked: "Sequence[RankedCandidate]", calibration: "Calibration | None", language: str
) -> list[dict[str, Any]]:
    """All that is known of each candidate, best first."""
    from codescaler.engine.ranking import compare_ranked
    from codescaler.text.extraction import explain_invalid

    facts = []
    for candidate, standing in zip(ranked, compare_ranked(ranked), strict=True):
        given, behind = group.candidates[candidate.index], standing.gap_to_first
        reason = None
        if not candidate.is_valid:
            reason, _ = explain_invalid(given.code, candidate.code, language)
        facts.append(
            {
                "rank": standing.rank,
                **dataclasses.asdict(candidate),
                "invalid_because": reason,
                "same_as": standing.same_as,
                "gap_to_first": behind,
                "gap_to_next": standing.gap_to_next,
                "first_is_correct": calibration.estimate_chance(behind)
                if calibration is not None and behind is not None and standing.rank > 1
                else None,
                "passed": given.passed,
            }
        )
    return facts


def _choose_span(facts: Sequence[dict[str, Any]], calibration: "Calibration | None") -> float:
    """How far below the best score a bar is empty: never so little that a small gap would look large."""
    behind: list[float] = [fact["gap_to_first"] for fact in facts if fact["gap_to_first"] is not None]
    return max([*behind, 1.0 if calibration is None else calibration.largest_gap or 1.0])


def _describe_scores(scorer: "Engine | CombinedScorer", calibration: "Calibration | None", model: str | None) -> str:
    from codescaler.engine import Engine
    from codescaler.errors import make_printable
    from codescaler.evaluate.calibration import CALIBRATION_FILE

    if not isinstance(scorer, Engine):
        parts = " + ".join(f"{weight:.3g} z({make_printable(name)})" for name, weight in scorer.weights.items())
        return f"Scores are {parts}: each model's scores, standardised within the problem."
    if calibration is not None:
        return (
            "First is correct: of a correct and an incorrect program as far apart, the higher-scored was correct so "
            "often\n"
            f"on {make_printable(calibration.name)} ({calibration.num_problems} problems) [95% interval]."
        )
    return (
        "How often such gaps are correct is not known for this model. Measure it: codescaler eval calibration "
        f"GROUPS{f' --model {model}' if model else ''} -o {scorer.folder / CALIBRATION_FILE}"
    )


def _detect_screen() -> "Screen":
    from codescaler.commands.reports import Screen

    try:
        "\u2588\u258f".encode(getattr(sys.stdout, "encoding", None) or "ascii")
        has_blocks = True
    except (UnicodeEncodeError, LookupError):
        has_blocks = False
    return Screen(shutil.get_terminal_size().columns if sys.stdout.isatty() else None, has_blocks)


def _preview_program(candidate: "Candidate") -> str:
    """What tells a program from its siblings at a glance: its last line, where they mostly differ."""
    if candidate.code is None:
        return "(no program)"
    return f"... {candidate.code.strip().rpartition(chr(10))[2].strip()[:60]}"
