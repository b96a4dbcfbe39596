"""A browser to look at the page with, and a tiny model whose answers are letters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from chat_folders import make_chat_model
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from newleaf.serve.app import PAGE
from newleaf.serve.web.page_files import read_assets

PATIENCE = 30_000  # milliseconds, for machines that are busy
ENDLESS = 30_000  # tokens: many seconds of writing
SPECS = Path(__file__).parent / "specs"
CONTEXT = ENDLESS + 2768


def make_letters_model(folder: Path, kind: str = "chatml") -> Path:
    """A chat model with random weights that writes letters, digits, spaces and stops, and comes to no end."""
    letters = dict.fromkeys("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789.!Ġ", 14.0)
    return make_chat_model(folder, kind, CONTEXT, letters)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium; tests are skipped where there is none."""
    path = os.environ.get("NEWLEAF_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Chromium (apt-get install chromium), or NEWLEAF_CHROMIUM naming one")
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE)
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@contextmanager
def modules_page() -> Iterator[Page]:
    """An empty page that can import the page's modules, and those of tests/serve/specs."""
    files = read_assets(PAGE)

    def fulfil(route: Route) -> None:
        name = route.request.url.removeprefix("http://page/")
        if name.startswith("specs/"):
            route.fulfill(
                content_type="text/javascript", body=(SPECS / name.removeprefix("specs/")).read_bytes()
            )
        elif name in files:
            route.fulfill(content_type=files[name].type, body=files[name].content)
        else:
            route.fulfill(content_type="text/html", body="<!doctype html><title>empty</title><body></body>")

    with chromium() as browser:
        page = browser.new_page()
        page.route("http://page/**", fulfil)
        page.goto("http://page/")
        yield page


@dataclass
class Visit:
    """A page that is open, in a browser that kept nothing before; `wrong` is what it complained about,
    `asked` where its requests went."""

    page: Page
    address: str
    wrong: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def settings(self, system: str | None = None, **values: str) -> None:
        """Set some in the sheet, and a seed, so that the model says the same each time; the system prompt in
        the chat's head."""
        if system is not None:
            self.page.locator("#system-toggle").click()
            self.page.locator("#chat-system").fill(system)
            self.page.locator("#system-toggle").click()
        self.page.locator("#open-settings").click()
        for name, value in {"seed": "1", **values}.items():
            self.page.locator(f"#set-{name}").fill(value)
        self.page.keyboard.press("Escape")

    def ask(self, text: str, answers: int = 1) -> str:
        """Send a message and wait until there is an answer to it; its text."""
        self.page.locator("#message").fill(text)
        self.page.locator("#message").press("Enter")
        return self.answered(answers)

    def answered(self, answers: int = 1) -> str:
        """The last answer's text, once there are so many on the page and the last is complete."""
        self.page.locator(".message.assistant").nth(answers - 1).locator(".acts").wait_for()
        return self.page.locator(".message.assistant").last.locator(".body > .prose").inner_text()


@contextmanager
def visit(browser: Browser, address: str, **options: object) -> Iterator[Visit]:
    """Open the page as somebody new, with a browser context of these options (viewport, locale,
    color_scheme…)."""
    context = browser.new_context(
        **{"viewport": {"width": 1100, "height": 760}, "locale": "en-US", "accept_downloads": True, **options}
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    found = Visit(page, address)
    page.on(
        "console",
        lambda message: found.wrong.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: found.wrong.append(str(error)))
    page.on("request", lambda request: found.asked.append(request.url))
    page.goto(address)
    page.locator("#main > .view").wait_for()
    try:
        yield found
    finally:
        context.close()
