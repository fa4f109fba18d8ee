"""Plots time against the number of programs and the lengths of problem and program: `python benches scaling`.

N candidates of R tokens share the P tokens of their prompt, so ideally scoring them together is N(P + R) / (P + NR)
times as fast as scoring each alone; attention, which that leaves out, makes a candidate's tokens dearer than its
prompt's. Measured are a call with all of them, the token budget of an engine being its own, and a call with one of
them right before. Writes scaling_*.json and scaling_*.png.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benches.harness.options import choose_shape, make_parser, parse_count, report_progress
from benches.harness.results import save
from codescaler.engine import Engine
from codescaler.io.tables import format_table
from codescaler.testing import Workload, bench_device, measure_seconds, write_random_rm


class Sizes(NamedTuple):
    """N candidates, P tokens of their prompt, and R tokens of each."""

    N: int
    P: int
    R: int

    @property
    def ideal_gain(self) -> float:
        return self.N * (self.P + self.R) / (self.P + self.N * self.R)


class Times(NamedTuple):
    """Median seconds of all candidates in one call, and of one of them alone."""

    together_s: float
    alone_s: float


MIDDLE = Sizes(N=8, P=512, R=256)
SWEEPS = {  # what is varied, the others staying as they are in the middle
    "N": (1, 2, 4, 8, 16, 32, 64),
    "P": (0, 128, 256, 512, 1024, 2048),
    "R": (16, 64, 128, 256, 512, 1024),
}
TITLES = {"N": "programs of one problem", "P": "tokens of the problem", "R": "tokens of each program"}


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    parser = make_parser("scaling", "Plots time against numbers and lengths of programs and problems.")
    parser.set_defaults(layers=4)  # time is a sum over layers, and the plot is about ratios
    parser.add_argument("--largest", type=parse_count, default=2048, help="leave out larger sizes")
    arguments = parser.parse_args(options)
    torch.set_num_threads(arguments.threads)
    shape, device = choose_shape(arguments), bench_device()
    curves = {
        axis: [MIDDLE._replace(**{axis: value}) for value in values if value <= arguments.largest]
        for axis, values in SWEEPS.items()
    }
    with tempfile.TemporaryDirectory(prefix="codescaler-scaling-") as folder:
        write_random_rm(Path(folder), shape)
        engine = Engine.from_pretrained(folder, device=str(device), dtype=arguments.dtype)
        times = _measure(engine, curves, arguments.rounds, device)
    for axis, curve in curves.items():
        others = ", ".join(f"{name} = {value}" for name, value in MIDDLE._asdict().items() if name != axis)
        print(f"\n{TITLES[axis]}; {others}")
        rows = [
            (
                str(getattr(size, axis)),
                f"{times[size].together_s:.3f}",
                f"{_compute_gain(size, times):.2f}",
                f"{size.ideal_gain:.2f}",
            )
            for size in curve
        ]
        print(format_table((axis, "seconds", "gain", "ideal"), rows))
    if arguments.save:
        figures = {
            axis: [
                size._asdict()
                | times[size]._asdict()
                | {"gain": _compute_gain(size, times), "ideal_gain": size.ideal_gain}
                for size in curve
            ]
            for axis, curve in curves.items()
        }
        path = save("scaling", arguments, shape, device, {"rounds": arguments.rounds, "curves": figures})
        _plot(curves, times, path.with_suffix(".png"))
    return 0


def _measure(engine: Engine, curves: dict[str, list[Sizes]], rounds: int, device: torch.device) -> dict[Sizes, Times]:
    seconds: dict[Sizes, list[tuple[float, ...]]] = {size: [] for curve in curves.values() for size in curve}
    for number in range(1, rounds + 1):
        for size, values in seconds.items():
            sequences = Workload(size.P, (size.R,) * size.N).draw_sequences(seed=number)
            alone_s, together_s = (
                measure_seconds(lambda: engine.score_tokens(lists), device)  # noqa: B023
                for lists in (sequences[:1], sequences)
            )
            values.append((together_s, alone_s))
        report_progress(f"round {number} of {rounds}")
    return {size: Times(*map(statistics.median, zip(*values, strict=True))) for size, values in seconds.items()}


def _compute_gain(size: Sizes, times: dict[Sizes, Times]) -> float:
    return size.N * times[size].alone_s / times[size].together_s


def _plot(curves: dict[str, list[Sizes]], times: dict[Sizes, Times], path: Path) -> None:
    """Draws seconds above and gains below, one column for each of N, P and R."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, len(curves))
    for (axis, curve), (above, below) in zip(curves.items(), axes.T, strict=True):
        values = [getattr(size, axis) for size in curve]
        above.plot(values, [times[size].together_s for size in curve], "o-")
        above.set(title=TITLES[axis], ylabel="seconds")
        below.plot(values, [_compute_gain(size, times) for size in curve], "o-", label="measured")
        below.plot(values, [size.ideal_gain for size in curve], "k--", label="N(P + R) / (P + NR)")
        below.set(xlabel=axis, ylabel="gain over one at a time", ylim=(0, None))
        below.legend()
    figure.savefig(path, dpi=100)
    report_progress(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
