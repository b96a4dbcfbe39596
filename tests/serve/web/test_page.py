"""The page in a real browser: talking, looking at tokens, branches, what is kept, and who can use it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("playwright", reason="needs playwright (pip install 'newleaf[test]')")
pytest.importorskip(
    "axe_playwright_python", reason="needs axe-playwright-python (pip install 'newleaf[test]')"
)

from axe_playwright_python.sync_playwright import Axe
from browser import ENDLESS, Visit, chromium, make_letters_model, visit
from handmade_runs import append, write_run
from playwright.sync_api import Browser, Page, Route, expect
from server_process import Running, until

from newleaf.cli.chat_terminal import _read_conversation


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("runs")
    write_run(top / "book", steps=60, bits=1.5)
    append(
        write_run(top / "deep" / "live", steps=30, bits=1.9, state="running"),
        '{"step": 30, "prompt": "Once", "sample": " upon a leaf"}\n',
    )
    return top


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory, runs: Path) -> Iterator[Running]:
    model = make_letters_model(tmp_path_factory.mktemp("models") / "letters")
    running = Running([model, "--runs", runs, "--max-output", ENDLESS], tmp_path_factory.mktemp("home"))
    yield running
    assert running.end() == 0, running.log


@pytest.fixture(scope="module")
def address(letters: Running) -> str:
    return f"{letters.url}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def seen(browser: Browser, address: str) -> Iterator[Visit]:
    """The page, opened for the first time; it must complain about nothing, and ask nobody else for
    anything."""
    with visit(browser, address) as found:
        yield found
        assert found.wrong == []
        assert {url for url in found.asked if not url.startswith((address, "blob:"))} == set()


def tokens(page: Page) -> list[str]:
    return page.locator(".message.assistant").last.locator(".token").all_inner_texts()


def look_at_tokens(page: Page) -> None:
    page.locator(".message.assistant").last.get_by_role("button", name="Look at the tokens").click()


def test_a_message_is_sent_and_the_answer_comes_in_pieces(seen: Visit) -> None:
    seen.page.evaluate(
        """() => {
            window.sizes = new Set();
            new MutationObserver(() => {
                const prose = document.querySelector(".message.assistant .prose");
                if (prose) window.sizes.add(prose.textContent.length);
            }).observe(document.querySelector("main"), {childList: true, subtree: true, characterData: true});
        }"""
    )
    seen.settings(max_tokens="1500", seed="1", temperature="1")
    answer = seen.ask("Hello there")
    assert len(answer) > 100
    sizes = sorted(seen.page.evaluate("() => [...window.sizes]"))
    assert len(sizes) > 3  # drawn while it came
    assert "1,500 tokens" in seen.page.locator(".message.assistant .facts").inner_text()
    assert seen.page.locator("h2").first.inner_text() == "Hello there"
    assert seen.page.locator(".message.user .said").inner_text() == "Hello there"


def test_settings_and_system_prompt_reach_the_server(seen: Visit) -> None:
    seen.settings(max_tokens="7", temperature="0.5", top_p="0.9", seed="11", system="Be a leaf.")
    with seen.page.expect_request("**/v1/chat/completions") as asked:
        seen.ask("Who are you?")
    body = asked.value.post_data_json
    assert {name: body[name] for name in ("max_tokens", "temperature", "top_p", "seed")} == {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 11,
    }
    assert body["messages"] == [
        {"role": "system", "content": "Be a leaf."},
        {"role": "user", "content": "Who are you?"},
    ]
    assert body["stream"] is True
    seen.page.locator("#open-settings").click()
    seen.page.locator("#set-top_p").fill("")  # what nobody sets is the server's
    seen.page.keyboard.press("Escape")
    with seen.page.expect_request("**/v1/chat/completions") as asked:
        seen.ask("And now?", answers=2)
    assert "top_p" not in asked.value.post_data_json
    assert [message["role"] for message in asked.value.post_data_json["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


def test_stopping_keeps_what_has_come_and_frees_the_server(seen: Visit, letters: Running) -> None:
    page = seen.page
    seen.settings(max_tokens=str(ENDLESS), temperature="1")
    page.locator("#message").fill("Go on for ever")
    page.locator("#message").press("Enter")
    page.wait_for_function(
        "() => document.querySelector('.message.assistant .prose')?.textContent.length > 40"
    )
    expect(page.get_by_role("button", name="Edit")).to_be_disabled()  # one answer at a time
    page.get_by_role("button", name="Stop").click()
    text = seen.answered()
    assert 40 < len(text) < 0.9 * ENDLESS
    assert "stopped" in page.locator(".message.assistant .facts").inner_text()
    page.wait_for_timeout(300)
    assert page.locator(".message.assistant .prose").inner_text() == text
    until(lambda: letters.gauge("running", "letters") == 0)
    seen.settings(max_tokens="5")
    page.get_by_role("button", name="Go on writing").click()
    page.wait_for_function(
        "before => document.querySelector('.message.assistant .prose').textContent.length > before",
        arg=len(text),
    )
    assert seen.answered().startswith(text.rstrip())


def test_an_edited_message_is_a_branch_and_the_earlier_one_is_kept(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="12", seed="1", temperature="1")
    first = seen.ask("What is green?")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("What is blue?")
    page.get_by_role("button", name="Send again").click()
    expect(page.locator(".message.user .said")).to_have_text("What is blue?")
    second = seen.answered()
    assert second != first
    expect(page.locator(".message.user .versions")).to_contain_text("2/2")
    page.get_by_role("button", name="Earlier version").click()
    expect(page.locator(".message.user .said")).to_have_text("What is green?")
    assert seen.answered() == first
    page.get_by_role("button", name="Later version").click()
    assert seen.answered() == second


def test_another_answer_is_a_branch_with_its_own_continuation(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="12", seed="1", temperature="1")
    first = seen.ask("One?")
    page.get_by_role("button", name="Another answer").click()
    expect(page.locator(".message.assistant .versions")).to_contain_text("2/2")
    second = seen.answered()
    assert second != first  # the same seed, and yet another answer
    seen.ask("Two?", answers=2)
    assert page.locator(".message").count() == 4
    page.get_by_role("button", name="Earlier version").click()
    assert page.locator(".message").count() == 2
    page.get_by_role("button", name="Later version").click()
    assert page.locator(".message").count() == 4


def test_a_token_shows_its_probability_and_the_alternatives_that_the_server_gave(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="10", seed="2", temperature="1")
    with page.expect_request("**/v1/chat/completions") as asked:
        answer = seen.ask("Look")
    body = {
        name: value for name, value in asked.value.post_data_json.items() if not name.startswith("stream")
    }
    entries = httpx.post(f"{seen.address}v1/chat/completions", json=body, timeout=60).json()["choices"][0][
        "logprobs"
    ]["content"]
    look_at_tokens(page)
    assert tokens(page) == [entry["token"] for entry in entries]
    assert "".join(tokens(page)).strip() == answer
    page.locator(".token").nth(3).click()
    popover = page.locator(".popover")
    expect(popover).to_be_visible()
    told = entries[3]
    alternatives = popover.locator(".alternative")
    names = [top["token"] for top in told["top_logprobs"]]
    assert alternatives.locator(".token-name").all_inner_texts()[: len(names)] == [
        name.replace(" ", "·") for name in names
    ]
    shares = [
        float(text.split()[0].lstrip("<")) for text in alternatives.locator(".figure").all_inner_texts()
    ]
    for share, top in zip(shares, told["top_logprobs"], strict=False):
        assert share == pytest.approx(100 * math.exp(top["logprob"]), rel=0.06, abs=0.5)
    assert popover.locator(".alternative.own .token-name").inner_text() == told["token"].replace(" ", "·")


def test_another_token_is_continued_from_as_a_branch(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="10", seed="2", temperature="1")
    seen.ask("Look")
    look_at_tokens(page)
    before = tokens(page)
    page.locator(".token").nth(4).click()
    other = page.locator(".alternative:not(.own):not(:disabled)").first
    chosen = other.locator(".token-name").inner_text().replace("·", " ")
    with page.expect_request("**/v1/chat/completions") as asked:
        other.click()
    body = asked.value.post_data_json
    assert body["continue_final_message"] is True
    assert body["messages"][-1] == {"role": "assistant", "content": "".join(before[:4]) + chosen}
    expect(page.locator(".message.assistant .versions")).to_contain_text("2/2")
    page.locator(".message.assistant .acts").wait_for()
    after = tokens(page)
    assert after[:5] == [*before[:4], chosen]
    assert len(after) == 15
    page.get_by_role("button", name="Earlier version").click()
    page.locator(".message.assistant .acts").wait_for()
    assert "".join(before).strip() == page.locator(".message.assistant .prose").inner_text()


def test_a_reload_keeps_chats_settings_and_language(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="9", seed="5", system="Be brief.")
    first = seen.ask("Do you stay?")
    page.get_by_role("button", name="New chat").first.click()
    seen.ask("A second chat")
    page.locator("#language").click()
    page.reload()
    expect(page.get_by_role("link", name="对话")).to_be_visible()
    assert page.locator(".talk-name").all_inner_texts() == ["A second chat", "Do you stay?"]
    page.get_by_role("button", name="Do you stay?").first.click()
    assert seen.answered() == first
    page.locator("#system-toggle").click()
    assert page.locator("#chat-system").input_value() == "Be brief."
    page.locator("#open-settings").click()
    assert page.locator("#set-max_tokens").input_value() == "9"


def test_a_deleted_chat_can_be_had_back(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="5")
    seen.ask("Keep me")
    page.get_by_role("button", name="Delete “Keep me”").click()
    expect(page.locator(".talk-name")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".message.user .said")).to_have_text("Keep me")
    page.reload()
    expect(page.locator(".talk-name")).to_have_text(["Keep me"])


def test_export_holds_what_was_said_and_every_branch(seen: Visit, tmp_path: Path) -> None:
    page = seen.page
    seen.settings(max_tokens="8", system="Be a leaf.")
    seen.ask("Once?")
    page.get_by_role("button", name="Another answer").click()
    expect(page.locator(".message.assistant .versions")).to_contain_text("2/2")
    answer = seen.answered()
    with page.expect_download() as saved:
        page.locator("#export-json").click()
    assert saved.value.suggested_filename == "Once.json"
    found = json.loads(Path(saved.value.path()).read_text("utf-8"))
    assert [message["role"] for message in found["messages"]] == ["system", "user", "assistant"]
    assert found["messages"][2]["content"].strip() == answer
    assert _read_conversation(Path(saved.value.path())) == found["messages"]  # `newleaf chat` goes on with it
    assert len([node for node in found["talk"]["nodes"].values() if node["role"] == "assistant"]) == 2
    with page.expect_download() as saved:
        page.locator("#export-md").click()
    text = Path(saved.value.path()).read_text("utf-8")
    assert text.startswith("# Once?\n\n> Be a leaf.\n\n**You**\n\nOnce?\n\n**Model**\n\n")
    assert answer in text


def test_the_language_is_the_browsers_and_can_be_switched(browser: Browser, address: str) -> None:
    with visit(browser, address, locale="zh-CN") as found:
        page = found.page
        expect(page.get_by_placeholder("输入消息")).to_be_visible()
        assert page.locator("html").get_attribute("lang") == "zh-CN"
        page.locator("#message").fill("draft")
        page.get_by_role("button", name="Show in English").click()
        expect(page.get_by_placeholder("Write a message")).to_have_value("draft")
        assert page.locator("html").get_attribute("lang") == "en"


def test_both_languages_say_the_same_things(seen: Visit) -> None:
    same = """async () => {
        const { STRINGS } = await import("/js/strings.js");
        const holes = (text) => [...text.matchAll(/\\{\\w+\\}/g)].map(String).sort().join();
        const [en, zh] = [STRINGS.en, STRINGS.zh];
        const names = (strings) => Object.keys(strings).sort().join();
        return [names(en) === names(zh), Object.keys(en).filter((key) => holes(en[key]) !== holes(zh[key]))];
    }"""
    assert seen.page.evaluate(same) == [True, []]


def test_the_theme_follows_the_system_and_the_switch(browser: Browser, address: str) -> None:
    def dark(page: Page) -> bool:
        red = re.findall(r"\d+", page.evaluate("() => getComputedStyle(document.body).backgroundColor"))[0]
        return int(red) < 60

    with visit(browser, address, color_scheme="dark") as found:
        assert dark(found.page)
        found.page.locator("#theme").click()  # from the system's to light
        assert not dark(found.page)
        found.page.reload()
        assert not dark(found.page)


def test_text_is_written_on_and_kept(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="6", seed="3")
    page.locator("nav").get_by_role("link", name="Text").click()
    page.locator("#prompt").fill("Once upon")
    page.locator("#write-on").click()
    page.locator("#keep").wait_for()
    written = page.locator(".out .token").all_inner_texts()
    assert len(written) == 6
    page.locator(".token").nth(2).click()
    other = page.locator(".alternative:not(.own):not(:disabled)").first
    chosen = other.locator(".token-name").inner_text().replace("·", " ")
    with page.expect_request("**/v1/completions") as asked:
        other.click()
    assert asked.value.post_data_json["prompt"] == "Once upon" + "".join(written[:2]) + chosen
    expect(page.locator(".out .versions")).to_contain_text("2/2")
    page.locator("#keep").wait_for()
    after = page.locator(".out .token").all_inner_texts()
    assert after[:3] == [*written[:2], chosen]
    page.locator("#keep").click()
    expect(page.locator("#prompt")).to_have_value("Once upon" + "".join(after))


def test_a_texts_own_likelihood_is_shown(seen: Visit) -> None:
    page = seen.page
    page.locator("nav").get_by_role("link", name="Text").click()
    page.locator("#prompt").fill("The capital of 法国!")
    page.get_by_role("button", name="How likely is this text?").click()
    page.locator(".out .facts").wait_for()
    shown = page.locator(".out .token").all_inner_texts()
    assert "".join(shown).startswith("The capital of ")
    assert shown[-1] == "!"
    assert "bits a token" in page.locator(".out .facts").inner_text()
    body = {"prompt": "叶", "echo": True, "logprobs": 1, "max_tokens": 1}
    told = httpx.post(f"{seen.address}v1/completions", json=body, timeout=60).json()["choices"][0][
        "logprobs"
    ]["tokens"]
    assert told[:3] == ["bytes:\\xe5", "bytes:\\x8f", "bytes:\\xb6"]  # the character's UTF-8


def test_the_runs_tab_shows_a_run_with_its_curve_and_samples(seen: Visit) -> None:
    page = seen.page
    page.locator("nav").get_by_role("link", name="Runs").click()
    page.get_by_role("link", name="book").click()
    expect(page.locator(".run h1")).to_have_text("book")
    page.locator(".chart path").first.wait_for()
    facts = dict(
        zip(
            page.locator(".facts-grid dt").all_inner_texts(),
            page.locator(".facts-grid dd").all_inner_texts(),
            strict=True,
        )
    )
    best = 1.5 + 3 * math.exp(-6)  # the last of the validations that `write_run` makes; the summary has 1.5
    assert facts["Best validation"] == f"{best:.3f} bits per byte"
    assert facts["At step"] == "60"
    assert facts["All of the held-out text"] == "1.500 bits per byte"
    assert facts["Steps"] == "60"
    assert facts["Tokens a second"] == "200"
    curve = page.get_by_role("img", name=re.compile("Loss of book"))
    assert curve.locator("path").count() == 2
    assert curve.locator("circle.dot").count() == 6
    curve.focus()
    page.keyboard.press("End")
    assert f"validation {best:.4f}" in page.locator(".reading").first.inner_text()
    assert curve.locator("circle.best").count() == 1


def test_a_run_is_followed_while_it_goes(seen: Visit, runs: Path) -> None:
    page = seen.page
    page.goto(f"{seen.address}#runs/deep%2Flive")
    expect(page.locator(".run h1")).to_have_text("deep/live")
    expect(page.locator(".sample pre").first).to_have_text("Once upon a leaf")
    steps = page.locator(".facts-grid div", has=page.get_by_text("Steps", exact=True)).locator("dd")
    expect(steps).to_have_text("30")
    append(runs / "deep" / "live", '{"step": 31, "loss": 4.0, "tokens": 3100, "seconds": 15.5}\n')
    expect(steps).to_have_text("31")


def test_two_runs_are_drawn_over_one_another(seen: Visit) -> None:
    page = seen.page
    page.goto(f"{seen.address}#runs/book")
    curve = page.get_by_role("img", name=re.compile("Loss of book"))
    expect(curve.locator("path")).to_have_count(2)
    page.get_by_label("Compare deep/live").check()
    expect(curve.locator("path.run-1")).to_have_count(1)
    expect(page.locator(".legend .run-1")).to_have_text("deep/live")
    stroke = "(node) => getComputedStyle(node).stroke"
    own = curve.locator("path.strong:not(.run-1)")
    assert curve.locator("path.run-1").evaluate(stroke) != own.evaluate(stroke)
    expect(page.get_by_label("Compare deep/live")).to_be_focused()
    curve.focus()
    page.keyboard.press("Home")
    read = page.locator(".reading").first.inner_text()
    first = 1.9 + 3 * math.exp(-1)  # its first validation
    assert f"deep/live, validation {first:.4f}" in read
    page.get_by_label("Compare deep/live").uncheck()
    expect(curve.locator("path.run-1")).to_have_count(0)


def test_everything_can_be_done_by_keys(seen: Visit) -> None:
    page, press = seen.page, seen.page.keyboard.press
    seen.settings(max_tokens="8", seed="2", temperature="1")
    page.locator(".skip").focus()
    expect(page.locator(".skip")).to_be_in_viewport()

    def tab_to(name: str) -> None:
        for _ in range(60):
            press("Tab")
            label = (
                "() => document.activeElement.getAttribute('aria-label') ?? "
                "document.activeElement.textContent"
            )
            if page.evaluate(label) == name:
                return
        pytest.fail(f"Tab does not come to {name!r}")

    tab_to("Message")
    page.keyboard.type("Keys only")
    press("Shift+Enter")
    page.keyboard.type("and two lines")
    press("Enter")
    seen.answered()
    assert page.locator(".said").inner_text() == "Keys only\nand two lines"
    press("ArrowUp")  # in the empty field: edit the last message
    assert page.locator(".editor textarea").input_value() == "Keys only\nand two lines"
    press("Escape")
    tab_to("Look at the tokens")
    press("Enter")
    press("ArrowRight")
    press("ArrowRight")
    press("Enter")
    expect(page.locator(".popover")).to_be_visible()
    press("Escape")
    expect(page.locator(".popover")).to_be_hidden()
    assert page.evaluate("() => document.activeElement.dataset.place") == "2"
    press("Enter")
    press("ArrowDown")
    press("Enter")
    expect(page.locator(".message.assistant .versions")).to_contain_text("2/2")


def test_a_phone_shows_everything_within_its_width(browser: Browser, address: str) -> None:
    with visit(
        browser, address, viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True
    ) as found:
        page = found.page
        found.settings(max_tokens="40")
        found.ask("A long message for a narrow screen: " + "wide" * 40)
        for view in ("chat", "text", "runs"):
            page.goto(f"{address}#{view}")
            page.locator(f".{view}.view").wait_for()
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        page.goto(f"{address}#chat")
        expect(page.locator(".talks")).to_be_hidden()
        page.get_by_role("button", name="Show chats").click()
        page.get_by_role("button", name="New chat").first.click()
        expect(page.locator(".talks")).to_be_hidden()
        expect(page.locator(".greeting")).to_be_visible()


MARKDOWN = """# Head

A [link](https://x.org), `code`, $x^2$ and <kbd>Esc</kbd> and <i a=b>.

- [x] done
- [ ] open

> said

| a | b |
|:--|--:|
| 1 | 2 |

```python
@cached
def f(x: int) -> str:
    return "text" + str(1.5)  # why
```

~~~diff
- old
+ new
~~~

$$
y
$$

<div>markup</div>
"""


def markdown_answer(route: Route) -> None:
    event = {
        "model": "letters",
        "choices": [{"index": 0, "delta": {"content": MARKDOWN}, "finish_reason": "stop"}],
    }
    route.fulfill(content_type="text/event-stream", body=f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-US"), ("dark", "zh-CN")])
def test_axe_finds_nothing_serious(scheme: str, locale: str, browser: Browser, address: str) -> None:
    def serious(page: Page, where: str) -> list[Any]:
        # A dialog or popover lies over the rest, whose colours axe would take through the shade.
        found = Axe().run(page, where).response["violations"]
        return [
            (one["id"], one["nodes"][0]["html"][:200])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]

    # axe builds markup from text, which the page's policy forbids.
    with visit(browser, address, color_scheme=scheme, locale=locale, bypass_csp=True) as found:
        page = found.page
        assert serious(page, "html") == []
        found.settings(max_tokens="30")
        found.ask("# Hi")
        assert serious(page, "html") == []
        page.route("**/v1/chat/completions", markdown_answer)
        page.get_by_role("button", name=re.compile("Another answer|换一个回答")).click()
        page.locator(".c-keyword").first.wait_for()
        page.locator("math").first.wait_for()
        page.locator(".message.assistant .acts").wait_for()
        assert serious(page, "html") == []
        page.unroute("**/v1/chat/completions")
        page.get_by_role("button", name=re.compile("Earlier version|上一个版本")).click()
        page.locator(".message.assistant [aria-pressed]").click()
        assert serious(page, "html") == []
        page.locator(".token").nth(3).click()
        assert serious(page, ".popover") == []
        page.keyboard.press("Escape")
        page.locator("#system-toggle").click()
        page.locator(".scroll").evaluate("(node) => (node.scrollTop = 0)")
        assert serious(page, "html") == []
        page.locator("#open-settings").click()
        page.locator("#set-min_p").fill("7")
        assert serious(page, "dialog") == []
        page.keyboard.press("Escape")
        page.goto(f"{address}#text")
        page.locator("#prompt").fill("Once")
        page.locator("#write-on").click()
        page.locator("#keep").wait_for()
        assert serious(page, "html") == []
        page.goto(f"{address}#runs/book")
        page.locator(".compare input").first.check()
        page.locator(".chart path.run-1").wait_for()
        assert serious(page, "html") == []


def test_an_error_is_said_and_can_be_tried_again(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="5")
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            status=200,
            content_type="text/event-stream",
            body='data: {"choices":[{"index":0,"delta":{"content":"half"}}]}\n\n',
        ),
    )
    page.locator("#message").fill("Break")
    page.locator("#message").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The connection ended before the answer did.")
    expect(page.locator(".message.assistant .prose")).to_have_text("half")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Try again").click()
    assert seen.answered().startswith("half")


def test_thoughts_stand_apart_and_models_can_be_chosen(seen: Visit) -> None:
    page = seen.page
    models = [{"id": "letters", "chat": True}, {"id": "other", "chat": True}]
    page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": models}))
    parts = [
        {"reasoning_content": "Let me "},
        {"reasoning_content": "see."},
        {"content": "**Yes"},
        {"content": "** <b>no</b>"},
    ]
    events = [
        {"model": "other", "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]}
        for delta in parts
    ]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=stream)
    )
    page.reload()
    page.locator("#chat-model").select_option("other")
    with page.expect_request("**/v1/chat/completions") as asked:
        seen.ask("Is it?")
    assert asked.value.post_data_json["model"] == "other"
    assert (
        page.locator(".message.assistant > .body > .prose").inner_html()
        == '<p dir="auto"><strong>Yes</strong> <b>no</b></p>'
    )
    expect(page.get_by_text("Let me see.")).to_be_hidden()
    page.get_by_text("Thoughts").click()
    expect(page.get_by_text("Let me see.")).to_be_visible()


def test_a_key_is_asked_for_and_forgotten_with_the_tab_unless_kept(browser: Browser, address: str) -> None:
    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer sesame":
            route.continue_()
        else:
            route.fulfill(
                status=401, json={"error": {"message": "an API key is needed", "code": "invalid_api_key"}}
            )

    with visit(browser, address) as found:
        page = found.page
        page.context.route("**/v1/**", guarded)
        page.locator("#message").fill("Open")
        page.locator("#message").press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("wants an API key")
        found.settings(key="sesame", max_tokens="4")
        page.get_by_role("button", name="Try again").click()
        found.answered()
        kept = "() => Object.entries(localStorage).some(([, value]) => value.includes('sesame'))"
        assert page.evaluate(kept) is False
        page.reload()
        found.ask("Still open?", answers=2)  # the same tab
        page.locator("#open-settings").click()
        page.get_by_label("Keep it in this browser").check()
        assert page.evaluate(kept) is True
        page.get_by_label("Keep it in this browser").uncheck()
        assert page.evaluate(kept) is False


def test_enter_belongs_to_an_input_method_while_it_composes(seen: Visit) -> None:
    seen.settings(max_tokens="4")
    field = seen.page.locator("#message")
    field.fill("ni hao")
    field.evaluate(
        "(node) => node.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, "
        "bubbles: true}))"
    )
    expect(field).to_have_value("ni hao")
    assert seen.page.locator(".message").count() == 0
    field.press("Enter")
    seen.answered()


def test_esc_stops_an_answer_unless_it_closes_something(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens=str(ENDLESS), temperature="1")
    page.locator("#message").fill("Go on")
    page.locator("#message").press("Enter")
    page.get_by_role("button", name="Stop").wait_for()
    page.locator("#open-settings").click()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.keyboard.press("Escape")
    seen.answered()
    assert "stopped" in page.locator(".message.assistant .facts").inner_text()
