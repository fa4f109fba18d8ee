"""The start page as people use it: by keyboard alone, in the dark, on narrow screens, with files, to the export."""

import csv
import io
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PYTHON = os.environ.get("CODESCALER_PYTHON", str(ROOT / ".venv/bin/python"))
GROUP = ROOT / "docs/example/intervals.jsonl"
NAMES = {"pairs.py", "sorted.py", "unsorted.py", "renamed.py", "broken.py"}
FOCUS = """() => {
    const element = document.activeElement;
    const label = element.labels?.[0]?.textContent || element.getAttribute("aria-label") || element.textContent;
    const outline = getComputedStyle(element).outlineStyle;
    return { id: element.id, tag: element.tagName, classes: element.className, label: label.trim(), outline };
}"""


@pytest.fixture
def ranked(page):
    rank_group(page)
    return page


def list_names(page):
    """The candidates, best first."""
    return page.locator("#ranking .open").all_text_contents()


def rank_group(page):
    page.set_input_files("#files", GROUP)
    page.locator("#candidates li").nth(4).wait_for()
    page.keyboard.press("Control+Enter")
    page.locator("#ranking > tbody").nth(4).wait_for()


def tab_to(page, is_there, key="Tab"):
    """Presses Tab until the focus is there; each stop on the way has a name and a visible focus."""
    for _ in range(40):
        page.keyboard.press(key)
        stop = page.evaluate(FOCUS)
        assert stop["label"] and stop["outline"] != "none", stop
        if is_there(stop):
            return
    pytest.fail("the focus never came there")


def test_all_works_by_keyboard(page):
    press, write = page.keyboard.press, page.keyboard.insert_text
    tab_to(page, lambda stop: stop["id"] == "problem")
    write("Write a function `add(a, b)` that adds two numbers.")
    tab_to(page, lambda stop: stop["label"] == "Text of candidate 1")
    write("def add(a, b):\n    return a + b")
    press("Control+A")
    press("Control+C")
    tab_to(page, lambda stop: stop["label"] == "Text of candidate 2")
    press("Control+V")
    press("Control+End")
    press("Backspace")
    write("a")
    tab_to(page, lambda stop: stop["id"] == "add")
    press("Enter")
    assert page.evaluate(FOCUS)["label"] == "Text of candidate 3"
    tab_to(page, lambda stop: stop["label"] == "Remove candidate 3", key="Shift+Tab")
    press("Enter")
    assert page.evaluate(FOCUS)["label"] == "Remove candidate 2"  # the focus does not get lost
    press("Control+Enter")
    page.locator("#ranking > tbody").nth(1).wait_for()
    assert page.locator("#summary").get_attribute("role") == "status"
    tab_to(page, lambda stop: stop["classes"] == "open")
    press("Enter")
    page.locator(".heat").wait_for()
    assert page.locator(".open").first.get_attribute("aria-expanded") == "true"
    tab_to(page, lambda stop: stop["label"].startswith("Compare with"))
    press("ArrowDown")
    page.locator(".both").wait_for()
    texts = page.locator(".both tbody tr").nth(1).locator("code").all_text_contents()
    assert sorted(texts) == ["    return a + a", "    return a + b"]
    assert page.locator(".said").text_content().startswith("They part at line 2. In both: 1 line. ")
    tab_to(page, lambda stop: stop["id"] == "json")
    with page.expect_download() as download:
        press("Enter")
    assert json.loads(Path(download.value.path()).read_text())["candidates"][1]["code"].endswith("a + a")
    tab_to(page, lambda stop: stop["classes"] == "open", key="Shift+Tab")
    assert page.locator("[tabindex]:not([tabindex='0'])").count() == 0


def test_the_table_says_what_is_known(ranked):
    names, scores = list_names(ranked), [float(s.split()[0]) for s in ranked.locator(".score").all_inner_texts()]
    assert {*names} == NAMES and names[3:] == ["renamed.py", "broken.py"]  # what is asked for comes first
    assert scores[:3] == sorted(scores[:3], reverse=True)
    text = ranked.locator("#results").inner_text()
    told = rf"{names[0]} is first of 5, and (\d\.\d+) ahead of {names[1]}\. At such a gap the first was"
    assert abs(float(re.search(told, text)[1]) - (scores[0] - scores[1])) < 0.0015
    assert "MBPP validation (40 problems) [95% interval]" in text and "does not define merge_intervals" in text
    chances = ranked.locator("#ranking td.chance").all_inner_texts()
    assert [bool(re.fullmatch(r"\d\d of 100 \[\d\d, \d\d\]", chance)) for chance in chances] == [0, 1, 1, 0, 0]
    ranked.locator("#problem").press("End")
    assert ranked.locator("#stale").is_hidden()
    ranked.keyboard.type("x")
    assert ranked.locator("#stale").is_visible()


def test_a_row_opens_to_its_lines(ranked):
    names = list_names(ranked)
    first = ranked.locator("#ranking > tbody").nth(names.index("sorted.py"))
    first.locator(".open").click()
    first.locator(".heat").wait_for()
    codes = {c["name"]: c["code"] for c in json.loads(GROUP.read_text())["candidates"]}
    assert first.locator(".heat code").all_text_contents() == codes["sorted.py"].split("\n")
    changes = [
        float(text.replace("\u25bc", "").replace("\u2212", "-"))
        for text in first.locator(".heat td:nth-child(3)").all_inner_texts()
    ]
    assert min(changes) < 0 and first.locator("tr.drop").count() == 1
    assert "\u25bc" in first.locator("tr.drop").inner_text()
    number = 1 + changes.index(min(changes))
    assert first.locator(".said").inner_text().startswith(f"Largest drop of sorted.py: line {number} (-")
    last = first.locator(".heat tbody tr").last.locator("td").nth(1).inner_text()
    assert last == first.locator(".score").inner_text().split()[0]
    first.locator("select").select_option(label=f"{1 + names.index('unsorted.py')}. unsorted.py")
    first.locator(".both").wait_for()
    rows = [row.locator("code").all_text_contents() for row in first.locator(".both tbody tr").all()]
    for row in rows:
        assert len(row) == 2  # these two have as many lines
    assert [left == right for left, right in rows] == [True, True, False, True, False, True, True, True]
    assert first.locator(".both .common code").count() == 12
    assert first.locator(".said").inner_text().startswith("They part at line 3. In both: 6 lines.")
    first.locator(".open").click()
    assert first.locator(".heat").is_hidden()


def drop(page, **files):
    page.evaluate(
        """files => {
            const dataTransfer = new DataTransfer();
            for (const [name, bytes] of files) dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
            const options = { dataTransfer, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("dragover", options));
            if (!document.body.classList.contains("dropping")) throw new Error("no sign that a file may be dropped");
            document.body.dispatchEvent(new DragEvent("drop", options));
        }""",
        [[name.replace("__", "."), [*content]] for name, content in files.items()],
    )


def test_files_are_dropped(page):
    drop(page, problem__md=b"Add two numbers.\n", a__py=b"\xef\xbb\xbfx = 1\n", b__MD=b"# Text\n", c__txt=b"y = 2")
    page.locator("#candidates li").nth(2).wait_for()
    assert page.input_value("#problem") == "Add two numbers."
    cards = page.locator("#candidates li")
    assert [card.locator("input").input_value() for card in cards.all()] == ["a.py", "b.MD", "c.txt"]
    assert cards.first.locator("textarea").input_value() == "x = 1\n"
    drop(page, d__exe=b"MZ", e__py=b"\xff\xfe", f__jsonl=b'{"prompt": 3}', g__py=b"z = 3")
    cards.nth(3).wait_for()
    message = page.locator("#message").inner_text()
    assert "d.exe is left out; give .py" in message and "e.py is no text of UTF-8" in message
    assert "f.jsonl has no group in line 1" in message
    assert cards.nth(3).locator("input").input_value() == "g.py"


def test_a_file_of_groups_fills_everything(page):
    groups = [
        {"task_id": "one", "prompt": "p", "candidates": [{"code": "a"}, {"code": None}, {"code": "b", "passed": True}]},
        {"prompt": "q", "system": "Be strict.", "candidates": [{"code": "c", "name": "<i>"}]},
        {"prompt": "r", "system": "", "candidates": [{"code": "d"}, {"code": " "}]},
    ]
    drop(page, groups__jsonl="\n".join(map(json.dumps, groups)).encode())
    page.locator("#group option").nth(1).wait_for(state="attached")
    assert page.input_value("#problem") == "p"
    assert [area.input_value() for area in page.locator("#candidates textarea").all()] == ["a", "b"]
    assert page.locator("#message").inner_text() == "Left out of one: 1 candidate without code."
    page.locator("#candidates textarea").first.fill("edited = 1")
    page.select_option("#group", index=1)
    assert (page.input_value("#problem"), page.input_value("#system")) == ("q", "Be strict.")
    assert page.locator("#system").is_visible()
    assert page.locator("#candidates input").first.input_value() == "<i>"
    page.select_option("#group", index=0)
    assert page.locator("#candidates textarea").first.input_value() == "edited = 1"  # what was written is kept
    page.select_option("#group", index=2)
    assert page.locator("#message").inner_text() == "Left out of line 3: 1 candidate without code."
    with page.expect_request("**/v1/programs") as asked:
        page.keyboard.press("Control+Enter")
    assert asked.value.post_data_json["items"] == [{"problem": "r", "system": "", "candidates": ["d"]}]
    page.locator("#ranking > tbody").first.wait_for()
    page.locator("#more").evaluate("element => { element.open = true; }")
    page.locator("#system").fill("Be kind.")
    page.locator("#system").fill("")
    with page.expect_request("**/v1/programs") as asked:
        page.keyboard.press("Control+Enter")
    assert asked.value.post_data_json["items"][0]["system"] is None  # the model's own again
    page.click("#clear")
    assert page.locator("#groups").is_hidden() and page.input_value("#system") == ""


def test_a_file_that_is_refused_takes_no_room(page):
    page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array((16 << 20) + 1)], "large.py"));
            dataTransfer.items.add(new File(["x = 1"], "small.py"));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }"""
    )
    page.get_by_text("large.py is too much; give at most 16 MB.", exact=True).wait_for()
    assert page.locator("#candidates input").first.input_value() == "small.py"


def test_all_that_was_left_out_is_said(page):
    group = {"task_id": "one", "prompt": "p", "candidates": [{"code": "a"}, {"code": None}]}
    many = {"prompt": "q", "candidates": [{"code": "x"}] * 4097}
    drop(page, a__jsonl=json.dumps(group).encode(), b__jsonl=json.dumps(many).encode())
    page.get_by_text("b.jsonl has 4097 candidates in line 1; the server takes at most 4096.").wait_for()
    assert page.locator("#message").inner_text().startswith("Left out of one: 1 candidate without code. b.jsonl has ")
    assert page.locator("#candidates li").count() == 2 and page.input_value("#problem") == "p"


def export(page, name):
    with page.expect_download() as download:
        page.click(f"#{name}")
    return Path(download.value.path())


def test_an_export_is_read_again(ranked, tmp_path):
    path = tmp_path / "ranking.jsonl"
    path.write_bytes(export(ranked, "json").read_bytes())
    command = [PYTHON, "-P", "-m", "codescaler.cli", "rerank", str(path), "--json", "--dtype", "float32"]
    command += ["--num-threads", "1"]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["ranking"]
    group = json.loads(path.read_text())
    by_rank = sorted(group["candidates"], key=lambda candidate: candidate["rank"])
    same = ("rank", "score", "is_valid", "missing", "invalid_because", "same_as", "gap_to_first", "gap_to_next")
    assert [[one[name] for name in same] for one in shown] == [[one[name] for name in same] for one in by_rank]
    assert [one["first_is_correct"] for one in shown] == [one["first_is_correct"] for one in by_rank]
    ranked.click("#clear")
    ranked.set_input_files("#files", path)
    ranked.locator("#candidates li").nth(4).wait_for()
    assert ranked.locator("#candidates input").nth(2).input_value() == "pairs.py"


def test_tables_are_safe_to_open(page):
    name = '=cmd("x")|\u202e,`<b>'
    page.fill("#problem", "Any.")
    page.locator("#candidates textarea").first.fill("x = 1")
    page.locator("#candidates input").first.fill(name)
    page.click("#rank")
    page.locator("#ranking > tbody").first.wait_for()
    (row,) = csv.DictReader(io.StringIO(export(page, "csv").read_text()))
    assert row["name"] == '\'=cmd("x")|\\u202e,`<b>' and row["rank"] == "1" and float(row["score"]) < 9
    table = export(page, "markdown").read_text().splitlines()
    assert r'=cmd("x")\|\\u202e,\`\<b\>' in table[2] and len(table) == 3


def find_colours(element):
    """The colour of an element's text, and of what lies behind it."""
    return element.evaluate(
        """element => {
            const read = (text) => text.match(/[\\d.]+/g).map(Number);
            const layers = [];
            for (let at = element; at; at = at.parentElement) layers.push(read(getComputedStyle(at).backgroundColor));
            return [read(getComputedStyle(element).color), layers];
        }"""
    )


def measure_contrast(page, selector):
    """Of text to its background, by WCAG 2."""
    colour, layers = find_colours(page.locator(selector).first)
    return compute_contrast(colour, layers)


def compute_contrast(colour, layers):
    behind = [0.0, 0.0, 0.0]
    for *rgb, alpha in ([*layer, 1][:4] for layer in reversed(layers)):
        behind = [alpha * new + (1 - alpha) * old for new, old in zip(rgb, behind, strict=True)]

    def measure_light(rgb):
        shares = [value / 255 for value in rgb[:3]]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((measure_light(colour), measure_light(behind)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable(open_page, scheme):
    page = open_page(color_scheme=scheme)
    rank_group(page)
    for index in (1, 2):
        page.locator("#ranking > tbody").nth(index).locator(".open").click()
    page.locator("#ranking > tbody").nth(1).locator("select").select_option(index=2)
    page.locator(".both").wait_for()
    page.locator("#problem").fill("\x1b")
    selectors = ["body", "header p", "button", "#rank", "#problem", "#problem-note", "#files-note", "kbd", "footer a"]
    selectors += [
        "#measured",
        ".checks",
        ".good",
        ".bad",
        ".chance small",
        ".common code",
        ".heat th",
        ".heat td.quiet",
    ]
    selectors += ["#stale", ".legend"]
    faint = {s: measure_contrast(page, s) for s in selectors if page.locator(s).count()}
    assert {s: round(c, 2) for s, c in faint.items() if c < 4.5} == {}
    shaded = page.locator(".heat td").filter(visible=True).all()
    assert len(shaded) > 20
    assert min(compute_contrast(*find_colours(element)) for element in shaded) >= 4.5
    background = find_colours(page.locator("body"))[1][0][:3]
    assert (max(background) < 60) if scheme == "dark" else (min(background) > 230)


@pytest.mark.parametrize("width", [360, 700, 1600])
def test_every_width_holds_the_page(open_page, width):
    page = open_page(viewport={"width": width, "height": 800})
    rank_group(page)
    row = page.locator("#ranking > tbody").nth(1)
    row.locator(".open").click()
    row.locator("select").select_option(index=1)
    row.locator(".both").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert re.search(r"\d\d of 100", page.locator("#ranking").inner_text().replace("\n", " "))
    row.locator(".both").evaluate("element => element.parentElement.focus()")  # it scrolls by keys
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == (
        "Scores by line of {1} and {0}".format(*list_names(page))
    )
