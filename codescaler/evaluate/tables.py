"""Figures as text for people, in percent with 95% intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from codescaler.errors import make_printable
from codescaler.evaluate.discrimination import select_rows
from codescaler.evaluate.estimates import Estimate
from codescaler.evaluate.fitness import RULE as FITNESS_RULE
from codescaler.evaluate.rm_bench import LEVELS
from codescaler.io.tables import format_table

_SWAPPED = ("pair_accuracy_own", "pair_accuracy_swapped")


def format_percent(estimate: Estimate | None, sign: str = "") -> str:
    """Such as "61.0 [51.9, 69.9]"; nothing for no estimate."""
    if estimate is None:
        return ""
    mean, low, high = (f"{100 * value:{sign}.1f}" for value in (estimate["mean"], *estimate["interval"]))
    return f"{mean} [{low}, {high}]"


def format_best_of_n(figures: Mapping[str, Any]) -> str:
    """All figures of `evaluate_best_of_n`."""
    sizes, scorers = figures["num_candidates"], figures["scorers"]
    num = sizes["smallest"]
    shown = sorted({2**k for k in range(num.bit_length())} | {num})
    copies = f", {figures['num_duplicates']} the same program as another" if figures["num_duplicates"] else ""
    lines = [
        f"{figures['num_groups']} problems, {figures['num_mixed']} of them mixed (a correct and an incorrect program); "
        f"{sizes['all']} candidates, {figures['num_without_program']} of them no program{copies}.",
        f"N goes to {num}, the size of the smallest problem; {figures['num_groups_of_more_candidates']} problems have "
        f"more candidates, up to {sizes['largest']}.",
        "In percent, [95% intervals]: pairs ranked correctly, over mixed problems; those of programs that define what "
        "their",
        f"problem asks for, over {figures['num_mixed_defining']} problems; how often the best of N is correct.",
    ]
    rows = []
    for name, scorer in scorers.items():
        mixed = scorer["best_of_n_on_mixed"]
        curve = [f"{100 * scorer['best_of_n'][n - 1]['mean']:.1f}" for n in shown[:-1]]
        last = format_percent(scorer["best_of_n"][-1])
        rows.append(
            (
                name,
                format_percent(scorer["pair_accuracy"]),
                format_percent(scorer["pair_accuracy_defining"]),
                format_percent(mixed[-1] if mixed else None),
                *curve,
                last,
            )
        )
    header = ("", "correct pairs", "that define", f"mixed: N={num}", *(f"all: N={n}" for n in shown))
    parts = ["\n".join(lines), format_table(header, rows)]
    keys = ("pair_accuracy", "pair_accuracy_defining", "best_of_n_on_mixed", "best_of_n")
    titles = ("correct pairs", "that define", f"mixed: N={num}", f"all: N={num}")
    parts += _format_gains(figures["gains"], titles, lambda gain: [gain[key] for key in keys])
    if figures.get("discrimination"):
        parts += _format_discrimination(figures["discrimination"])
    if figures["strata"] is not None:
        parts += _format_strata(figures["strata"], list(scorers), num)
    return "\n\n".join(parts)


def _format_discrimination(figures: Mapping[str, Any]) -> list[str]:
    rows = [(name, *map(format_percent, estimates)) for name, estimates in select_rows(figures)]
    return [
        "One threshold for the programs of all problems. The chance of being correct is the logistic function of a "
        "score.",
        format_table(("", "AUC", "Youden's J", "ECE", "Brier"), rows),
    ]


def _format_strata(strata: Mapping[str, Any], scorers: Sequence[str], num: int) -> list[str]:
    blocks = []
    for key, title, count in (
        ("pair_accuracy", "correct pairs", "num_mixed"),
        ("best_of_n", f"all: N={num}", "num_groups"),
    ):
        header = ("", *(f"{make_printable(label)} ({part[count]})" for label, part in strata["parts"].items()))
        rows = [
            (name, *(format_percent(part["scorers"][name][key]) for part in strata["parts"].values()))
            for name in scorers
        ]
        blocks.append(f"{title} (number of problems)\n{format_table(header, rows)}")
    return [strata["note"].capitalize() + ":", *blocks]


def format_preferences(figures: Mapping[str, Any]) -> str:
    """All figures of `evaluate_preferences`."""
    rows = [(name, format_percent(scorer["accuracy"])) for name, scorer in figures["scorers"].items()]
    parts = [
        f"{figures['num_items']} items of {figures['num_clusters']} prompts. In percent, [95% intervals]: "
        f"how often a chosen response is scored best, ties shared.{_tell_duplicates(figures)}",
        format_table(("", "accuracy"), rows),
        *_format_gains(figures["gains"], ("accuracy",), lambda gain: [gain]),
    ]
    for field, by in figures["by"].items():
        names = [*figures["scorers"]]
        body = [
            (make_printable(label), str(part["num_items"]), *(format_percent(part["scorers"][name]) for name in names))
            for label, part in by["parts"].items()
        ]
        body.append(("mean of these", "", *(format_percent(by["mean"][name]) for name in names)))
        parts.append(format_table((field, "items", *names), body))
    return "\n\n".join(parts)


def format_rm_bench(figures: Mapping[str, Any]) -> str:
    """All figures of `evaluate_rm_bench` but the matrices."""
    num_items = figures["num_items"]
    counted = ", ".join(f"{make_printable(domain)} {count}" for domain, count in num_items.items())
    parts = [
        f"{sum(num_items.values())} items ({counted}). In percent, [95% intervals]: chosen responses scored strictly "
        "above rejected\nones that are plainer (easy), of the same style (normal), fancier (hard); means over domains."
        f"{_tell_duplicates(figures)}"
    ]
    rows = []
    for name, scorer in figures["scorers"].items():
        averages = [format_percent(scorer["domains"][domain]["average"]) for domain in num_items]
        rows.append((name, *averages, *(format_percent(scorer["overall"][level]) for level in LEVELS)))
    parts.append(format_table(("", *map(make_printable, num_items), *LEVELS), rows))
    parts += _format_gains(figures["gains"], ("average",), lambda gain: [gain])
    return "\n\n".join(parts)


def describe_left_out(counts: Mapping[str, int]) -> str:
    """Such as "3 unjudged programs, 1 unlabelled groups are left out."; nothing for no counts."""
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    return f"{told} are left out." if told else ""


def _tell_duplicates(figures: Mapping[str, Any]) -> str:
    count = figures.get("num_duplicates", 0)
    return f"\n{count} items are left out, whose chosen and rejected responses are the same program." if count else ""


def format_calibration(figures: Mapping[str, Any]) -> str:
    """All figures of `measure_calibration`."""
    rows = [
        (
            "{:.3f} to {:.3f}".format(*part["gap"]),
            str(part["num_pairs"]),
            *map(format_percent, (part["right"], part["curve"])),
        )
        for part in figures["bins"]
    ]
    rows.append(("all", str(figures["num_pairs"]), format_percent(figures["pairs_ranked_right"]), ""))
    slope, (low, high) = figures["slope"]["mean"], figures["slope"]["interval"]
    lines = [
        f"{figures['num_pairs']} pairs of a correct and an incorrect program, of {figures['num_problems']} problems "
        "that "
        "weigh the same.",
        "In percent, [95% intervals]: how often the higher-scored is the correct one, as measured and by the curve",
        f"{figures['formula']}, slope {slope:.3g} [{low:.3g}, {high:.3g}], largest_gap {figures['largest_gap']:.3g}.",
    ]
    return "\n".join(lines) + "\n\n" + format_table(("gap", "pairs", "measured", "curve"), rows)


def format_reading(figures: Mapping[str, Any]) -> str:
    """All figures of `evaluate_reading`, and what they say of each model."""
    scorers = figures["scorers"]
    swapped = [
        (
            name,
            *(format_percent(part[key]) for part in (scorer, scorer["defining"]) for key in _SWAPPED),
            format_percent(scorer["fall"], "+"),
            *(_format_number(scorer[key]) for key in ("correlation", "correlation_within_problems")),
        )
        for name, scorer in scorers.items()
    ]
    header = ("correct pairs", "text swapped", "that define", "text swapped", "fall", "correlation", "within problems")
    counts = figures["num_beside"]
    before = [(name, *(format_percent(scorer["before"][kind]) for kind in counts)) for name, scorer in scorers.items()]
    return "\n\n".join(
        [
            f"{figures['num_problems']} problems, {figures['num_mixed']} of them mixed; {figures['num_programs']} "
            "programs.\nIn percent, [95% intervals]: pairs ranked correctly after the problem's own text, and after "
            "another problem's.",
            format_table(("", *header), swapped),
            "How often a correct program is before (number of problems):",
            format_table(("", *(f"{kind} ({count})" for kind, count in counts.items())), before),
            *(scorer["verdict"] for scorer in scorers.values() if "verdict" in scorer),
        ]
    )


def format_fitness(figures: Mapping[str, Any]) -> str:
    """All figures of `evaluate_fitness`, and what they say of each model."""
    scorers, sizes = figures["scorers"], figures["num_candidates"]
    told = ("auc", "youden", "ece", "brier", "pair_accuracy", "best_of_n")
    step = ("kept", "gain", "gain_over_validity")
    ranked = [(name, *(format_percent(scorer.get(key)) for key in told)) for name, scorer in scorers.items()]
    kept = [
        (name, *(format_percent(scorer[key], "+" if "gain" in key else "") for key in step))
        for name, scorer in scorers.items()
    ]
    paid = [
        (
            name,
            _format_number(scorer["correct"]),
            *(_format_number(estimate) for estimate in scorer["moves"].values()),
            *(_format_number(estimate) for estimate in scorer["correlation"].values()),
        )
        for name, scorer in scorers.items()
    ]
    kinds, surfaces = (list(next(iter(scorers.values()))[key]) for key in ("moves", "correlation"))
    return "\n\n".join(
        [
            f"{figures['num_groups']} groups, {figures['num_mixed']} of them mixed (a correct and an incorrect "
            "program).\n"
            f"{sizes['all']} samples, {figures['num_without_program']} of them no program; "
            f"{format_percent(figures['share_correct'])} percent of a group's are correct.\n"
            "In percent, [95% intervals]: one threshold for all programs; correct pairs and the best of "
            f"{sizes['smallest']}, within groups.",
            format_table(("", "AUC", "Youden's J", "ECE", "Brier", "correct pairs", f"N={sizes['smallest']}"), ranked),
            "One step of rejection sampling, in percent: how often the best-scored sample of a group is right, and by "
            "how\nmuch more often than any sample (gain), and than any sample that is a program (over validity).",
            format_table(("", "best-scored is right", "gain", "over validity"), kept),
            "What a program is paid for being correct and for each rewrite, in units of the spread of scores within a "
            "group;\nand the correlation of scores with length, comments and praise.",
            format_table(("", "correct", *kinds, *(f"with {name}" for name in surfaces)), paid),
            *(scorer["verdict"]["sentence"] for scorer in scorers.values() if "verdict" in scorer),
            f"The rule, by 95% intervals:\n{FITNESS_RULE}",
        ]
    )


def _format_number(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return "{:.3f} [{:.3f}, {:.3f}]".format(estimate["mean"], *estimate["interval"])


def format_combination(figures: Mapping[str, Any]) -> str:
    """All figures of `fit_combination`."""
    rows = [
        (
            name,
            f"{figures['weights'][name]:.3f}" if name in figures["weights"] else "",
            format_percent(accuracy),
            format_percent(figures["gain_of_fitted_weights"].get(name), "+"),
        )
        for name, accuracy in figures["pair_accuracy"].items()
    ]
    return (
        f"{figures['num_pairs']} pairs of a correct and an incorrect program, of {figures['num_problems']} problems, "
        "whose groups weigh the same.\nIn percent, [95% intervals]. Fitted weights rank problems that they were not "
        "fitted on.\n\n" + format_table(("", "weight", "correct pairs", "gain of fitted weights"), rows)
    )


def _format_gains(
    gains: Mapping[str, Mapping[str, Any]], titles: Sequence[str], cells: Callable[[Any], Sequence[Estimate | None]]
) -> list[str]:
    """A table for each model: by how much it is ahead of every other scorer, item by item."""
    return [
        format_table(
            (f"gain of {model} over", *titles),
            [(other, *(format_percent(estimate, "+") for estimate in cells(gain))) for other, gain in others.items()],
        )
        for model, others in gains.items()
    ]
