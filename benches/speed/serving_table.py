"""The figures of `python benches serving` beside their targets."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CALL = "one call of an engine"
OURS = "codescaler serve"
VLLM = "vLLM serve"
OPENRLHF = "OpenRLHF serve_rm"


@dataclass(frozen=True)
class Line:
    """One figure, what it must reach and what it should. `passes` is None where there is no target."""

    figure: str
    must: str
    aim: str
    measured: str
    passes: bool | None = None
    is_speed: bool = True


def list_lines(figures: Mapping[str, Any]) -> Iterator[Line]:
    """Yields the lines of the table; those of a peer that did not run are left out."""
    systems = figures["systems"]
    for name, system in systems.items():
        yield Line(f"{name}, rows/s", "", "", f"{statistics.median(system['rows_per_s']):.1f}")
    for peer, must, aim in ((CALL, 0.9, 1.0), (VLLM, 1.5, 1.8), (OPENRLHF, 9.0, 12.0)):
        if peer in systems:
            ratio = compare(systems[OURS]["rows_per_s"], systems[peer]["rows_per_s"])
            of_cpu = compare(systems[peer]["cpu_s_per_row"], systems[OURS]["cpu_s_per_row"])
            yield Line(f"times as fast as {peer}", f"{must:g}", f"{aim:g}", f"{ratio:.2f}", ratio >= must)
            yield Line(f"the same by CPU seconds, {peer}", "", "", f"{of_cpu:.2f}")
    for name in systems:
        if name != CALL:
            yield Line(f"{name}, p50 / p99 of a row, s", "", "", _format_latencies(systems[name]))
            yield Line(f"{name}, MB", "", "", f"{systems[name]['peak_bytes'] / 1e6:.0f}")
            yield Line(f"{name}, start, s", "", "", f"{systems[name]['start_s']:.1f}")
    if VLLM in systems:
        share = systems[OURS]["peak_bytes"] / systems[VLLM]["peak_bytes"]
        yield Line(f"memory beside {VLLM}", "0.25", "", f"{share:.2f}", share <= 0.25)
    for name in (VLLM, OPENRLHF):
        if name in systems:
            difference = systems[name]["largest_difference"]
            yield Line(
                f"{name}, largest difference of scores", "", "", f"{difference:.3f} of {figures['score_deviation']:.3f}"
            )
    yield from _list_own(figures)


def _list_own(figures: Mapping[str, Any]) -> Iterator[Line]:
    yield Line("scores have the bits of the call", "all", "", "", figures["has_same_bits"], is_speed=False)
    tokens = figures["tokens"]
    share = tokens["computed"] / tokens["distinct"]
    yield Line("tokens computed / distinct tokens", "1.1", "", f"{share:.3f}", share <= 1.1, is_speed=False)
    lone = figures["lone"]
    limit = 1.15 * lone["engine_p50_s"] + 0.005
    share = lone["server_p50_s"] / limit
    yield Line("lone client, p50 / (1.15 x the engine's + 5 ms)", "1", "", f"{share:.2f}", share <= 1)
    for name, trickle in figures["trickle"].items():
        title = f"rows over {trickle['arrival_s']:g} s, {name}"
        share = trickle["computed_tokens"] / trickle["distinct_tokens"]
        yield Line(f"{title}: tokens computed / distinct", "", "", f"{share:.2f}")
        yield Line(f"{title}: p50 / p99 of a row, s", "", "", _format_latencies(trickle))
        yield Line(f"{title}: forwards, s", "", "", f"{trickle['forward_s']:.2f}")
    crowd = figures["crowd"]
    failures = crowd["num_failures"]
    title = f"of {crowd['num_connections']} connections in one moment, without a score"
    yield Line(title, "0", "", str(failures), failures == 0, is_speed=False)


def compare(ours: Sequence[float], others: Sequence[float]) -> float:
    """Returns the median over rounds of ours divided by the other's."""
    return statistics.median(map(float.__truediv__, ours, others))


def _format_latencies(system: Mapping[str, float]) -> str:
    return f"{system['p50_s']:.3f} / {system['p99_s']:.3f}"
