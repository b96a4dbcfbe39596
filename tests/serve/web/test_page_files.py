"""The page's files over HTTP, and the page's own modules: tokens that make up text, branches, axes,
events."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI (pip install 'newleaf[serve]')")
pytest.importorskip("playwright", reason="needs playwright (pip install 'newleaf[test]')")

from browser import modules_page
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Page

from newleaf.serve.app import PAGE
from newleaf.serve.web.page_files import page_router, read_assets

FILES = read_assets(PAGE)


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(page_router(PAGE))
    return TestClient(app)


@pytest.fixture(scope="module")
def modules() -> Iterator[Page]:
    with modules_page() as page:
        yield page


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
        assert (
            client.get(
                f"/{name}" if name != "index.html" else "/", headers={"if-none-match": answer.headers["etag"]}
            ).status_code
            == 304
        )


def test_vendored_files_are_those_that_were_fetched_and_bring_their_licenses() -> None:
    folder = PAGE / "vendor"
    told = json.loads((folder / "vendored.json").read_text("utf-8"))
    assert {"markdown-it", "temml", "@highlightjs/cdn-assets"} == {package["name"] for package in told}
    digests = {f"vendor/{name}": digest for package in told for name, digest in package["files"].items()}
    assert {
        name: hashlib.sha256(FILES[name].content).hexdigest() for name in FILES if name not in OURS
    } == digests
    assert sum(len(FILES[name].content) for name in digests) < 500_000
    for package in told:
        license_text = (folder / f"{package['name'].strip('@').replace('/', '-')}.LICENSE").read_text("utf-8")
        assert "Copyright" in license_text
        assert "Permission" in license_text or "Redistribution" in license_text


@pytest.mark.parametrize(
    "path",
    [
        "/../settings.py",
        "/js/../../settings.py",
        "/%2e%2e/settings.py",
        "/js/%2e%2e%2f%2e%2e%2fapp.py",
        "/js/",
        "/js",
        "//etc/passwd",
    ],
)
def test_no_path_leads_out_of_the_pages_folder(path: str, client: TestClient) -> None:
    assert client.get(path).status_code == 404


OURS = {name: asset for name, asset in FILES.items() if not name.startswith("vendor/")}


def test_no_file_asks_another_origin_or_makes_markup_of_text() -> None:
    for name, asset in OURS.items():
        text = asset.content.decode()
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "style=",
            "onclick=",
        ):
            assert word not in text, (name, word)
        if not name.endswith(".svg"):
            assert "https://" not in text.replace("https?://", ""), name


def test_a_characters_tokens_are_put_together_and_gone_on_from_at_its_end_only(modules: Page) -> None:
    script = """async (entries) => {
        const { changed, chatTokens, InContext } = await import("/js/tokens.js");
        const tokens = chatTokens(entries);
        const context = new InContext();
        return [tokens.map((token) => context.show(token)), tokens.map((token, place) => changed(tokens,
          place, token))];
    }"""

    def entry(found: bytes, name: str = "") -> dict[str, Any]:
        return {"token": name or found.decode("utf-8", "replace"), "bytes": list(found), "logprob": -1.0}

    leaf = "叶".encode()
    entries = [
        entry(b"a"),
        entry(leaf[:1]),
        entry(leaf[1:2]),
        entry(leaf[2:]),
        entry(b"\n"),
        entry(b"", "<|im_end|>"),
    ]
    assert modules.evaluate(script, entries) == [
        ["a", "◌", "◌", "叶", "↵", "<|im_end|>"],
        ["a", None, None, "a叶", "a叶\n", None],
    ]


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
        for (const box of boxes) document.elementFromPoint(box.x + box.width / 2,
          box.y + box.height / 2).click();
        return [[...view.spans()].map((span) => span.textContent), found];
    }"""
    # Letters that a font joins, an accent of its own, a flag and a family in pieces, a joiner, and what turns
    # text round.
    texts = [
        "f",
        "l",
        "f",
        "f",
        "i",
        "e",
        "\u0301",
        "\U0001f1ec",
        "\U0001f1e7",
        "\U0001f469",
        "\u200d",
        "\U0001f469",
        "\u202e",
        " ",
        "\n",
    ]
    shown = {"\u0301": "◌\u0301", "\u200d": "◌\u200d", "\u202e": "␀", "\n": "↵"}
    assert modules.evaluate(script, texts) == [
        [shown.get(text, text) for text in texts],
        list(range(len(texts))),
    ]


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
    assert [(top["text"], top.get("name")) for top in found[1]["top"]] == [
        (" b", None),
        (None, "</s>"),
        (None, None),
    ]


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
                for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at,
                  at + size));
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
