"""Markdown that is shown while it is written: it ends as the whole does, nothing jumps on the way, and the
work grows with the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI (pip install 'newleaf[serve]')")
pytest.importorskip("playwright", reason="needs playwright (pip install 'newleaf[test]')")

from browser import SPECS, modules_page
from playwright.sync_api import Page


@pytest.fixture(scope="module")
def modules() -> Iterator[Page]:
    with modules_page() as page:
        yield page


def examples(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((SPECS / name).read_text("utf-8"))
    return found


@pytest.mark.parametrize("name", ["commonmark-0.31.2.json", "gfm-0.29.json"])
def test_text_that_comes_letter_by_letter_ends_as_the_whole_does(name: str, modules: Page) -> None:
    script = """async (examples) => {
        const { markdown, GrowingMarkdown } = await import("/js/markdown.js");
        const wrong = [];
        for (const { number, markdown: text } of examples) {
            const [whole, grown] = [document.createElement("div"), document.createElement("div")];
            whole.append(markdown(text));
            const view = new GrowingMarkdown(grown);
            for (let end = 1; end <= text.length; end++) view.update(text.slice(0, end), true);
            view.update(text, false);
            if (whole.innerHTML !== grown.innerHTML) wrong.push([number, whole.innerHTML, grown.innerHTML]);
        }
        return wrong;
    }"""
    assert modules.evaluate(script, examples(name)) == []


GROWING = """# Head

Some **bold and *more* text** with `code`, [a link](https://x.org/a) and ~~struck~~.

- **first** item
- second

| a | b |
|---|---|
| 1 | `2` |

The sum $a_1 + b_2$ and

$$
x^2
$$

```python
x = "**"
```

Text
and more.
"""


def grown(page: Page, text: str, size: int = 1) -> dict[str, Any]:
    """What is seen while a text comes in pieces: each state's visible text and elements, and how many nodes
    were put in and taken out."""
    script = """async ([text, size]) => {
        const { GrowingMarkdown } = await import("/js/markdown.js");
        const place = document.createElement("div");
        const view = new GrowingMarkdown(place);
        const states = [];
        const kinds = [];
        let [added, removed] = [0, 0];
        const watch = (records) => {
            for (const record of records) {
                added += record.addedNodes.length;
                removed += record.removedNodes.length;
            }
        };
        const observer = new MutationObserver(watch);
        observer.observe(place, { childList: true, subtree: true });
        for (let end = size; end < text.length + size; end += size) {
            view.update(text.slice(0, end), true);
            states.push([...place.children].map((node) =>
              node.classList.contains("code") ? "" : node.textContent).join("\\n"));
            kinds.push([...place.children].map((node) => node.tagName).join(" "));
        }
        view.update(text, false);
        watch(observer.takeRecords());
        return { states, kinds, added, removed };
    }"""
    found: dict[str, Any] = page.evaluate(script, [text, size])
    return found


def test_half_written_marks_are_never_seen(modules: Page) -> None:
    found = grown(modules, GROWING)
    for state in found["states"]:
        assert not any(mark in state for mark in ("*", "`", "~", "|", "$", "](", "#", "---")), state
    kinds = list(dict.fromkeys(found["kinds"]))  # no block is taken for another kind of block on the way
    assert [kind for kind in kinds if kind] == [
        "H3",
        "H3 P",
        "H3 P UL",
        "H3 P UL DIV",
        "H3 P UL DIV P",
        "H3 P UL DIV P DIV",
        "H3 P UL DIV P DIV DIV",
        "H3 P UL DIV P DIV DIV P",
    ]


def test_what_has_been_drawn_stays_and_the_work_grows_with_the_text(modules: Page) -> None:
    def changes(times: int) -> int:
        found = grown(modules, GROWING * times, size=3)
        return int(found["added"] + found["removed"])

    changes(1)  # fetches what formulas and code need
    assert changes(20) < 21 * changes(1) * 1.2
    script = """async (text) => {
        const { GrowingMarkdown } = await import("/js/markdown.js");
        const place = document.createElement("div");
        const view = new GrowingMarkdown(place);
        view.update(text, true);
        const kept = [...place.childNodes].slice(0, -1);
        view.update(text + "more", true);
        view.update(text + "more", false);
        return kept.length > 5 && kept.every((node, at) => place.childNodes[at] === node);
    }"""
    assert modules.evaluate(script, GROWING) is True


def test_a_link_definition_that_comes_late_gives_earlier_text_its_link(modules: Page) -> None:
    script = """async (text) => {
        const { GrowingMarkdown } = await import("/js/markdown.js");
        const place = document.createElement("div");
        const view = new GrowingMarkdown(place);
        for (let end = 1; end <= text.length; end++) view.update(text.slice(0, end), true);
        view.update(text, false);
        return place.querySelector("a")?.getAttribute("href");
    }"""
    assert (
        modules.evaluate(script, "See [it][1].\n\nMore.\n\nStill more.\n\n[1]: https://x.org/")
        == "https://x.org/"
    )


def test_code_that_grows_is_coloured_a_bounded_number_of_times(modules: Page) -> None:
    script = """async () => {
        const { GrowingMarkdown } = await import("/js/markdown.js");
        const core = (await import("/vendor/highlight/core.js")).default;
        const begun = "~~~python\\nx = 1\\n";
        const place = document.createElement("div");
        const view = new GrowingMarkdown(place);
        view.update(begun, true);
        while (!core.getLanguage("python")) await new Promise((done) => setTimeout(done, 20));
        const highlight = core.highlight;
        let characters = 0;
        core.highlight = (text, options) => {
            characters += text.length;
            return highlight(text, options);
        };
        let text = begun;
        for (let line = 0; line < 1500; line++) {
            text += "x = x + 1\\n";
            view.update(text, true);
        }
        view.update(text, false);
        core.highlight = highlight;
        const whole = place.querySelector("code").textContent === text.slice(begun.indexOf("x"), -1);
        return [characters / text.length, whole, place.querySelectorAll(".c-number").length];
    }"""
    times, whole, numbers = modules.evaluate(script)
    assert times < 8  # colouring it anew with each line would be 750
    assert whole is True
    assert numbers == 1501


LONG: dict[str, str] = {
    "a line of spaces": " " * 20_000 + "a",
    "a line of tabs": "\t" * 20_000 + "a",
    "a bar behind many spaces": "a\n" + " " * 20_000 + "|a",
    "an item of spaces": "- " + " " * 200_000 + "a",
    "formulas that only begin": "$a " * 100_000,
    "formulas in brackets that only begin": "\\(a" * 100_000 + "\\[a" * 100_000,
    "formulas that begin, and one sign that ends none": "$a " * 100_000 + "x$b",
    "an address with many brackets": "www.a.b/" + ")" * 1900 + ("(" * 40 + ")" * 1900) * 20,
    "many addresses with many brackets": ("www.a.b/" + ")" * 1900 + " ") * 100,
    "equations that only begin": "\\begin{align}\n" * 5_000,
    "lines of marks": "-\n" * 5_000,
}


@pytest.mark.parametrize("name", LONG)
def test_texts_that_look_like_many_beginnings_are_shown_soon(name: str, modules: Page) -> None:
    script = """async (text) => {
        const { GrowingMarkdown } = await import("/js/markdown.js");
        const element = document.createElement("div");
        const view = new GrowingMarkdown(element);
        view.update(text, true);
        view.update(text, false);
        return element.innerHTML.length;
    }"""
    assert modules.evaluate(script, LONG[name]) > 0
