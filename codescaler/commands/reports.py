"""Results as text for people: tables and summaries. Knows records and figures, no model."""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codescaler.errors import make_printable
from codescaler.io.records import Group
from codescaler.io.tables import format_table
from codescaler.metrics import best_of_n, pair_accuracy
from codescaler.types import RankedCandidate

_VERDICTS = {True: "passed", False: "failed", None: ""}


@dataclass(frozen=True)
class Screen:
    """What text is shown on: how wide it is, None where that does not matter, and whether it knows block characters."""

    columns: int | None = None
    has_blocks: bool = False


def format_ranking(
    group: Group, facts: Sequence[Mapping[str, Any]], names: Sequence[str], span: float, screen: Screen
) -> str:
    """One problem's candidates, best first, from the facts that `codescaler rerank --json` prints.

    A bar is full at the best score and empty `span` below it. On a narrow screen bars and intervals go before names.
    """
    first_line = group.prompt.strip().partition("\n")[0]
    title = make_printable(f"{group.task_id}: {first_line[:100]}{'...' if len(first_line) > 100 else ''}")
    names = [make_printable(names[fact["index"]]) for fact in facts]
    chance = "first is correct" if any(fact["first_is_correct"] for fact in facts) else ""
    header = ("rank", "", "score", "behind", chance, "tests", "program")
    width = screen.columns or sys.maxsize
    for num_blocks, is_brief in ((20, False), (10, False), (10, True), (0, True)):
        rows = [
            (
                str(fact["rank"]),
                draw_bar(_format_fraction(fact["gap_to_first"], span), num_blocks, screen.has_blocks),
                "" if fact["score"] is None else f"{fact['score']:.3f}",
                f"{fact['gap_to_first']:.3f}" if fact["gap_to_first"] is not None and fact["rank"] > 1 else "",
                _describe_gap(fact, is_brief),
                _VERDICTS[group.candidates[fact["index"]].passed],
            )
            for fact in facts
        ]
        room = (
            width - max(map(len, format_table(header, [(*row, "x" * 7) for row in rows]).splitlines()), default=0) + 7
        )
        if room >= min(24, max(map(len, names), default=0)):
            break
    shown = [(*row, _cut(name, max(room, 8))) for row, name in zip(rows, names, strict=True)]
    return f"{_cut(title, width)}\n{format_table(header, shown)}"


def _format_fraction(behind: float | None, span: float) -> float:
    return 0.0 if behind is None else max(0.0, 1.0 - behind / span)


def _describe_gap(fact: Mapping[str, Any], is_brief: bool) -> str:
    """How often the first was correct at this gap, or what is wrong with the candidate."""
    if not fact["is_valid"]:
        return str(fact["invalid_because"]) if is_brief else f"invalid: {fact['invalid_because']}"
    if fact["missing"]:
        names = ", ".join(map(make_printable, fact["missing"]))
        return f"no {names}" if is_brief else f"does not define {names}"
    if fact["dropped_at"] is not None:
        return "dropped" if is_brief else f"dropped after {fact['dropped_at']} layers"
    if fact["first_is_correct"] is None:
        return ""
    chance = fact["first_is_correct"]
    mean, low, high = (f"{100 * value:.0f}" for value in (chance["mean"], *chance["interval"]))
    return f"{mean} of 100" if is_brief else f"{mean} of 100 [{low}, {high}]"


def draw_bar(share: float, num_blocks: int, has_blocks: bool) -> str:
    """A bar of up to `num_blocks` characters, in eighths of a block where the screen knows these."""
    if not has_blocks:
        return "#" * round(share * num_blocks)
    whole, eighths = divmod(round(share * num_blocks * 8), 8)
    return "\u2588" * whole + (chr(0x2590 - eighths) if eighths else "")


def _cut(text: str, width: int) -> str:
    """Text of at most `width` characters; what is left out of its middle is marked."""
    if len(text) <= width:
        return text
    return f"{text[: width // 2 - 1]}..{text[len(text) - (width - 1) // 2 :]}"


def summarize_rankings(groups: Sequence[Group], rankings: Sequence[Sequence[RankedCandidate]]) -> str | None:
    """How often the first-ranked program is correct, beside chance; None unless every candidate's verdict is known."""
    verdicts = [[candidate.passed for candidate in group.candidates] for group in groups]
    if not groups or any(passed is None for verdict in verdicts for passed in verdict):
        return None
    first = chance = best = 0.0
    pairs = []
    for ranked, labels in zip(rankings, verdicts, strict=True):
        places = [c.place[:-1] for c in ranked]
        scores = [-float(sorted(set(places)).index(c.place[:-1])) if c.is_valid else -math.inf for c in ranked]
        right = [bool(labels[c.index]) and c.is_valid for c in ranked]
        valid = [label for label, c in zip(right, ranked, strict=True) if c.is_valid]
        if valid:
            first += best_of_n(scores, right, len(scores))
            chance += sum(valid) / len(valid)
            best += any(valid)
        accuracy = pair_accuracy(scores[: len(valid)], valid)
        pairs += [] if accuracy is None else [accuracy]
    shares = [f"{count / len(groups):.0%}" for count in (first, chance, best)]
    mean_pairs = f"{sum(pairs) / len(pairs):.0%} (a coin: 50%)" if pairs else "there is none"
    if any(candidate.dropped_at is not None for ranked in rankings for candidate in ranked):
        mean_pairs = "not known, since some have no score"
    return (
        f"{len(groups)} problems. The program ranked first passes its tests in {shares[0]} of them; one drawn from\n"
        f"those that parse in {shares[1]}; some candidate does in {shares[2]}.\n"
        f"Pairs of a correct and an incorrect program ranked correctly: {mean_pairs}."
    )


def format_settings(values: Mapping[str, Any], indent: str = "") -> str:
    """Names and values, one a line; a mapping inside becomes an indented block."""
    lines = []
    width = max(map(len, values), default=0)
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}", format_settings(value, indent + "  ")]
        else:
            text = ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
            lines.append(f"{indent}{name.ljust(width)}  {make_printable(text)}")
    return "\n".join(lines)


def format_head_report(report: Any) -> str:
    """What `train.HeadReport` says."""
    unused = report.num_groups - report.num_groups_used
    lines = [
        f"{report.output_dir}: a head fitted on {report.num_pairs} (correct, incorrect) pairs of {report.num_programs} "
        f"programs for {report.num_groups_used} problems",
        f"left out: {unused} problems without such a pair, {report.num_invalid} candidates without code, "
        f"{report.num_duplicates} duplicates, {report.num_contradictory} programs that both passed and failed",
        f"pairs ranked correctly: {report.training_accuracy:.1%} of those it was fitted on",
    ]
    if report.held_out_accuracy is not None:
        low, high = report.held_out_interval
        lines.append(
            f"                    {report.held_out_accuracy:.1%} on problems it has not seen "
            f"(95% interval {low:.1%} to {high:.1%}; a coin: 50%)"
        )
    return "\n".join(lines)


def format_exits_report(report: Any) -> str:
    """What `train.exits.ExitsReport` says."""
    kept = report.certificate
    places = ["before the first layer" if layer == 0 else f"after layer {layer}" for layer in report.layers]
    rows = [
        (place, "drops nobody" if math.isinf(margin) else f"{margin:.3f}")
        for place, margin in zip(places, kept.rule.margins, strict=True)
    ]
    return "\n".join(
        [
            f"{report.file}: margins chosen on {report.num_chosen} problems ({report.num_left_out} groups left out)",
            format_table(("candidates are dropped", "that are behind by more than"), rows),
            f"certified: {kept.describe_miss()} in at most {kept.at_most:.2%} of problems, at {kept.confidence:.0%} "
            f"confidence: {kept.num_missed} of {kept.num_counted} problems counted (bound {kept.bound:.2%})",
            f"work: {report.work:.0%} of that of all scores",
        ]
    )


def format_train_report(report: Any) -> str:
    """What `train.TrainReport` says."""
    left_out = [
        f"{count} {name.removeprefix('num_').replace('_', ' ')}" for name, count in report.counts.items() if count
    ]
    lines = [
        f"{report.output_dir / 'model'}: trained on {report.num_pairs} (correct, incorrect) pairs of "
        f"{report.num_problems} "
        f"problems, {report.num_steps} steps; the model after step {report.best_step} was kept",
        f"left out: {', '.join(left_out) or 'nothing'}",
    ]
    if report.seconds:
        lines.append(
            f"{report.seconds:.0f} s of training, {report.tokens_per_second:.0f} distinct tokens/s, "
            f"{report.mfu:.0%} of this machine's peak FLOP/s (MFU)"
        )
    for name, figures in (("before", report.before), ("after", report.best)):
        if figures is not None:
            low, high = figures.interval
            lines.append(
                f"validation {name.ljust(6)}: pairs ranked correctly {figures.pair_accuracy:.1%} (95% interval "
                f"{low:.1%} "
                f"to {high:.1%}), best of all {figures.best_of_n:.1%} (drawn blindly: {figures.chance:.1%}), "
                f"loss {figures.loss:.4f}"
            )
    return "\n".join(lines)


def format_quantization_report(report: Any) -> str:
    """What `quantize.QuantReport` says."""
    choice, megabytes = report.choice, [size / 1e6 for size in (report.bytes_before, report.bytes_after)]
    fused = len(choice.changes)
    lines = [
        f"{report.folder}: {megabytes[1]:.0f} MB, {megabytes[0]:.0f} before",
        f"quantised: {fused - len(choice.kept)} of {fused} linear layers (q, k and v are one, gate and up are one), "
        f"{choice.count(8)} with activations of 8 bits and {choice.count(16)} of 16; together they move a problem's "
        f"scores by {choice.change:.3f} of their standard deviation",
        "not quantised: the embedding, the norms, the head"
        + (", and what would move scores most:" if choice.kept else ""),
    ]
    rows = [(", ".join(names), f"{choice.get_least_change(names):.3f}") for names in choice.kept]
    return "\n".join([*lines, format_table(("linear layer", "would move scores by"), rows)] if rows else lines)


def format_int4_report(report: Any) -> str:
    """What `quantize.int4.Int4Report` says."""
    return "\n".join(
        [
            f"{report.folder}: {report.bytes_after / 1e6:.0f} MB, {report.bytes_before / 1e6:.0f} before",
            f"4 bits: all linear layers, with a scale for {report.group_size} inputs; 8 bits: the embedding",
            f"together they move a problem's scores by {report.change:.3f} of their standard deviation, on "
            f"{report.num_measured} problems; weights were rounded for others ({report.num_tokens:,} tokens)",
            "the model is expanded when it is loaded, and scores as fast as before",
        ]
    )


def make_record(value: Any) -> dict[str, Any]:
    """A report as JSON can hold it."""
    return {name: item if _is_plain(item) else str(item) for name, item in dataclasses.asdict(value).items()}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, tuple, dict))
