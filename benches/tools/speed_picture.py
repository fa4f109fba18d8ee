"""Draws the seconds of one comparison as bars, as an SVG of a few lines that needs no library."""

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

LABELS = {
    "codescaler": "codescaler",
    "vLLM": "vLLM, prefix caching",
    "transformers, sorted, by fours": "transformers, sorted, by 4",
    "transformers, one padded batch": "transformers, one batch",
}
_LEFT, _WIDTH, _ROW = 190, 370, 26


def draw_speed(result: Mapping[str, Any]) -> str:
    """Returns one bar for each system, fastest first, as long as its median time."""
    systems = sorted(result["systems"], key=lambda system: system["median_s"])
    longest = systems[-1]["median_s"]
    height = 40 + _ROW * len(systems)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" viewBox="0 0 640 {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="640" height="{height}" rx="6" fill="#ffffff"/>',
        f'<text x="12" y="22" fill="#1f2328">Seconds to score 8 programs of one problem ({result["num_threads"]} CPU '
        f"threads, {result['shape']['name'].upper()}, {result['dtype']})</text>",
    ]
    for place, system in enumerate(systems):
        y, length = 36 + _ROW * place, _WIDTH * system["median_s"] / longest
        fill = "#1a7f37" if system["system"] == "codescaler" else "#8c959f"
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end" fill="#1f2328">'
            f"{escape(LABELS[system['system']])}</text>",
            f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="18" fill="{fill}"/>',
            f'<text x="{_LEFT + length + 6:.1f}" y="{y + 14}" fill="#1f2328">{system["median_s"]:.1f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
