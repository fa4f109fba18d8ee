"""The start page in headless Chromium, with hostile texts in every field: nothing runs, and all of it is shown."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUN = "document.title = 'ran'"
HOSTILE = f'</script><script>{RUN}</script><img src=x onerror="{RUN}"></textarea><b>\x1b[31m\u202e\u2066'
SHOWN = HOSTILE.replace("\x1b", r"\u001b").replace("\u202e", r"\u202e").replace("\u2066", r"\u2066")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def address(start_server, key):
    with start_server("nano", "--served-name", f"nano={HOSTILE}", key=key) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address, key):
    """The page, opened with the key as a password. Whatever the browser asks of others is an error."""
    context = browser.new_context(http_credentials={"username": "anybody", "password": key})
    page = context.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(address)
    page.locator("#model option").nth(1).wait_for(state="attached")
    yield page
    assert page.title() == "codescaler"
    assert errors == []
    assert [url for url in asked if not url.startswith(address + "/")] == []
    context.close()


def count_elements(page, name):
    return page.locator(name).count()


def test_every_text_is_shown_and_none_is_markup(page):
    assert page.locator("#model option").all_text_contents() == ["nano", SHOWN]
    page.select_option("#model", index=1)
    page.fill("#problem", HOSTILE)
    page.click("#add")
    programs = [f"'''{HOSTILE}'''", f"x = 1  # {HOSTILE}", HOSTILE]
    for index, program in enumerate(programs):
        page.locator("#programs textarea").nth(index).fill(program)
    page.click("#rank")
    page.locator("#ranking pre").nth(2).wait_for()
    shown = page.locator("#ranking pre").all_text_contents()
    assert sorted(shown) == sorted(program.replace(HOSTILE, SHOWN) for program in programs)
    assert page.locator("#ranking small").last.text_content() == "Program 3, does not parse"
    assert [count_elements(page, name) for name in ("script", "img", "b")] == [1, 0, 0]


def test_an_error_is_shown_as_text(page):
    page.evaluate("text => { document.querySelector('#model option').value = text; }", f"{HOSTILE}!")
    page.select_option("#model", index=0)
    page.click("#example")
    page.click("#rank")
    page.get_by_text("there is no model").wait_for()
    message = page.locator("#message").text_content()
    assert "<img src=x onerror=" in message and "\u202e" not in message and "\x1b" not in message
    assert count_elements(page, "img") == 0


def test_what_got_into_the_page_would_not_run(page):
    """The second wall: the policy of the page holds if its script had a fault."""
    blocked = page.evaluate(
        """async markup => {
            const seen = new Promise((resolve) =>
                document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective)));
            document.body.insertAdjacentHTML("beforeend", markup);
            const script = document.createElement("script");
            script.textContent = "document.title = 'ran'";
            document.body.append(script);
            return seen;
        }""",
        f'<button id="trap" onclick="{RUN}">trap</button>',
    )
    assert blocked.startswith("script-src")
    page.click("#trap")


def test_a_ranking_is_that_of_the_command(page, nano_ranking, problem, programs):
    page.fill("#problem", problem)
    while page.locator("#programs textarea").count() < len(programs):
        page.click("#add")
    for index, program in enumerate(programs):
        page.locator("#programs textarea").nth(index).fill(program)
    page.click("#rank")
    page.locator("#ranking pre").nth(len(programs) - 1).wait_for()
    notes = page.locator("#ranking small").all_text_contents()
    scores = page.locator("#ranking td:nth-child(2)").all_text_contents()
    assert notes == [f"Program {index + 1}" for index, _ in nano_ranking]
    assert [float(score) for score in scores] == [round(score, 3) for _, score in nano_ranking]


def test_without_the_key_there_is_no_page(browser, address):
    context = browser.new_context()
    assert context.request.get(address).status == 401
    context.close()
