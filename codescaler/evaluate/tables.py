"""Figures as text for people, in percent with 95% intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from codescaler.evaluate.estimates import Estimate
from codescaler.evaluate.rm_bench import LEVELS
from codescaler.io.tables import printable, table


def percent(estimate: Estimate | None, sign: str = "") -> str:
    """Such as "61.0 [51.9, 69.9]"; nothing for no estimate."""
    if estimate is None:
        return ""
    mean, low, high = (f"{100 * value:{sign}.1f}" for value in (estimate["mean"], *estimate["interval"]))
    return f"{mean} [{low}, {high}]"


def best_of_n_text(figures: Mapping[str, Any]) -> str:
    """All figures of `best_of_n_figures`."""
    sizes, scorers = figures["num_candidates"], figures["scorers"]
    num = sizes["smallest"]
    shown = sorted({2**k for k in range(num.bit_length())} | {num})
    lines = [
        f"{figures['num_groups']} problems, {figures['num_mixed']} of them mixed (a right and a wrong program); "
        f"{sizes['all']} candidates, {figures['num_without_program']} of them no program.",
        f"N goes to {num}, the size of the smallest problem; {figures['num_groups_of_more_candidates']} problems have "
        f"more candidates, up to {sizes['largest']}.",
        "In percent, [95% intervals]: pairs ranked right, over mixed problems; how often the best of N is right.",
    ]
    rows = []
    for name, scorer in scorers.items():
        mixed = scorer["best_of_n_on_mixed"]
        curve = [f"{100 * scorer['best_of_n'][n - 1]['mean']:.1f}" for n in shown[:-1]]
        last = percent(scorer["best_of_n"][-1])
        rows.append((name, percent(scorer["pair_accuracy"]), percent(mixed[-1] if mixed else None), *curve, last))
    header = ("", "pairs right", f"mixed: N={num}", *(f"all: N={n}" for n in shown))
    parts = ["\n".join(lines), table(header, rows)]
    keys = ("pair_accuracy", "best_of_n_on_mixed", "best_of_n")
    titles = ("pairs right", f"mixed: N={num}", f"all: N={num}")
    parts += _gains(figures["gains"], titles, lambda gain: [gain[key] for key in keys])
    if figures["strata"] is not None:
        parts += _strata_text(figures["strata"], list(scorers), num)
    return "\n\n".join(parts)


def _strata_text(strata: Mapping[str, Any], scorers: Sequence[str], num: int) -> list[str]:
    blocks = []
    for key, title, count in (
        ("pair_accuracy", "pairs right", "num_mixed"),
        ("best_of_n", f"all: N={num}", "num_groups"),
    ):
        header = ("", *(f"{printable(label)} ({part[count]})" for label, part in strata["parts"].items()))
        rows = [(name, *(percent(part["scorers"][name][key]) for part in strata["parts"].values())) for name in scorers]
        blocks.append(f"{title} (number of problems)\n{table(header, rows)}")
    return [strata["note"].capitalize() + ":", *blocks]


def preferences_text(figures: Mapping[str, Any]) -> str:
    """All figures of `preference_figures`."""
    rows = [(name, percent(scorer["accuracy"])) for name, scorer in figures["scorers"].items()]
    parts = [
        f"{figures['num_items']} items of {figures['num_clusters']} prompts. In percent, [95% intervals]: "
        "how often a chosen response is scored best, ties shared.",
        table(("", "accuracy"), rows),
        *_gains(figures["gains"], ("accuracy",), lambda gain: [gain]),
    ]
    for field, by in figures["by"].items():
        names = [*figures["scorers"]]
        body = [
            (printable(label), str(part["num_items"]), *(percent(part["scorers"][name]) for name in names))
            for label, part in by["parts"].items()
        ]
        body.append(("mean of these", "", *(percent(by["mean"][name]) for name in names)))
        parts.append(table((field, "items", *names), body))
    return "\n\n".join(parts)


def rm_bench_text(figures: Mapping[str, Any]) -> str:
    """All figures of `rm_bench_figures` but the matrices."""
    num_items = figures["num_items"]
    counted = ", ".join(f"{printable(domain)} {count}" for domain, count in num_items.items())
    parts = [
        f"{sum(num_items.values())} items ({counted}). In percent, [95% intervals]: chosen responses scored strictly "
        "above rejected\nones that are plainer (easy), of the same style (normal), fancier (hard); means over domains."
    ]
    rows = []
    for name, scorer in figures["scorers"].items():
        averages = [percent(scorer["domains"][domain]["average"]) for domain in num_items]
        rows.append((name, *averages, *(percent(scorer["overall"][level]) for level in LEVELS)))
    parts.append(table(("", *map(printable, num_items), *LEVELS), rows))
    parts += _gains(figures["gains"], ("average",), lambda gain: [gain])
    return "\n\n".join(parts)


def calibration_text(figures: Mapping[str, Any]) -> str:
    """All figures of `measure_calibration`."""
    rows = [
        ("{:.3f} to {:.3f}".format(*part["gap"]), str(part["num_pairs"]), *map(percent, (part["right"], part["curve"])))
        for part in figures["bins"]
    ]
    rows.append(("all", str(figures["num_pairs"]), percent(figures["pairs_ranked_right"]), ""))
    slope, (low, high) = figures["slope"]["mean"], figures["slope"]["interval"]
    lines = [
        f"{figures['num_pairs']} pairs of a right and a wrong program, of {figures['num_problems']} problems that "
        "weigh the same.",
        "In percent, [95% intervals]: how often the higher-scored is the right one, as measured and by the curve",
        f"{figures['formula']}, slope {slope:.3g} [{low:.3g}, {high:.3g}], largest_gap {figures['largest_gap']:.3g}.",
    ]
    return "\n".join(lines) + "\n\n" + table(("gap", "pairs", "measured", "curve"), rows)


def _gains(
    gains: Mapping[str, Mapping[str, Any]], titles: Sequence[str], cells: Callable[[Any], Sequence[Estimate | None]]
) -> list[str]:
    """A table for each model: by how much it is ahead of every other scorer, item by item."""
    return [
        table(
            (f"gain of {model} over", *titles),
            [(other, *(percent(estimate, "+") for estimate in cells(gain))) for other, gain in others.items()],
        )
        for model, others in gains.items()
    ]
