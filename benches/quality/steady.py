"""Whether each wrong program has the same verdict every time, with busy processes beside it.

`python benches steady --runs 50 --busy 4` judges the programs of tests/sandbox/wrong_programs.py again and again. It
prints each program whose verdicts differ, and the number of those whose verdicts are the same.
"""

import argparse
import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

from tqdm import tqdm

from codescaler.sandbox import ISOLATIONS, Sandbox
from codescaler.types import Outcome
from tests.sandbox.wrong_programs import LIMITS, WRONG


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50, help="of each program (default: %(default)s)")
    parser.add_argument(
        "--busy", type=int, default=4, help="processes that compute all the time (default: %(default)s)"
    )
    parser.add_argument("--isolation", choices=ISOLATIONS, help="default: the strongest")
    parser.add_argument("--workers", type=int, help="programs at a time (default: the processors)")
    parser.add_argument("--only", default="", help="a part of the names of programs")
    arguments = parser.parse_args()
    names = [name for name in WRONG if arguments.only in name]
    settings = {"isolation": arguments.isolation, "num_workers": arguments.workers}
    with Sandbox(LIMITS, **settings) as sandbox, run_busy_processes(arguments.busy):
        outcomes = judge_again(sandbox, names, arguments.runs)
    different = {name: counts for name, counts in outcomes.items() if len(counts) > 1}
    for name, counts in different.items():
        print(f"{name}: {dict(counts)}")
    print(f"{len(names) - len(different)} of {len(names)} programs: the same verdict in {arguments.runs} runs")
    sys.exit(bool(different))


@contextlib.contextmanager
def run_busy_processes(count: int) -> Iterator[None]:
    """Has so many processes compute until the end of the block."""
    busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def judge_again(sandbox: Sandbox, names: list[str], num_runs: int) -> dict[str, Counter[tuple[Outcome, ...]]]:
    """Returns how often each program had which outcomes."""
    jobs = [name for _ in range(num_runs) for name in names]
    counts: dict[str, Counter[tuple[Outcome, ...]]] = {name: Counter() for name in names}
    verdicts = sandbox.run_many((WRONG[name][0], WRONG[name][1]) for name in jobs)
    for name, verdict in tqdm(zip(jobs, verdicts, strict=True), total=len(jobs), unit=" programs"):
        counts[name][verdict.outcomes] += 1
    return counts


if __name__ == "__main__":
    main()
