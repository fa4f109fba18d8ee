"""The suite's own tests of operations, kernels and whole forwards, on the card: a row a file of tests."""

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from benches.gpu.parts import Emit, Row, Setting

ROOT = Path(__file__).parents[2]
PATHS = ("tests/ops", "tests/kernels", "tests/test_invariants.py", "tests/engine/test_cuda_graphs.py")
SMALL_FILES = ("tests/ops/test_glu.py", "tests/ops/test_rms_norm.py")  # `make test-triton` runs them all
NOT_BY_BACKEND = (
    "test_triton.py",
    "test_memory.py",
    "test_cuda_graphs.py",
)  # files whose tests choose the card themselves
FAULT_CHARACTERS = 160


class Recorder:
    """A plugin of pytest: selects this process's share of the tests for the card, and counts what became of them."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.faults: dict[str, list[str]] = defaultdict(list)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        wanted = [item for item in items if self.setting.is_small or _is_for_the_card(item)]
        items[:] = self.setting.take(wanted, lambda item: _get_file_name(item.nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = _get_file_name(report.nodeid)
        if report.skipped:
            self.counts[name]["skipped"] += 1
        elif report.failed:
            self.counts[name]["failed"] += 1
            self.faults[name].append(f"{report.nodeid.partition('::')[2]}: {_find_last_line(report)}")
        elif report.when == "call":
            self.counts[name]["passed"] += 1

    def make_rows(self) -> list[Row]:
        return [
            Row(
                name,
                not counts["failed"],
                {key: counts[key] for key in ("passed", "failed", "skipped")},
                "; ".join(self.faults[name][:3]),
            )
            for name, counts in self.counts.items()
        ]


def run(setting: Setting, emit: Emit) -> None:
    recorder = Recorder(setting)
    paths = [str(ROOT / path) for path in (SMALL_FILES if setting.is_small else PATHS)]
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "--benchmark-disable", f"--rootdir={ROOT}"]
    status = pytest.main([*options, *paths], plugins=[recorder])
    for row in recorder.make_rows():
        emit(row)
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        sys.exit(f"pytest ended with {status!r}")


def _is_for_the_card(item: Any) -> bool:
    return "triton-cuda" in item.nodeid or item.path.name in NOT_BY_BACKEND


def _get_file_name(node_id: str) -> str:
    return Path(node_id.partition("::")[0]).stem.removeprefix("test_")


def _find_last_line(report: Any) -> str:
    lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")] or ["no message"]
    return lines[-1].removeprefix("E").strip()[:FAULT_CHARACTERS]
