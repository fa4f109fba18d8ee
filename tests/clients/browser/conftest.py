"""Headless Chromium with the page of a server. What the page asks of others, and what its script says, is an error."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
RUN = "document.title = 'ran'"
HOSTILE = f'</script><script>{RUN}</script><img src=x onerror="{RUN}"></textarea><b>\x1b[31m\u202e\u2066'


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def address(start_server, key):
    with start_server("nano", "--served-name", f"nano={HOSTILE}", key=key) as url:
        yield url


@pytest.fixture
def open_page(browser, address, key):
    """Opens the page with the key as a password, in a browser with these options."""
    contexts, asked, errors, pages = [], [], [], []

    def open_new(**options):
        context = browser.new_context(http_credentials={"username": "anybody", "password": key}, **options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        pages.append(page)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else 0)
        page.goto(address)
        page.locator("#model option").nth(1).wait_for(state="attached")
        page.errors = errors
        return page

    yield open_new
    assert [page.title() for page in pages] == ["codescaler"] * len(pages)
    assert errors == []
    assert [url for url in asked if not url.startswith((address + "/", f"blob:{address}/"))] == []
    for context in contexts:
        context.close()


@pytest.fixture
def page(open_page):
    return open_page()
