"""What the sections of docs/benchmarks.md share: reading a file of results, and figures and tables as Markdown."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benches.harness.results import RESULTS

read_results: set[str] = set()  # what the page shows; a file of results that no section reads is an error


def load_result(name: str) -> dict[str, Any]:
    """Reads benches/results/NAME.json."""
    read_results.add(name)
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"


def describe_setting(result: Mapping[str, Any]) -> str:
    """Names the machine and the versions of a run, in sentences."""
    backend = result["backend"].removeprefix("C++ ").split(",")[0]
    versions = [f"{name} {version}" for name, version in result["versions"].items() if name != "codescaler"]
    return f"{result['cpu_model']}, `{backend}` kernels, {result['num_threads']} threads. {', '.join(versions)}."


def format_percent(share: float) -> str:
    return f"{share:.0%}"


def format_estimate(estimate: Mapping[str, Any], scale: float = 100, digits: int = 1) -> str:
    """A mean with its interval, in percent unless said otherwise."""
    low, high = estimate["interval"]
    return f"{estimate['mean'] * scale:.{digits}f} [{low * scale:.{digits}f}, {high * scale:.{digits}f}]"


def format_known(estimate: Mapping[str, Any] | None) -> str:
    """`format_estimate`, or nothing of what could not be measured."""
    return "" if estimate is None else format_estimate(estimate)


def format_gain(mean: float, interval: Sequence[float]) -> str:
    """A difference in points with its interval; nothing that rounds to -0.0."""
    return "{} [{}, {}]".format(*(f"{round(100 * value, 1) + 0.0:+.1f}" for value in (mean, *interval)))
