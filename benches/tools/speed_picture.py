"""Draws figures of several systems as bars, as an SVG of a few lines that needs no library."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

LABELS = {
    "codescaler": "codescaler",
    "vLLM": "vLLM, prefix caching",
    "transformers, sorted, by fours": "transformers, sorted, by 4",
    "transformers, one padded batch": "transformers, one batch",
}
_LEFT, _WIDTH, _ROW = 190, 370, 26


class _Bar(NamedTuple):
    label: str
    value: float
    text: str
    is_ours: bool


def draw_speed(result: Mapping[str, Any]) -> str:
    """Returns one bar for each system, fastest first, as long as its median time."""
    title = (
        f"Seconds to score 8 programs of one problem ({result['num_threads']} CPU "
        f"threads, {result['shape']['name'].upper()}, {result['dtype']})"
    )
    systems = sorted(result["systems"], key=lambda system: system["median_s"])
    bars = [
        _Bar(
            LABELS[system["system"]], system["median_s"], f"{system['median_s']:.1f}", system["system"] == "codescaler"
        )
        for system in systems
    ]
    return _draw([(title, bars)])


def draw_serving(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns bars of rows a second and of memory for each way to score a trainer's rows, for each model."""
    groups: list[tuple[str, list[_Bar]]] = []
    for result in results:
        systems, shape = result["systems"], result["shape"]
        model = f"{shape['num_layers']} layers of {shape['name'].upper()}, {result['dtype']}"
        speeds = {name: statistics.median(system["rows_per_s"]) for name, system in systems.items()}
        sizes = {name: system["peak_bytes"] / 1e6 for name, system in systems.items() if "peak_bytes" in system}
        for title, values, form in (
            (f"Rows a second, one POST a row ({model})", speeds, "{:.1f}"),
            (f"Memory, MB ({model})", sizes, "{:.0f}"),
        ):
            bars = [
                _Bar(name, value, form.format(value), name.startswith("codescaler")) for name, value in values.items()
            ]
            groups.append((title, bars))
    return _draw(groups)


def _draw(groups: Iterable[tuple[str, list[_Bar]]]) -> str:
    """Draws groups of bars below each other, each with its title and its own scale."""
    lines: list[str] = []
    top = 0
    for title, bars in groups:
        lines.append(f'<text x="12" y="{top + 22}" fill="#1f2328">{escape(title)}</text>')
        longest = max(bar.value for bar in bars)
        for place, bar in enumerate(bars):
            y, length = top + 36 + _ROW * place, _WIDTH * bar.value / longest
            fill = "#1a7f37" if bar.is_ours else "#8c959f"
            lines += [
                f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end" fill="#1f2328">{escape(bar.label)}</text>',
                f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="18" fill="{fill}"/>',
                f'<text x="{_LEFT + length + 6:.1f}" y="{y + 14}" fill="#1f2328">{bar.text}</text>',
            ]
        top += 40 + _ROW * len(bars)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{top}" viewBox="0 0 640 {top}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="640" height="{top}" rx="6" fill="#ffffff"/>',
    ]
    return "\n".join([*head, *lines, "</svg>", ""])
