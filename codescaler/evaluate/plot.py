"""Figures as pictures. matplotlib, an extra, is imported when one is drawn."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codescaler.errors import BackendUnavailable, InvalidInput
from codescaler.evaluate.estimates import Estimate
from codescaler.io.files import open_output


def require_plot(path: Path) -> None:
    """Raises what would keep a picture from being drawn, before hours of scoring.

    Raises: InvalidInput if the name is no PNG's. BackendUnavailable if matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        raise InvalidInput(f"--plot {path} is no name of a PNG; let it end in .png")
    if importlib.util.find_spec("matplotlib") is None:
        raise BackendUnavailable("--plot needs matplotlib; run: pip install 'codescaler[evaluate]'")


def plot_best_of_n(figures: Mapping[str, Any], path: Path) -> None:
    """Best-of-N against N, over all problems and over mixed ones; models with their intervals."""
    from matplotlib.figure import Figure

    panels = {"best_of_n": figures["num_groups"], "best_of_n_on_mixed": figures["num_mixed"]}
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, (key, count) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        for name, scorer in figures["scorers"].items():
            curve = scorer[key]
            ns, style = range(1, len(curve) + 1), "o-" if name in figures["gains"] else "--"
            axes.plot(ns, [100 * point["mean"] for point in curve], style, markersize=3, label=name)
            if name in figures["gains"]:
                bounds = ([100 * point["interval"][side] for point in curve] for side in (0, 1))
                axes.fill_between(ns, *bounds, alpha=0.12)
        axes.set(title=f"{'all' if key == 'best_of_n' else 'mixed'} problems ({count})", xlabel="N")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].set_ylabel("the best of N is correct, %")
    figure.axes[0].legend(fontsize="small")
    with open_output(path, "w") as file:
        figure.savefig(file, dpi=110)


def plot_bars(bars: Mapping[str, Estimate], title: str, path: Path) -> None:
    """One bar a scorer, with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.5 * len(bars) + 1.2), layout="constrained")
    axes, names = figure.subplots(), list(bars)
    means = [100 * bars[name]["mean"] for name in names]
    # A mean may lie outside its percentile interval by a rounding, and no error bar may be negative.
    errors = [
        [max(0.0, side * (100 * bars[name]["interval"][end] - mean)) for name, mean in zip(names, means, strict=True)]
        for side, end in ((-1, 0), (1, 1))
    ]
    axes.barh(names, means, xerr=errors, capsize=3, color="0.75")
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="%", title=title)
    with open_output(path, "w") as file:
        figure.savefig(file, dpi=110)
