"""`codescaler explain`: lines with their scores in the terminal, as JSON, and as a page on which all text is text."""

import html.parser
import json
import re

import pytest

from codescaler import cli
from codescaler.commands.heat_map import format_heat_map
from codescaler.engine import Engine
from codescaler.engine.trace import choose_shades, find_largest_drop
from codescaler.errors import InvalidInput
from codescaler.testing import save_chat, save_random_checkpoint
from codescaler.types import LineScore

PROBLEM = "Write <b>add</b> & no more.\nNo\u2028more."
SHOWN = "Write <b>add</b> & no more.\nNo\\u2028more."
HOSTILE = "x = '</script><img onerror=alert(1)>'\ny = '\x1b[2J\u202e'\n"
PROGRAMS = {"a.py": "def add(a, b):\n    return a + b\n", "b<i>.py": f"def add(a, b):\n{HOSTILE}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rm")
    save_random_checkpoint(path, "qwen3", vocab_size=300)
    save_chat(path)
    return path


@pytest.fixture
def files(tmp_path):
    (tmp_path / "problem.md").write_text(PROBLEM)
    for name, code in PROGRAMS.items():
        (tmp_path / name).write_text(code)
    return [tmp_path / "problem.md", *(tmp_path / name for name in PROGRAMS)]


def explain(folder, files, *options):
    assert cli.main(["explain", "--model", str(folder), *map(str, files), *map(str, options)]) == 0


def test_each_line_stands_beside_its_score(folder, files, capsys):
    explain(folder, files)
    shown = capsys.readouterr().out
    for line in Engine.from_pretrained(folder).trace(PROBLEM, PROGRAMS["a.py"]):
        assert re.search(rf"^ +{line.number} +{line.score:.3f} +{re.escape(f'{line.change:+.3f}')}", shown, re.M)
    assert shown.count("|  ") == 2  # the first line of both
    assert "\x1b" not in shown and "\u202e" not in shown


def test_programs_are_taken_out_of_completions(folder, files, capsys):
    plain, said = files[1], files[1].with_name("said.md")
    said.write_text(f"Here it is:\n```python\n{PROGRAMS['a.py']}```\n")
    lines = []
    for file, options in ((plain, ()), (said, ("--extract", "paper"))):
        explain(folder, [files[0], file], "--json", *options)
        lines.append(json.loads(capsys.readouterr().out)["lines"])
    assert lines[0] == lines[1]
    words = ["explain", "--model", str(folder), str(files[0]), str(plain), "--extract", "paper"]
    assert cli.main(words) == 2
    assert "a.py holds no program that --extract paper takes" in capsys.readouterr().err


def test_json_has_all_digits(folder, files, capsys):
    explain(folder, files[:2], "--json")
    (record,) = map(json.loads, capsys.readouterr().out.splitlines())
    lines = Engine.from_pretrained(folder).trace(PROBLEM, PROGRAMS["a.py"])
    assert [line["score"] for line in record["lines"]] == [line.score for line in lines]
    falls = {line.change: line.number for line in lines if line.change < 0}
    assert record["largest_drop"] == (falls[min(falls)] if falls else None)


class Reader(html.parser.HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        assert not [name for name, _ in attributes if name.startswith("on") or name in ("src", "href", "style")]

    def handle_data(self, data):
        self.text += data


def test_the_page_loads_and_runs_nothing(folder, files, tmp_path, capsys):
    explain(folder, files, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    read = Reader(page)
    assert not read.tags & {"script", "img", "i", "b", "link", "iframe"}
    assert SHOWN in read.text and "</script><img onerror=alert(1)>" in read.text and "b<i>.py" in read.text
    assert "\x1b" not in page and "\u202e" not in page and "\\x1b[2J\\u202e" in read.text
    assert "default-src 'none'" in page


def test_colours_follow_the_change():
    lines = [LineScore(1, "a", 5.0, 5.0), LineScore(2, "b", 4.0, -1.0), LineScore(3, "c", 4.5, 0.5)]
    shown = format_heat_map("p", lines, *choose_shades([lines]), set(), lines[1], has_colours=True).split("\n")
    backgrounds = [re.findall(r"48;5;(\d+)m", line) for line in shown]
    assert backgrounds == [[], [], ["34"], ["160"], ["28"], []]
    assert shown[-1] == "largest drop: line 2 (-1.000)"


def test_only_own_lines_can_be_the_largest_drop():
    lines = [LineScore(1, "a", -1.0, -1.0), LineScore(2, "b", 4.0, 5.0)]
    for common, said in (
        ({1}, "no line of its own lowers the score; | marks lines of both programs"),
        (set(), "line 1"),
    ):
        drop = find_largest_drop(lines, common)
        assert said in format_heat_map("p", lines, *choose_shades([lines]), common, drop, has_colours=False)


def test_a_likelihood_has_no_score_of_a_line(folder, files, capsys):
    with pytest.raises(SystemExit):
        cli.main(["explain", *map(str, files), "--scorer", "likelihood"])
    assert "unrecognized arguments: --scorer" in capsys.readouterr().err
    engine = Engine.from_pretrained(folder)
    engine.scorer = "likelihood"
    with pytest.raises(InvalidInput, match="scorer 'likelihood' has no score of a line; see log_probs"):
        engine.trace(PROBLEM, "x = 1")
