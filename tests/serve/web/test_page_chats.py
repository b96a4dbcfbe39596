"""The page in a real browser: two windows, finding and taking in chats, their heads, settings, base models,
long prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("playwright", reason="needs playwright (pip install 'newleaf[test]')")

from browser import Visit, chromium, make_letters_model, visit
from playwright.sync_api import Browser, Page, Route, expect
from server_process import Running

from newleaf.api import Model
from newleaf.model import GPT, GPTConfig
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

CONTEXT = 128  # of the base model: as small as `newleaf pretrain` makes them


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_letters_model(folder / "letters")
    tokenizer = train_tokenizer(["Once upon a time"], TokenizerConfig(kind="byte"))
    Model(GPT(GPTConfig(tokenizer.vocab_size, CONTEXT, 1, 2, 32)).eval(), tokenizer, "newleaf").save(
        folder / "base"
    )
    config = {"temperature": 0.3, "top_k": 9}
    make_letters_model(folder / "cool")
    (folder / "cool" / "generation_config.json").write_text(json.dumps(config), "utf-8")
    return folder


@pytest.fixture(scope="module")
def address(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = Running(
        [models / name for name in ("letters", "base", "cool")], tmp_path_factory.mktemp("home")
    )
    yield f"{running.url}/"
    assert running.end() == 0, running.log


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def seen(browser: Browser, address: str) -> Iterator[Visit]:
    with visit(browser, address) as found:
        yield found
        assert found.wrong == []


def another(visited: Visit) -> Visit:
    """A second window of the same browser."""
    page = visited.page.context.new_page()
    page.goto(visited.address)
    page.locator("#main > .view").wait_for()
    return Visit(page, visited.address)


def names(page: Page) -> list[str]:
    return page.locator(".talk-name").all_inner_texts()


def asked_by(visited: Visit, text: str = "Hello", answers: int = 1) -> dict[str, Any]:
    """What the page asks the server for when this is sent."""
    with visited.page.expect_request("**/v1/chat/completions") as asked:
        visited.ask(text, answers)
    found: dict[str, Any] = asked.value.post_data_json
    return found


# ---- two windows


def test_two_windows_keep_what_is_said_in_either(seen: Visit) -> None:
    seen.settings(max_tokens="5")
    seen.ask("Shared?")
    second = another(seen)
    expect(second.page.locator(".message.user .said")).to_have_text("Shared?")
    seen.ask("Said in the first", answers=2)
    # without a reload
    expect(second.page.locator(".message.user .said")).to_have_text(["Shared?", "Said in the first"])
    # Each in its own window, neither knowing of the other: as two branches below one answer.
    second.page.evaluate("() => navigator.serviceWorker")  # the window stays alive
    for window in (seen, second):
        window.page.locator("#message").fill(f"From window {1 if window is seen else 2}")
    for window in (seen, second):
        window.page.locator("#message").press("Enter")
    for window in (seen, second):
        window.page.locator(".message.assistant").nth(2).locator(".acts").wait_for()
    seen.page.reload()
    said = "() => [...document.querySelectorAll('.message.user .said')].map((node) => node.textContent)"
    stored = seen.page.evaluate(
        """() => new Promise((done) => {
            indexedDB.open("newleaf").onsuccess = ({ target }) => {
                target.result.transaction("talks").objectStore("talks").getAll().onsuccess = (found) =>
                  done(found.target.result);
            };
        })"""
    )
    contents = [
        node["content"] for talk in stored for node in talk["nodes"].values() if node["role"] == "user"
    ]
    assert sorted(contents) == ["From window 1", "From window 2", "Said in the first", "Shared?"]
    # every answer was kept whole
    assert all(node["content"] for talk in stored for node in talk["nodes"].values())
    assert len(seen.page.evaluate(said)) >= 3


def test_a_chat_that_one_window_deletes_goes_from_the_other_and_undo_brings_it_back(seen: Visit) -> None:
    seen.settings(max_tokens="4")
    seen.ask("Keep me?")
    second = another(seen)
    expect(second.page.locator(".talk-name")).to_have_text("Keep me?")
    second.page.get_by_role("button", name="Delete “Keep me?”").click()
    expect(seen.page.locator(".talk-name")).to_have_count(0)
    seen.page.reload()
    expect(seen.page.locator(".talk-name")).to_have_count(0)
    second.page.get_by_role("button", name="Undo").click()
    expect(seen.page.locator(".talk-name")).to_have_text("Keep me?")


def test_settings_of_two_windows_do_not_undo_each_other(seen: Visit) -> None:
    second = another(seen)
    seen.settings(top_k="40")
    second.settings(min_p="0.2")
    for window in (seen, second):
        window.page.reload()
        window.page.locator("#open-settings").click()
        assert (
            window.page.locator("#set-top_k").input_value(),
            window.page.locator("#set-min_p").input_value(),
        ) == ("40", "0.2")
        window.page.keyboard.press("Escape")


# ---- what a request asks for


def test_a_request_is_sampled_as_the_model_says_and_otherwise_with_a_cutoff(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="3")
    body = asked_by(seen)
    assert (body["model"], body["temperature"], body["min_p"]) == ("letters", 0.7, 0.05)
    assert not {"top_p", "top_k", "repetition_penalty"} & set(body)
    page.get_by_role("button", name="New chat").first.click()
    page.locator("#chat-model").select_option("cool")  # opened when it is chosen
    body = asked_by(seen)
    assert (body["model"], body["temperature"], body["top_k"]) == ("cool", 0.3, 9)
    assert "min_p" not in body
    page.locator("#open-settings").click()
    assert page.locator("#set-temperature").get_attribute("placeholder") == "0.3"
    assert page.locator("#set-top_p").get_attribute("placeholder") == "default"
    page.keyboard.press("Escape")
    seen.settings(temperature="1.1", repetition_penalty="1.3")
    body = asked_by(seen, answers=2)
    assert (body["temperature"], body["repetition_penalty"], body["top_k"]) == (1.1, 1.3, 9)


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("temperature", "9", "1.5"),
        ("top_p", "0", "0.5"),
        ("top_k", "2.5", "7"),
        ("min_p", "-0.1", "0.3"),
        ("repetition_penalty", "0", "1.2"),
        ("max_tokens", "many", "3"),
        ("seed", "99999999999", "4"),
    ],
)
def test_values_out_of_range_are_marked_and_not_sent(name: str, wrong: str, right: str, seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="3")
    page.locator("#open-settings").click()
    field = page.locator(f"#set-{name}")
    field.fill(wrong)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator(f"#wrong-{name}")).to_contain_text("Not sent: takes")
    kept = page.evaluate("() => JSON.parse(localStorage.getItem('newleaf.settings'))")
    assert (kept or {}).get(name) is None
    field.fill(right)
    expect(field).to_have_attribute("aria-invalid", "false")
    expect(page.locator(f"#wrong-{name}")).to_be_empty()
    page.keyboard.press("Escape")
    if name != "max_tokens":
        assert asked_by(seen)[name] == float(right)


def test_model_and_system_prompt_belong_to_a_chat_and_stand_in_its_head(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="3", system="Be a leaf.")
    body = asked_by(seen, "One?")
    assert (body["model"], body["messages"][0]) == ("letters", {"role": "system", "content": "Be a leaf."})
    page.get_by_role("button", name="New chat").first.click()
    page.locator("#chat-model").select_option("cool")
    page.locator("#system-toggle").click()
    expect(page.locator("#chat-system")).to_have_value("Be a leaf.")  # a new chat begins as the last one
    page.locator("#chat-system").fill("Be a tree.")
    page.keyboard.press("Escape")
    expect(page.locator("#chat-system")).to_be_hidden()
    body = asked_by(seen, "Two?")
    assert (body["model"], body["messages"][0]["content"]) == ("cool", "Be a tree.")
    page.get_by_role("button", name="One?", exact=True).click()
    expect(page.locator("#chat-model")).to_have_value("letters")
    body = asked_by(seen, "Three?", answers=2)
    assert (body["model"], body["messages"][0]["content"]) == ("letters", "Be a leaf.")
    page.reload()
    expect(page.locator("#chat-model")).to_have_value("letters")
    page.get_by_role("button", name="Two?", exact=True).click()
    expect(page.locator("#chat-model")).to_have_value("cool")


# ---- base models, and texts longer than their context


def test_a_base_model_is_named_as_one_before_anything_is_sent_and_leads_to_text(seen: Visit) -> None:
    page = seen.page
    expect(page.locator(".notice")).to_be_empty()
    page.locator("#chat-model").select_option("base")
    expect(page.locator(".notice")).to_contain_text("base is a base model")
    expect(page.locator(".example")).to_have_count(0)
    page.locator("#message").fill("Once upon a time")
    page.locator("#message").press("Enter")
    expect(page.locator("#to-text")).to_be_focused()  # nothing was sent
    assert page.locator(".message").count() == 0
    page.keyboard.press("Enter")
    expect(page.locator("#prompt")).to_have_value("Once upon a time")
    expect(page.locator("#text-model")).to_have_value("base")


@pytest.mark.parametrize("length", [5, 100, 127, 128, 400])
def test_a_text_of_any_length_is_written_on_within_the_context(length: int, seen: Visit) -> None:
    page = seen.page
    seen.settings(seed="1")
    page.goto(f"{seen.address}#text")
    page.locator("#text-model").select_option("base")
    page.locator("#prompt").fill("x" * length)
    with page.expect_response("**/v1/completions") as answered:
        page.locator("#write-on").click()
    assert answered.value.ok, answered.value.text()
    body = answered.value.request.post_data_json
    page.locator("#keep").wait_for()
    sent = len(body["prompt"])
    assert 0 < body["max_tokens"] <= CONTEXT - sent
    assert sent == min(length, max(CONTEXT // 2, CONTEXT - body["max_tokens"]))
    note = page.locator(".text .page > .hint[role=status]")
    if sent < length:
        expect(note).to_contain_text(f"the first {length - sent} of this text are left out")
    else:
        expect(note).to_be_empty()


def test_a_long_prompt_shows_how_much_of_it_has_been_read(seen: Visit) -> None:
    page = seen.page
    begun = [{"model": "letters", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
    read = [{"choices": [], "prompt_progress": {"total": 2048, "cache": 0, "processed": 512, "time_ms": 9}}]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in begun + read)
    page.evaluate(
        """(stream) => {
            const asked = window.fetch;
            window.fetch = async (path, options) => {
                if (!String(path).includes("chat/completions")) return asked(path, options);
                window.sent = JSON.parse(options.body);
                return new Response(new ReadableStream({
                    start(controller) {
                        controller.enqueue(new TextEncoder().encode(stream));
                        window.more = (text) => controller.enqueue(new TextEncoder().encode(text));
                        window.end = () => controller.close();
                    },
                }));
            };
        }""",
        stream,
    )
    page.locator("#message").fill("A long one")
    page.locator("#message").press("Enter")
    expect(page.locator(".reading-prompt")).to_contain_text("Reading: 512 of 2,048 tokens")
    assert page.evaluate("() => window.sent.return_progress") is True
    assert page.evaluate("() => document.querySelector('.reading-prompt progress').position") == 0.25
    page.evaluate(
        """() => window.more('data: {"choices": [{"index": 0, "delta": {"content": "Read."}}]}\\n\\n')"""
    )
    expect(page.locator(".message.assistant .prose")).to_have_text("Read.")
    expect(page.locator(".reading-prompt")).to_have_count(0)
    page.evaluate("() => { window.more('data: [DONE]\\n\\n'); window.end(); }")
    seen.answered()


def test_the_context_meter_tells_what_the_chat_takes(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="6")
    expect(page.locator("#context")).to_be_hidden()
    seen.ask("How much?")
    asked = {"model": "letters", "messages": [{"role": "user", "content": "How much?"}]}
    read = httpx.post(f"{seen.address}tokenize", json=asked, timeout=60).json()["count"]
    expect(page.locator("#context")).to_have_text(f"{read + 6} of 32,768 tokens")


# ---- finding, naming, taking in, reading


def test_chats_are_found_by_what_was_said_in_them_and_can_be_renamed(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="3")
    for text in ("About leaves", "About roots"):
        page.get_by_role("button", name="New chat").first.click()
        seen.ask(text)
    assert page.locator(".talk-groups h3").all_inner_texts() == ["Today"]
    page.get_by_label("Search the chats").fill("LEAVES")
    assert names(page) == ["About leaves"]
    page.get_by_label("Search the chats").fill("nothing like it")
    expect(page.locator(".talks")).to_contain_text("Nothing found.")
    page.get_by_label("Search the chats").fill("")
    page.get_by_role("button", name="Rename").click()
    page.keyboard.type("Below the ground")
    page.keyboard.press("Enter")
    expect(page.locator(".titled h2")).to_have_text("Below the ground")
    assert names(page) == ["Below the ground", "About leaves"]
    page.get_by_role("button", name="Rename").click()
    page.keyboard.type("Not this")
    page.keyboard.press("Escape")
    page.reload()
    expect(page.locator(".talk-name")).to_have_text(["Below the ground", "About leaves"])


def test_what_was_exported_can_be_taken_in_again(browser: Browser, address: str, tmp_path: Path) -> None:
    with visit(browser, address) as found:
        found.settings(max_tokens="6", system="Be a leaf.")
        answer = found.ask("Keep?")
        found.page.get_by_role("button", name="Another answer").click()
        expect(found.page.locator(".message.assistant .versions")).to_contain_text("2/2")
        found.answered()
        found.page.get_by_role("button", name="Earlier version").click()
        with found.page.expect_download() as saved:
            found.page.locator("#export-json").click()
        saved.value.save_as(tmp_path / "chat.json")
    with visit(browser, address) as found:
        for _ in range(2):  # the second time changes nothing
            found.page.locator("#import-file").set_input_files(tmp_path / "chat.json")
            expect(found.page.locator(".undo")).to_have_text("Imported.")
            assert names(found.page) == ["Keep?"]
            assert found.answered() == answer
            expect(found.page.locator(".message.assistant .versions")).to_contain_text("1/2")
        found.page.locator("#system-toggle").click()
        expect(found.page.locator("#chat-system")).to_have_value("Be a leaf.")
        assert found.wrong == []


def chatgpt() -> Any:
    """A conversation as ChatGPT exports them: a tree with a hidden root, and a system message that says
    nothing."""

    def message(role: str, text: str, time: float) -> dict[str, Any]:
        return {
            "author": {"role": role},
            "content": {"content_type": "text", "parts": [text]},
            "create_time": time,
        }

    mapping = {
        "root-node": {"id": "root-node", "message": None, "parent": None, "children": ["system-1"]},
        "system-1": {
            "id": "system-1",
            "message": message("system", "", 1.7e9),
            "parent": "root-node",
            "children": ["user-0001"],
        },
        "user-0001": {
            "id": "user-0001",
            "message": message("user", "Hi", 1.7e9),
            "parent": "system-1",
            "children": ["a-one-01", "a-two-02"],
        },
        "a-one-01": {
            "id": "a-one-01",
            "message": message("assistant", "First", 1.7e9 + 1),
            "parent": "user-0001",
            "children": [],
        },
        "a-two-02": {
            "id": "a-two-02",
            "message": message("assistant", "**Second**", 1.7e9 + 2),
            "parent": "user-0001",
            "children": [],
        },
    }
    return [{"title": "From afar", "create_time": 1.7e9, "update_time": 1.7e9 + 2, "mapping": mapping}]


def open_webui() -> Any:
    messages = {
        "m1": {
            "id": "m1",
            "parentId": None,
            "childrenIds": ["m2"],
            "role": "user",
            "content": "Hi",
            "timestamp": 1_700_000_000,
        },
        "m2": {
            "id": "m2",
            "parentId": "m1",
            "childrenIds": [],
            "role": "assistant",
            "content": "Hello",
            "timestamp": 1_700_000_001,
        },
    }
    return [
        {
            "id": "x",
            "title": "Web",
            "chat": {"history": {"messages": messages, "currentId": "m2"}},
            "created_at": 1_700_000_000,
        }
    ]


def newleaf_chat() -> Any:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("made", "title", "said", "answer"),
    [
        (chatgpt, "From afar", "Hi", "Second"),
        (open_webui, "Web", "Hi", "Hello"),
        (newleaf_chat, "Hi", "Hi", "Hello"),
    ],
)
def test_chats_of_other_programs_can_be_taken_in(
    made: Any, title: str, said: str, answer: str, seen: Visit, tmp_path: Path
) -> None:
    (tmp_path / "chats.json").write_text(json.dumps(made()), "utf-8")
    seen.page.locator("#import-file").set_input_files(tmp_path / "chats.json")
    expect(seen.page.locator(".titled h2")).to_have_text(title)
    expect(seen.page.locator(".message.user .said")).to_have_text(said)
    expect(seen.page.locator(".message.assistant .prose")).to_have_text(answer)
    seen.page.reload()
    expect(seen.page.locator(".talk-name")).to_have_text(title)


@pytest.mark.parametrize(
    "content",
    ["", "no json", "[]", "{}", '{"talk": {"nodes": 3}}', '{"messages": [null, 4]}', '[{"mapping": []}]'],
)
def test_a_file_without_chats_is_said_to_be_one(content: str, seen: Visit, tmp_path: Path) -> None:
    (tmp_path / "chats.json").write_text(content, "utf-8")
    seen.page.locator("#import-file").set_input_files(tmp_path / "chats.json")
    expect(seen.page.locator(".undo")).to_contain_text("No chats in this file")
    assert names(seen.page) == []


ODD_FIELDS: list[dict[str, Any]] = [
    {"reasoning": 5},
    {"reasoning": {"includes": 1}},
    {"tokens": "abc"},
    {"tokens": [None]},
    {"tokens": [{"text": 7, "bytes": None, "logprob": 0, "top": []}]},
    {"tokens": [{"text": None, "bytes": ["x"], "logprob": -1, "top": []}]},
    {"tokens": [{"text": "a", "bytes": None, "logprob": {}, "top": 5}]},
    {"thoughtTokens": {"length": 3}},
    {"model": {"a": 1}},
    {"usage": {"tokens": {}, "seconds": []}},
    {"usage": "many"},
    {"end": ["stop"]},
    {"created": 1e300},
    {"created": "yesterday"},
]


@pytest.mark.parametrize("odd", ODD_FIELDS, ids=json.dumps)
def test_what_is_of_another_kind_in_an_answer_of_a_file_is_left_out(
    odd: dict[str, Any], seen: Visit, tmp_path: Path
) -> None:
    talk = {
        "id": "talk-0001",
        "title": "Odd",
        "created": odd.get("created", 1.7e12),
        "changed": odd.get("created", 1.7e12),
    }
    turns = {
        "node-0001": {"parent": None, "role": "user", "content": "Hi"},
        "node-0002": {"parent": "node-0001", "role": "assistant"},
    }
    turns["node-0002"] |= {"content": "Hello", **odd}
    (tmp_path / "chats.json").write_text(json.dumps({"talk": {**talk, "nodes": turns}}), "utf-8")
    seen.page.locator("#import-file").set_input_files(tmp_path / "chats.json")
    for _ in range(2):
        expect(seen.page.locator(".talk-name")).to_have_text("Odd")
        expect(seen.page.locator(".message.assistant .prose").first).to_have_text("Hello")
        expect(
            seen.page.locator(".message.assistant").get_by_role("button", name="Copy", exact=True)
        ).to_be_visible()
        seen.page.reload()
        seen.page.locator(".talk-name").first.click()
    assert seen.wrong == []


def test_an_example_is_put_into_the_field_and_pointers_lead_on(seen: Visit) -> None:
    page = seen.page
    page.locator(".example").first.click()
    expect(page.locator("#message")).to_be_focused()
    assert page.locator("#message").input_value().startswith("Explain how a transformer")
    page.locator(".pointers a").first.click()
    expect(page.locator(".text.view")).to_be_visible()


def long_answer(route: Route) -> None:
    text = "\n\n".join(f"Paragraph {number}" for number in range(120))
    events = [
        {"model": "letters", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}
    ]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    route.fulfill(content_type="text/event-stream", body=stream)


def test_a_button_leads_to_the_end_of_a_long_chat(seen: Visit) -> None:
    page = seen.page
    page.route("**/v1/chat/completions", long_answer)
    seen.ask("Much")
    expect(page.locator("#jump")).to_be_hidden()
    page.locator(".scroll").evaluate("(node) => (node.scrollTop = 0)")
    expect(page.locator("#jump")).to_be_visible()
    page.get_by_role("button", name="To the end").click()
    expect(page.get_by_text("Paragraph 119")).to_be_in_viewport()
    expect(page.locator("#jump")).to_be_hidden()


def test_ctrl_enter_sends_and_enter_can_be_a_lines_end(seen: Visit) -> None:
    page = seen.page
    seen.settings(max_tokens="3")
    page.locator("#message").fill("With Ctrl")
    page.locator("#message").press("Control+Enter")
    seen.answered()
    page.locator("#open-settings").click()
    page.get_by_label("Enter sends").uncheck()
    page.keyboard.press("Escape")
    expect(page.locator(".composer .keys")).to_contain_text("Ctrl+Enter sends")
    page.locator("#message").focus()
    page.keyboard.type("Two")
    page.keyboard.press("Enter")
    page.keyboard.type("lines")
    page.keyboard.press("Control+Enter")
    seen.answered(2)
    expect(page.locator(".message.user .said").last).to_have_text("Two\nlines")
