"""The start page in headless Chromium, with hostile texts in every field: nothing runs, and all of it is shown."""

import sys
import unicodedata

import pytest

from .conftest import HOSTILE, RUN

SHOWN = HOSTILE.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e").replace("\u2066", r"\u2066")


def write(page, problem, programs):
    page.fill("#problem", problem)
    while page.locator("#candidates textarea").count() < len(programs):
        page.click("#add")
    for index, program in enumerate(programs):
        page.locator("#candidates textarea").nth(index).fill(program)


def rank(page, num_rows):
    page.click("#rank")
    page.locator("#ranking > tbody").nth(num_rows - 1).wait_for()


def open_row(page, index):
    row = page.locator("#ranking > tbody").nth(index)
    row.locator(".open").click()
    row.locator(".heat").wait_for()
    return row


def count_elements(page, name):
    return page.locator(name).count()


def test_every_text_is_shown_and_none_is_markup(page):
    assert page.locator("#model option").all_text_contents() == ["nano", SHOWN]
    page.select_option("#model", index=1)
    programs = [f"'''{HOSTILE}'''", f"x = 1  # {HOSTILE}", HOSTILE]
    write(page, HOSTILE, programs)
    page.locator("#candidates input").first.fill(HOSTILE)
    rank(page, 3)
    shown = [open_row(page, index).locator(".heat code").text_content() for index in range(3)]
    assert sorted(shown) == sorted(program.replace(HOSTILE, SHOWN) for program in programs)
    assert page.locator(".open", has_text="img src=x").text_content() == SHOWN
    assert "does not parse" in page.locator(".checks").last.text_content()
    assert (
        page.locator(".note:visible").all_text_contents()
        == [r"Hidden characters: \x1b (1), \u202e (1), \u2066 (1)"] * 4
    )
    assert page.locator(".heat mark").first.text_content() == r"\x1b"
    page.locator(".detail select").first.select_option(index=1)
    page.locator(".both").wait_for()
    assert page.locator(".both code").first.text_content().count(SHOWN) == 1
    assert [count_elements(page, name) for name in ("script", "img", "b")] == [1, 0, 0]


def test_hidden_characters_are_those_that_python_does_not_print(page):
    """One rule for the page, the terminal and `codescaler explain`: `str.isprintable`. Tabs and line ends stay."""
    ranges = page.evaluate(
        """async () => {
            const { makeVisible } = await import("/page-text.js");
            const ranges = [];
            for (let code = 0; code < 0x110000; code += 1) {
                const text = String.fromCodePoint(code);
                if (makeVisible(text) === text) continue;
                if (ranges.at(-1)?.[1] === code) ranges.at(-1)[1] += 1;
                else ranges.push([code, code + 1]);
            }
            return ranges;
        }"""
    )
    hidden = {code for start, end in ranges for code in range(start, end)}
    expected = {code for code in range(sys.maxunicode + 1) if not chr(code).isprintable()} - {*map(ord, "\t\n")}
    differ = hidden ^ expected
    assert not [hex(code) for code in differ if unicodedata.category(chr(code)) != "Cn"]  # of a later Unicode
    characters = "\0\r\x1b\x7f\xa0\u202e\u2066\ufeff\U000e0001\U0010ffff"
    spelt = page.evaluate("async text => (await import('/page-text.js')).makeVisible(text)", characters)
    assert spelt == characters.encode("unicode_escape").decode()


def test_a_huge_line_is_shown_and_moves_nothing(page):
    line = "x = '" + "\u202ea" * 60 + "b" * 900 + "'"
    write(page, "Any program.", [line])
    rank(page, 1)
    row = open_row(page, 0)
    assert row.locator(".heat code").text_content() == line.replace("\u202e", r"\u202e")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_error_is_shown_as_text(page):
    page.evaluate("text => { document.querySelector('#model option').value = text; }", f"{HOSTILE}!")
    page.select_option("#model", index=0)
    page.click("#example")
    page.click("#rank")
    page.get_by_text("there is no model").wait_for()
    message = page.locator("#message").text_content()
    assert "<img src=x onerror=" in message and "\u202e" not in message and "\x1b" not in message
    assert count_elements(page, "img") == 0
    assert page.locator("#message").get_attribute("role") == "status"
    assert [error for error in page.errors if "404" not in error] == []  # the browser's own line of it
    page.errors.clear()


def test_a_server_that_has_gone_is_told_of(page):
    page.click("#example")
    rank(page, 3)
    page.route("**/v1/trace", lambda route: route.abort())
    page.locator(".open").first.click()
    page.get_by_text("The server does not answer").wait_for()
    assert len(page.errors) == 1 and "ERR_FAILED" in page.errors.pop()
    page.unroute("**/v1/trace")
    page.locator(".open").first.click()
    page.locator(".open").first.click()  # a row that is opened again asks again
    page.locator(".heat").wait_for()
    page.locator(".detail select").first.select_option(index=1)
    page.locator(".both").wait_for()


@pytest.mark.parametrize(
    "status, body, said",
    [
        (502, "<html>Bad Gateway</html>", "The server answers 502."),
        (200, "null", "The server answers 200, but without a result."),
    ],
)
def test_what_a_proxy_says_is_no_ranking(page, status, body, said):
    page.route("**/v1/programs", lambda route: route.fulfill(status=status, body=body))
    page.click("#example")
    page.click("#rank")
    page.get_by_text(said, exact=True).wait_for()
    assert [error for error in page.errors if f"{status}" not in error] == []  # the browser's own line of it
    page.errors.clear()


def test_models_that_were_not_listed_are_asked_for_again(page):
    page.evaluate("document.querySelector('#model').replaceChildren()")
    page.click("#example")
    rank(page, 3)
    assert page.locator("#model option").all_text_contents() == ["nano", SHOWN]


def test_texts_that_change_while_the_server_scores_make_the_ranking_stale(page):
    page.click("#example")
    rank(page, 3)
    assert page.locator("#stale").is_hidden()
    held = []
    page.route("**/v1/programs", lambda route: held.append(route))
    page.click("#rank")
    while not held:
        page.wait_for_timeout(10)
    page.fill("#problem", "Another problem.")
    with page.expect_response("**/v1/programs"):
        held[0].continue_()
    page.locator("#rank:enabled").wait_for()
    assert page.locator("#stale").is_visible()


def test_what_got_into_the_page_would_not_run(page):
    """The second wall: the policy of the page holds if its script had a fault."""
    blocked = page.evaluate(
        """async markup => {
            const seen = [];
            document.addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
            document.body.insertAdjacentHTML("beforeend", markup);
            const script = document.createElement("script");
            script.textContent = "document.title = 'ran'";
            document.body.append(script);
            while (seen.length < 3) await new Promise((resolve) => setTimeout(resolve, 10));
            return seen;
        }""",
        f'<button id="trap" onclick="{RUN}" style="color: red">trap</button>',
    )
    assert {name.removesuffix("-elem").removesuffix("-attr") for name in blocked} == {
        "script-src", "style-src"
    }  # fmt: skip
    page.click("#trap")
    assert all("Content Security Policy" in error for error in page.errors)
    page.errors.clear()


def test_a_ranking_is_that_of_the_command(page, nano_ranking, problem, programs):
    write(page, problem, programs)
    rank(page, len(programs))
    names = page.locator(".open").all_text_contents()
    scores = page.locator("#ranking .score").all_text_contents()
    assert names == [f"Candidate {index + 1}" for index, _ in nano_ranking]
    assert [float(text.split()[0]) for text in page.locator("#ranking .score").all_inner_texts()] == [
        round(score, 3) for _, score in nano_ranking
    ], scores


def test_without_the_key_there_is_no_page(browser, address):
    context = browser.new_context()
    for path in ("/", "/page.js", "/page-heat.js"):
        assert context.request.get(address + path).status == 401
    context.close()


@pytest.mark.parametrize("extract, seen", [("auto", 2), ("", 0), ("paper", 2), ("markdown", 2)])
def test_completions_are_read_as_chosen(page, extract, seen):
    program = "def f(x):\n    return x"
    write(page, "Write a function `f`.", [f"Sure:\n\n```python\n{program}\n```\nDone.\nReally.", "```\ny = (\n```"])
    page.select_option("#extract", extract)
    rank(page, 2)
    checks = page.locator(".checks").all_inner_texts()
    if extract:
        assert "parses" in checks[0] and "defines f" in checks[0]
        row = open_row(page, 0)
        assert row.locator(".heat code").all_text_contents() == program.split("\n")
        row.locator("summary").click()
        assert row.locator("summary").text_content() == (
            "Extraction left out 3 lines before the program and 3 lines behind it"
        )
        assert row.locator(".text").all_text_contents() == ["Sure:\n\n```python", "```\nDone.\nReally."]
        assert "does not parse" in checks[1] and "line 1: '(' was never closed" in checks[1]
    else:
        assert all("rank it as a completion" in text for text in checks)
