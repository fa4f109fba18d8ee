"""Scores by line as pictures: coloured lines for a terminal, and a page of one file. All text is escaped.

The page of the server draws the same (`serve/assets/page-heat.js`), from the same shades.
"""

from collections.abc import Sequence, Set
from html import escape

from codescaler.engine.trace import NUM_SHADES
from codescaler.errors import make_printable
from codescaler.io.tables import format_table
from codescaler.types import LineScore

_FALLS, _RISES = (52, 88, 124, 160), (22, 28, 29, 34)  # backgrounds of the 256 colours of terminals, under white text

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>codescaler explain</title>
<style>
:root {{ color-scheme: light dark; --quiet: #767676; --fall: 214 40 40; --rise: 30 140 70; }}
@media (prefers-color-scheme: dark) {{ :root {{ --quiet: #9a9a9a; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem; }}
pre, td {{ font: 14px/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }}
section {{ display: flex; flex-wrap: wrap; gap: 2rem; }}
article {{ flex: 1 1 24rem; min-width: 0; }}
h2 {{ font-size: 1rem; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; width: 100%; }}
td {{ padding: 0 0.5rem; unicode-bidi: isolate; direction: ltr; vertical-align: top; }}
th {{ padding: 0 0.5rem; text-align: left; font-weight: normal; color: var(--quiet); }}
td:nth-child(-n+3) {{ text-align: right; white-space: nowrap; color: var(--quiet); width: 1%; }}
tr.common td:last-child {{ color: var(--quiet); }}
tr.drop td {{ border-block: 2px solid rgb(var(--fall)); }}
td:last-child {{ tab-size: 4; }}
mark {{ background: #8a5a00; color: #fff; border-radius: 3px; padding: 0 0.2em; }}
{shades}
</style>
</head>
<body>
<h1>Scores by line</h1>
<p>Each score is that of the program which ends with the line. Red lines lower it, green lines raise it.
A frame marks the largest drop.{note}</p>
<details><summary>Problem</summary><pre>{problem}</pre></details>
<section>
{programs}
</section>
</body>
</html>
"""


def format_heat_map(
    name: str,
    lines: Sequence[LineScore],
    shades: Sequence[int],
    common: Set[int],
    drop: LineScore | None,
    *,
    has_colours: bool,
) -> str:
    """One program's lines. Lines in `common` are marked by a bar."""
    header = ("line", "score", "change", "", "", "program")
    rows = [
        (
            str(line.number),
            f"{line.score:.3f}",
            f"{line.change:+.3f}",
            _draw_change(shade),
            "|" if line.number in common else "",
            f"  {make_printable(line.text)}".rstrip(),
        )
        for line, shade in zip(lines, shades, strict=True)
    ]
    title, *shown = format_table(header, rows).split("\n")
    if has_colours:
        shown = [_paint(text, shade) for text, shade in zip(shown, shades, strict=True)]
    own = " of its own" if common else ""
    last = (
        f"no line{own} lowers the score" if drop is None else f"largest drop: line {drop.number} ({drop.change:+.3f})"
    )
    note = "; | marks lines of both programs" if common else ""
    return "\n".join([f"{make_printable(name)}: {lines[-1].score:.3f}", title, *shown, last + note])


def make_page(
    problem: str,
    names: Sequence[str],
    traces: Sequence[Sequence[LineScore]],
    shades: Sequence[Sequence[int]],
    common: Sequence[Set[int]],
    drops: Sequence[LineScore | None],
) -> str:
    """The text of a page that shows all programs beside each other, and loads nothing."""
    rules = "\n".join(
        f".{kind}{shade} {{ background: rgb(var(--{kind}) / {shade / NUM_SHADES * 0.6:.2f}); }}"
        for kind in ("fall", "rise")
        for shade in range(1, NUM_SHADES + 1)
    )
    programs = "\n".join(map(_format_program, names, traces, shades, common, drops))
    note = " Grey lines stand in both programs." if any(common) else ""
    return PAGE.format(shades=rules, note=note, problem=_escape_lines(problem), programs=programs)


def _format_program(
    name: str, lines: Sequence[LineScore], shades: Sequence[int], common: Set[int], drop: LineScore | None
) -> str:
    header = "".join(f'<th scope="col">{title}</th>' for title in ("line", "score", "change", "program"))
    told = (
        f"Line {drop.number} lowers the score most."
        if drop
        else f"No line{' of its own' if common else ''} lowers the score."
    )
    rows = [f"<article><h2>{_escape(name)}: {lines[-1].score:.3f}</h2><p>{told}</p><table>", f"<tr>{header}</tr>"]
    for line, shade in zip(lines, shades, strict=True):
        classes = [f"{'fall' if shade < 0 else 'rise'}{abs(shade)}"] if shade else []
        classes += ["common"] if line.number in common else []
        classes += ["drop"] if line is drop else []
        cells = (str(line.number), f"{line.score:.3f}", f"{line.change:+.3f}", _escape(line.text))
        rows.append(f'<tr class="{" ".join(classes)}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    return "\n".join([*rows, "</table></article>"])


def _draw_change(shade: int) -> str:
    return ("-" if shade < 0 else "+") * abs(shade)


def _paint(text: str, shade: int) -> str:
    if not shade:
        return text
    background = (_FALLS if shade < 0 else _RISES)[abs(shade) - 1]
    return f"\x1b[97;48;5;{background}m{text}\x1b[0m"


def _escape_lines(text: str) -> str:
    return "\n".join(map(_escape, text.replace("\r\n", "\n").split("\n")))


def _escape(text: str) -> str:
    """Text as a page shows it: tags are text, and characters that would drive or turn it are spelt out and marked.

    A tab stays. Otherwise the characters are those of `make_printable`, as on the page of the server.
    """
    return "".join(
        escape(c) if c.isprintable() or c == "\t" else f"<mark>{escape(make_printable(c))}</mark>" for c in text
    )
