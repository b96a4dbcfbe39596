"""The page's files over HTTP, and the page's own modules: Markdown that cannot run, tokens that make up text, branches, axes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI (pip install 'newleaf[serve]')")
pytest.importorskip("playwright", reason="needs playwright (pip install 'newleaf[test]')")

from browsing import chromium
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Page, Route

from newleaf.serve.app import PAGE
from newleaf.serve.page import page_router, read_assets

FILES = read_assets(PAGE)


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(page_router(PAGE))
    return TestClient(app)


@pytest.fixture(scope="module")
def modules() -> Iterator[Page]:
    """An empty page that can import the page's modules."""

    def fulfil(route: Route) -> None:
        asset = FILES.get(route.request.url.removeprefix("http://page/"))
        if asset is None:
            route.fulfill(content_type="text/html", body="<!doctype html><title>empty</title><body></body>")
        else:
            route.fulfill(content_type=asset.type, body=asset.content)

    with chromium() as browser:
        page = browser.new_page()
        page.route("http://page/**", fulfil)
        page.goto("http://page/")
        yield page


def rendered(page: Page, text: str) -> str:
    script = """async (text) => {
        const { markdown } = await import("/js/markdown.js");
        const place = document.createElement("div");
        place.append(markdown(text));
        return place.innerHTML;
    }"""
    found: str = page.evaluate(script, text)
    return found


def test_every_file_is_served_with_a_policy_that_runs_nothing_else(client: TestClient) -> None:
    assert {"index.html", "js/main.js", "css/base.css", "leaf.svg"} <= set(FILES)
    for name, asset in FILES.items():
        answer = client.get("/" if name == "index.html" else f"/{name}")
        assert (answer.status_code, answer.content) == (200, asset.content)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert client.get(f"/{name}" if name != "index.html" else "/", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    "path",
    ["/../settings.py", "/js/../../settings.py", "/%2e%2e/settings.py", "/js/%2e%2e%2f%2e%2e%2fapp.py", "/js/", "/js", "//etc/passwd"],
)
def test_no_path_leads_out_of_the_pages_folder(path: str, client: TestClient) -> None:
    assert client.get(path).status_code == 404


def test_no_file_asks_another_origin_or_makes_markup_of_text() -> None:
    for name, asset in FILES.items():
        text = asset.content.decode()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "style=", "onclick="):
            assert word not in text, (name, word)
        if not name.endswith(".svg"):
            assert "https://" not in text.replace("https?://", ""), name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "<p>plain</p>"),
        ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
        ("**bold** and *it* and `x < y`", "<p><strong>bold</strong> and <em>it</em> and <code>x &lt; y</code></p>"),
        ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
        ("**never closed", "<p>**never closed</p>"),
        ("**bold *and* it**", "<p><strong>bold <em>and</em> it</strong></p>"),
        ("# Title", "<h3>Title</h3>"),
        ("- a\n- b\n  - c", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("> said\n> so", "<blockquote><p>said<br>so</p></blockquote>"),
        ("~~no~~ \\*star\\*", "<p><del>no</del> *star*</p>"),
        ("---", "<hr>"),
        ("<script>alert(1)</script>", "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>"),
        ('<img src=x onerror="alert(1)">', '<p>&lt;img src=x onerror="alert(1)"&gt;</p>'),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"),
        ("[x](JaVaScRiPt:alert`1`)", "<p>[x](JaVaScRiPt:alert<code>1</code>)</p>"),
        ("[x](data:text/html,<script>)", "<p>[x](data:text/html,&lt;script&gt;)</p>"),
        ("[x](//evil)", "<p>[x](//evil)</p>"),
    ],
)
def test_markdown_becomes_these_nodes(text: str, expected: str, modules: Page) -> None:
    assert rendered(modules, text) == expected


def test_links_open_elsewhere_and_tell_nothing(modules: Page) -> None:
    script = """async (text) => {
        const { markdown } = await import("/js/markdown.js");
        return [...markdown(text).querySelectorAll("*")].map((node) => [node.tagName, node.getAttribute("href"), node.target, node.rel]);
    }"""
    found = modules.evaluate(script, 'See [a *b*](https://x.org/?q="><script>) and https://y.org/z.')
    told = ["_blank", "noopener noreferrer nofollow"]
    assert [node for node in found if node[0] == "A"] == [["A", 'https://x.org/?q="><script>', *told], ["A", "https://y.org/z", *told]]
    assert [node[0] for node in found] == ["P", "A", "EM", "A"]


def test_code_is_kept_as_it_is_while_it_is_being_written(modules: Page) -> None:
    script = """async (text) => {
        const { markdown } = await import("/js/markdown.js");
        const place = document.createElement("div");
        place.append(markdown(text));
        return [...place.querySelectorAll("pre code")].map((node) => node.textContent);
    }"""
    code = "def f(x):\n    return x * 2  # **not bold**\n\n<b>"
    assert modules.evaluate(script, f"So:\n```python\n{code}\n```\nDone") == [code]
    assert modules.evaluate(script, f"So:\n```python\n{code}") == [code]  # not closed yet


def test_tables_have_a_head_and_rows(modules: Page) -> None:
    found = rendered(modules, "| a | b |\n|---|:-:|\n| 1 | **2** |")
    assert '<th scope="col">a</th><th scope="col">b</th>' in found
    assert "<td>1</td><td><strong>2</strong></td>" in found


@pytest.mark.parametrize(
    "piece", ["*", "_a", "`", "[", "[a](", "> ", "- ", "  - ", "|", "\\", "**a", "1. ", "```\n", "# ", "~~", "![", "h"]
)
def test_hostile_markdown_takes_no_time(piece: str, modules: Page) -> None:
    script = """async (text) => {
        const { markdown } = await import("/js/markdown.js");
        const begun = performance.now();
        const nodes = markdown(text);
        return [performance.now() - begun, nodes.querySelectorAll("script, img, iframe, style").length];
    }"""
    for text in (piece * (20_000 // len(piece)), "\n".join([piece] * 3000)):
        milliseconds, dangerous = modules.evaluate(script, text)
        assert milliseconds < 3000  # quadratic work would take minutes
        assert dangerous == 0


def test_a_characters_tokens_are_put_together_and_gone_on_from_at_its_end_only(modules: Page) -> None:
    script = """async (entries) => {
        const { changed, chatTokens, InContext } = await import("/js/tokens.js");
        const tokens = chatTokens(entries);
        const context = new InContext();
        return [tokens.map((token) => context.show(token)), tokens.map((token, place) => changed(tokens, place, token))];
    }"""

    def entry(found: bytes, name: str = "") -> dict[str, Any]:
        return {"token": name or found.decode("utf-8", "replace"), "bytes": list(found), "logprob": -1.0}

    leaf = "叶".encode()
    entries = [entry(b"a"), entry(leaf[:1]), entry(leaf[1:2]), entry(leaf[2:]), entry(b"\n"), entry(b"", "<|im_end|>")]
    assert modules.evaluate(script, entries) == [["a", "◌", "◌", "叶", "↵", "<|im_end|>"], ["a", None, None, "a叶", "a叶\n", None]]


def test_every_token_can_be_seen_and_clicked(modules: Page) -> None:
    script = """async (texts) => {
        const { TokenView } = await import("/js/token_view.js");
        const words = { say: (name) => name, percent: String };
        const style = document.createElement("link");
        const loaded = new Promise((done) => (style.onload = done));
        document.head.append(Object.assign(style, { rel: "stylesheet", href: "/css/tokens.css" }));
        await loaded;
        const found = [];
        const view = new TokenView(words, (token, place) => found.push(place));
        document.body.append(view.element);
        document.body.style.font = "16px 'DejaVu Sans', system-ui";
        view.update(texts.map((text) => ({ text, bytes: null, logprob: -1, top: [] })));
        const boxes = [...view.spans()].map((span) => span.getBoundingClientRect());
        for (const box of boxes) document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2).click();
        return [[...view.spans()].map((span) => span.textContent), found];
    }"""
    # Letters that a font joins, an accent of its own, a flag and a family in pieces, a joiner, and what turns text round.
    texts = ["f", "l", "f", "f", "i", "e", "\u0301", "\U0001f1ec", "\U0001f1e7", "\U0001f469", "\u200d", "\U0001f469", "\u202e", " ", "\n"]
    shown = {"\u0301": "◌\u0301", "\u200d": "◌\u200d", "\u202e": "␀", "\n": "↵"}
    assert modules.evaluate(script, texts) == [[shown.get(text, text) for text in texts], list(range(len(texts)))]


def test_a_completions_tokens_are_text_bytes_or_control_tokens(modules: Page) -> None:
    script = """async (logprobs) => (await import("/js/tokens.js")).textTokens(logprobs)"""
    found = modules.evaluate(
        script,
        {
            "tokens": ["a", "bytes:\\xe5\\x8f"],
            "token_logprobs": [None, -2.0],
            "top_logprobs": [None, {"</s>": -1.0, "bytes:\\xe5\\x8f": -2.0, " b": -0.5}],
        },
    )
    assert found[0] == {"text": "a", "bytes": None, "logprob": None, "top": []}
    assert (found[1]["text"], found[1]["bytes"]) == (None, [0xE5, 0x8F])
    assert [(top["text"], top.get("name")) for top in found[1]["top"]] == [(" b", None), (None, "</s>"), (None, None)]


def test_branches_keep_what_was_below_them(modules: Page) -> None:
    script = """async () => {
        const { add, choose, newTalk, path, versions } = await import("/js/tree.js");
        const talk = newTalk("");
        const said = () => path(talk).map((node) => node.content).join(" ");
        const first = add(talk, null, "user", "a");
        const answer = add(talk, first.id, "assistant", "b");
        add(talk, answer.id, "user", "c");
        const other = add(talk, first.id, "assistant", "d");
        const seen = [said()];
        choose(talk, other, 0);
        seen.push(said());
        add(talk, null, "user", "e");
        seen.push(said(), versions(talk, first).all.length);
        choose(talk, first, 0);
        seen.push(said());
        choose(talk, first, 99);
        seen.push(said(), talk.title);
        return seen;
    }"""
    assert modules.evaluate(script) == ["a d", "a b c", "e", 2, "a b c", "e", "a"]


def test_a_charts_axes_have_round_numbers_within_its_range(modules: Page) -> None:
    script = """async ([low, high, count]) => (await import("/js/chart.js")).ticks(low, high, count)"""
    assert modules.evaluate(script, [0, 10, 5]) == [0, 2, 4, 6, 8, 10]
    assert modules.evaluate(script, [1.43, 1.57, 5]) == [1.45, 1.5, 1.55]
    assert modules.evaluate(script, [0, 123456, 4]) == [0, 50000, 100000]


def test_events_are_read_whatever_the_pieces_they_come_in(modules: Page) -> None:
    script = """async ([text, size]) => {
        const { events } = await import("/js/sse.js");
        const bytes = new TextEncoder().encode(text);
        const body = new ReadableStream({
            start(controller) {
                for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
                controller.close();
            },
        });
        const found = [];
        const source = events(body);
        for (;;) {
            const { done, value } = await source.next();
            if (done) return [found, value];
            found.push(value);
        }
    }"""
    stream = 'data: {"a": "叶"}\r\n\r\n: a comment\n\nevent: x\ndata: {"b": 2}\n\ndata: [DONE]\n\n'
    for size in (1, 2, 7, 1000):
        assert modules.evaluate(script, [stream, size]) == [[{"a": "叶"}, {"b": 2}], True]
    assert modules.evaluate(script, [json.dumps("x"), 3]) == [[], False]  # ended without a word
