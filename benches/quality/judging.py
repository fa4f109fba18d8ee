"""Reference programs and mutants of them, judged beside plain Python: `python benches judging FOLDER`.

FOLDER holds published sets: exercism, ClassEval, ODEX, CRUXEval, mxeval, APPS and what `codescaler.tasks` reads.
Plain Python is one process that runs the prelude, the program, the setup and each statement, in the same box. Programs
of input and output are compared with it by their words.

  references   of those that plain passes: passed, failed, unjudged here
  mutants      of those that plain fails: failed (or error, or time-out), passed, unjudged here
  causes       how often plain fails a reference, or something is seen otherwise here, by the first words of a message

Exit status 1 if a reference that plain passes fails here, or if more than 5% of a set's mutants are not caught.
`--save NAME` writes benches/results/judging_NAME.json: counts, and no text of a set. Other sets of the file stay.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benches.harness.results import RESULTS
from benches.quality.judging_sets import Problem, read_sets
from codescaler.data.mutants import make_mutants
from codescaler.io.tables import format_table
from codescaler.sandbox import Limits, Sandbox
from codescaler.sandbox.verdicts import judge_together
from codescaler.types import CallTests, Tests, Verdict

LIMITS = Limits(cpu_seconds=4, wall_seconds=15.0, memory_bytes=2 << 30, num_processes=32)

MIN_CAUGHT = 0.95

Line = tuple[str, str, str]  # a problem, what is seen of it, and the message

_WORDS = {True: "passed", False: "failed", None: "unjudged"}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns the exit status."""
    options = _make_parser().parse_args(argv)
    figures: dict[str, Any] = {}
    causes: dict[str, Counter[str]] = {}
    settings = {"num_workers": options.workers, "allow_site_packages": True}
    with Sandbox(LIMITS, allow_one_process=options.allow_one_process, **settings) as sandbox:
        for name, problems in read_sets(options.folder):
            if options.only in name:
                chosen = problems[:: options.every]
                figures[name], lines = _measure(sandbox, chosen, options.mutants, options.max_mutants)
                causes[name] = Counter(f"{kind}: {_name_cause(message)}" for _, kind, message in lines)
                seen = [f"{problem}: {kind}: {message[:160]!r}" for problem, kind, message in lines]
                print(name, figures[name], *seen, sep="\n  ", file=sys.stderr, flush=True)
    columns = ("references", "plain passes", "passed", "failed", "unjudged", "plain fails", "caught", "missed", "left")
    rows = [(name, *(str(figure[column]) for column in columns)) for name, figure in figures.items()]
    print(format_table(("set", *columns), rows))
    if options.save:
        _save(RESULTS / f"judging_{options.save}.json", {"figures": figures, "causes": causes})
    return 0 if all(map(_is_met, figures.values())) else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches judging", description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path, help="published sets, as their repositories hold them")
    parser.add_argument("--only", default="", metavar="TEXT", help="sets whose name holds this text")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th problem of a set")
    parser.add_argument("--mutants", type=int, default=3, metavar="N", help="of each reference")
    parser.add_argument("--max-mutants", type=int, default=200, metavar="N", help="of each set, evenly")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--allow-one-process", action="store_true", help="where the tests ask for it")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benches/results/judging_NAME.json")
    return parser


def _save(path: Path, parts: dict[str, dict[str, Any]]) -> None:
    saved = json.loads(path.read_text()) if path.exists() else {}
    record = {key: {**saved.get(key, {}), **part} for key, part in parts.items()}
    path.write_text(json.dumps(record, indent=2) + "\n")


def _is_met(figure: dict[str, int]) -> bool:
    return not figure["failed"] and figure["caught"] >= MIN_CAUGHT * figure["plain fails"]


def _name_cause(message: str) -> str:
    """The first words, which are ours or Python's: what follows may be of a set's tests."""
    last = message.rpartition("\n")[2] if message.startswith("Traceback") else message
    return re.split(r"[;:,'\"(]", last)[0][:60].strip()


def _measure(
    sandbox: Sandbox, problems: list[Problem], num_mutants: int, max_mutants: int
) -> tuple[dict[str, int], list[Line]]:
    """Counts, and a line for each reference or mutant that plain Python and the sandbox see otherwise."""
    plain = _run_plain(sandbox, problems)
    right = [problem for problem, verdict in zip(problems, plain, strict=True) if verdict.passed]
    faults = [(each, verdict) for each, verdict in zip(problems, plain, strict=True) if not verdict.passed]
    lines = [(name, "plain fails", verdict.message) for (name, _, _), verdict in faults]
    here = list(sandbox.run_many((code, tests) for _, code, tests in right))
    seen = Counter(_WORDS[verdict.passed] for verdict in here)
    lines += _list_seen(right, here, wanted=True)
    mutants = [
        (f"mutant of {name}", mutant, tests) for number, (name, code, tests) in enumerate(right)
        for mutant in make_mutants(code, num_mutants, number)
    ]  # fmt: skip
    mutants = mutants[:: -(-len(mutants) // max(max_mutants, 1)) or 1]
    plain = _run_plain(sandbox, mutants)
    wrong = [mutant for mutant, verdict in zip(mutants, plain, strict=True) if verdict.passed is False]
    here = list(sandbox.run_many((code, tests) for _, code, tests in wrong))
    caught = Counter(_WORDS[verdict.passed] for verdict in here)
    lines += _list_seen(wrong, here, wanted=False)
    counts = {"references": len(problems), "plain passes": len(right)}
    counts |= {word: seen[word] for word in ("passed", "failed", "unjudged")}
    counts |= {"plain fails": len(wrong), "caught": caught["failed"], "missed": caught["passed"]}
    return counts | {"left": caught["unjudged"]}, lines


def _list_seen(problems: list[Problem], verdicts: list[Verdict], *, wanted: bool) -> list[Line]:
    """The verdicts that are not the wanted one."""
    return [
        (name, f"{'reference' if wanted else 'mutant'} {_WORDS[verdict.passed]}", verdict.message)
        for (name, _, _), verdict in zip(problems, verdicts, strict=True) if verdict.passed is not wanted
    ]  # fmt: skip


def _run_plain(sandbox: Sandbox, problems: list[Problem]) -> list[Verdict]:
    def run(code: str, tests: Tests) -> Verdict:
        if not isinstance(tests, CallTests):
            return sandbox.run(code, replace(tests, comparison="codecontests"))
        with sandbox._box(sandbox.limits.extend(tests.cpu_seconds)) as box:
            return judge_together(box, sandbox.limits.extend(tests.cpu_seconds), code, tests)

    return list(sandbox._run_all(run, ((code, tests) for _, code, tests in problems)))


if __name__ == "__main__":
    sys.exit(main())
