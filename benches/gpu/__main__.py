"""Proves and measures everything on a GPU: `python benches gpu`, or `make gpu`.

The parts run one after the other, each in processes of its own and for a bounded time; a part that fails stops no
other. Every row is written to FOLDER/results.json as it comes. A later call with --earlier resumes where that one
ended, and keeps the parts that ended well. The table is printed last. Exit status 1 if a row failed.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from benches.gpu.parts import PARTS, Part, Row, make_setting
from benches.gpu.results import Results

ROOT = Path(__file__).parents[2]
SMALL_SECONDS = 100  # that a part may take in the interpreter, where its own bound says nothing


def main(options: Sequence[str] | None = None) -> int:
    """Runs the parts that are asked for, prints the table, and returns the exit status."""
    arguments = _parse(options)
    if arguments.run_part:
        return _run_part(arguments)
    results = Results(arguments.out, arguments.earlier)
    end = time.monotonic() + 60 * arguments.minutes
    for part in PARTS:
        if part.name in arguments.skip or (arguments.only and part.name not in arguments.only):
            continue
        if results.is_finished(part.name) and part.name not in arguments.only:
            continue
        bound = min(SMALL_SECONDS if arguments.small else part.seconds, end - time.monotonic())
        _run_in_processes(part, bound, arguments.small, results)
    print(results.write_table())
    return 1 if results.has_failed() else 0


def _parse(options: Sequence[str] | None) -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="python benches gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=names, default=[], help="parts to run, whether done before or not")
    parser.add_argument("--skip", nargs="+", choices=names, default=[], help="parts to leave out")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/gpu", help="folder of results.json, table.txt, log.txt"
    )
    parser.add_argument("--earlier", type=Path, help="results.json of an earlier call, to go on from")
    parser.add_argument("--small", action="store_true", help="tiny shapes in Triton's interpreter, on a CPU")
    parser.add_argument("--minutes", type=float, default=6.5, help="that all parts together may take")
    parser.add_argument("--run-part", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--shard", default="0/1", help=argparse.SUPPRESS)
    parser.add_argument("--done", default="[]", help=argparse.SUPPRESS)
    return parser.parse_args(options)


def _run_part(arguments: argparse.Namespace) -> int:
    """Runs one part in this process and prints its rows, a line of JSON each, for the process that started it."""
    module = __import__(f"benches.gpu.{arguments.run_part}", fromlist=["run"])
    shard, num_shards = map(int, arguments.shard.split("/"))
    setting = make_setting(arguments.small, shard, num_shards, frozenset(json.loads(arguments.done)))
    # Whatever a library prints must not stand among the rows.
    rows, sys.stdout = sys.stdout, sys.stderr
    module.run(setting, lambda row: print(json.dumps(asdict(row)), file=rows, flush=True))
    return 0


def _run_in_processes(part: Part, bound_s: float, is_small: bool, results: Results) -> None:
    """Runs one part, ends it after `bound_s` seconds, and writes how it ended in a row of its own."""
    print(f"{part.name}: {part.what}", file=sys.stderr, flush=True)
    results.start(part)
    if bound_s < 1:
        results.add(part.name, asdict(Row("time", False, fault="no time was left for it")))
        return
    started = time.monotonic()
    processes = _start(part, is_small, results)
    timer = threading.Timer(bound_s, lambda: [_kill(process) for process in processes])
    timer.start()
    with ThreadPoolExecutor(len(processes)) as readers:
        list(readers.map(lambda process: _read_rows(process, part.name, results), processes))
    statuses = [process.wait() for process in processes]
    is_cut = not timer.is_alive()
    timer.cancel()
    fault = ""
    if any(statuses):
        fault = f"cut off after {bound_s:.0f} s" if is_cut else f"exit status {max(map(abs, statuses))}, see log.txt: "
        fault += "" if is_cut else results.end_of_log()
    figures = {"seconds": round(time.monotonic() - started, 1)}
    results.add(part.name, asdict(Row("time", not any(statuses), figures, fault)))


def _start(part: Part, is_small: bool, results: Results) -> list["subprocess.Popen[bytes]"]:
    count = 1 if is_small else part.num_processes
    environment = os.environ | ({"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} if is_small else {})
    command = [sys.executable, str(ROOT / "benches"), "gpu", "--run-part", part.name, *["--small"] * is_small]
    command += ["--done", json.dumps(results.list_names_done(part.name))]
    with results.log.open("ab") as log:
        return [
            subprocess.Popen(
                [*command, "--shard", f"{shard}/{count}"],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
            for shard in range(count)
        ]


def _read_rows(process: "subprocess.Popen[bytes]", part: str, results: Results) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            results.add(part, json.loads(line))


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process of a part and every process that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
