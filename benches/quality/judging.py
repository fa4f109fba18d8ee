"""Reference programs and mutants of them, judged beside plain Python: `python benches judging FOLDER`.

FOLDER holds published sets: exercism/python, ClassEval, ODEX, CRUXEval, mxeval, and what `codescaler.tasks` reads.
Plain Python is one process that runs the prelude, the program, the setup and each statement, in the same box.

  references   of those that plain passes: passed, failed, unjudged here
  mutants      of those that plain fails: failed (or error, or time-out), passed, unjudged here

Exit status 1 if a reference that plain passes fails here. `--save NAME` writes benches/results/judging_NAME.json.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches.quality.judging_sets import Problem, read_sets
from codescaler.data.mutants import make_mutants
from codescaler.io.tables import format_table
from codescaler.sandbox import Limits, Sandbox
from codescaler.sandbox.verdicts import judge_together
from codescaler.types import CallTests, Tests, Verdict

RESULTS = Path(__file__).parents[1] / "results"
LIMITS = Limits(cpu_seconds=4, wall_seconds=15.0, memory_bytes=2 << 30, num_processes=32)

_WORDS = {True: "passed", False: "failed", None: "unjudged"}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns the exit status."""
    options = _make_parser().parse_args(argv)
    figures: dict[str, Any] = {}
    causes: dict[str, list[str]] = {}
    settings = {"num_workers": options.workers, "allow_site_packages": True}
    with Sandbox(LIMITS, allow_one_process=options.allow_one_process, **settings) as sandbox:
        for name, problems in read_sets(options.folder):
            if options.only in name:
                figures[name], causes[name] = _measure(sandbox, problems[:: options.every], options.mutants)
                print(name, figures[name], *causes[name], sep="\n  ", file=sys.stderr, flush=True)
    columns = ("references", "plain passes", "passed", "failed", "unjudged", "plain fails", "caught", "missed", "left")
    rows = [(name, *(str(figure[column]) for column in columns)) for name, figure in figures.items()]
    print(format_table(("set", *columns), rows))
    if options.save:
        record = json.dumps({"figures": figures, "causes": causes}, indent=2)
        (RESULTS / f"judging_{options.save}.json").write_text(record + "\n")
    return 1 if any(figure["failed"] for figure in figures.values()) else 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches judging", description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path, help="published sets, as their repositories hold them")
    parser.add_argument("--only", default="", metavar="TEXT", help="sets whose name holds this text")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th problem of a set")
    parser.add_argument("--mutants", type=int, default=3, metavar="N", help="of each reference")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--allow-one-process", action="store_true", help="where the tests ask for it")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benches/results/judging_NAME.json")
    return parser


def _measure(sandbox: Sandbox, problems: list[Problem], num_mutants: int) -> tuple[dict[str, int], list[str]]:
    """Counts, and a line for each reference or mutant that plain Python and the sandbox see otherwise."""
    plain = _run_plain(sandbox, [(code, tests) for _, code, tests in problems])
    right = [problem for problem, verdict in zip(problems, plain, strict=True) if verdict.passed]
    here = list(sandbox.run_many((code, tests) for _, code, tests in right))
    seen = Counter(_WORDS[verdict.passed] for verdict in here)
    lines = [
        f"{name}: {_WORDS[verdict.passed]}: {verdict.message[:160]!r}"
        for (name, _, _), verdict in zip(right, here, strict=True) if not verdict.passed
    ]  # fmt: skip
    mutants = [
        (name, mutant, tests) for number, (name, code, tests) in enumerate(right)
        for mutant in make_mutants(code, num_mutants, number)
    ]  # fmt: skip
    plain = _run_plain(sandbox, [(code, tests) for _, code, tests in mutants])
    wrong = [mutant for mutant, verdict in zip(mutants, plain, strict=True) if verdict.passed is False]
    here = list(sandbox.run_many((code, tests) for _, code, tests in wrong))
    caught = Counter(_WORDS[verdict.passed] for verdict in here)
    lines += [
        f"mutant of {name}: {_WORDS[verdict.passed]}: {verdict.message[:160]!r}"
        for (name, _, _), verdict in zip(wrong, here, strict=True) if verdict.passed is not False
    ]  # fmt: skip
    counts = {"references": len(problems), "plain passes": len(right)}
    counts |= {word: seen[word] for word in ("passed", "failed", "unjudged")}
    counts |= {"plain fails": len(wrong), "caught": caught["failed"], "missed": caught["passed"]}
    return counts | {"left": caught["unjudged"]}, lines


def _run_plain(sandbox: Sandbox, jobs: list[tuple[str, Tests]]) -> list[Verdict]:
    def run(code: str, tests: Tests) -> Verdict:
        if not isinstance(tests, CallTests):
            return sandbox.run(code, tests)
        with sandbox._box(sandbox.limits) as box:
            return judge_together(box, sandbox.limits, code, tests)

    return list(sandbox._run_all(run, jobs))


if __name__ == "__main__":
    sys.exit(main())
