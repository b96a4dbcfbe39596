"""A model's Markdown on the page: the specifications' examples, LaTeX, colours of code, and that nothing in
it can run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI (pip install 'newleaf[serve]')")
pytest.importorskip("playwright", reason="needs playwright (pip install 'newleaf[test]')")

from browser import SPECS, modules_page
from playwright.sync_api import Page

LINKED_BY_GFM = {602, 608, 611, 612}  # a bare address is a link in GFM and text in CommonMark


@pytest.fixture(scope="module")
def modules() -> Iterator[Page]:
    with modules_page() as page:
        yield page


def examples(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((SPECS / name).read_text("utf-8"))
    return found


def scored(page: Page, name: str) -> dict[int, dict[str, Any]]:
    script = """async (examples) => {
        const { scored } = await import("/specs/compare.js");
        const { markdown } = await import("/js/markdown.js");
        return scored(examples, (text) => markdown(text));
    }"""
    return {one["number"]: one for one in page.evaluate(script, examples(name))}


def rendered(page: Page, text: str) -> str:
    script = """async (text) => {
        const { markdown } = await import("/js/markdown.js");
        const place = document.createElement("div");
        place.append(markdown(text));
        return place.innerHTML.replaceAll(' dir="auto"', "");
    }"""
    found: str = page.evaluate(script, text)
    return found


def test_commonmarks_examples_come_out_as_the_specification_has_them(modules: Page) -> None:
    found = scored(modules, "commonmark-0.31.2.json")
    right = {number for number, one in found.items() if one["right"]}
    without = {number for number, one in found.items() if not one["markup"]}
    print(
        f"CommonMark 0.31.2: {len(right)} of {len(found)} with raw HTML as text, {len(right & without)} of "
        f"{len(without)} without raw HTML"
    )
    assert set(found) - right == LINKED_BY_GFM, {
        number: found[number] for number in set(found) - right - LINKED_BY_GFM
    }


def test_the_examples_of_githubs_extensions_come_out_as_its_specification_has_them(modules: Page) -> None:
    found = scored(modules, "gfm-0.29.json")
    wrong = {number for number, one in found.items() if not one["right"]}
    print(f"GFM 0.29's extensions: {len(found) - len(wrong)} of {len(found)}")
    # 630: "+" in the domain of a bare address
    assert wrong <= {630}, {number: found[number] for number in wrong}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "<p>plain</p>"),
        ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
        (
            "**bold** and *it* and `x < y`",
            '<p><strong>bold</strong> and <em>it</em> and <code dir="ltr">x &lt; y</code></p>',
        ),
        ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
        ("**never closed", "<p>**never closed</p>"),
        ("**bold *and* it**", "<p><strong>bold <em>and</em> it</strong></p>"),
        ("# Title", '<h3 data-level="1">Title</h3>'),
        ("Title\n===", '<h3 data-level="1">Title</h3>'),
        ("###### Title", '<h6 data-level="6">Title</h6>'),
        ("***", "<hr>"),
        ("***both***", "<p><em><strong>both</strong></em></p>"),
        ("- a\n- b\n  - c", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("> said\n> so", "<blockquote><p>said\nso</p></blockquote>"),
        ("~~no~~ \\*star\\*", "<p><del>no</del> *star*</p>"),
        ("---", "<hr>"),
        (
            "<script>alert(1)</script>",
            '<pre class="markup" data-markup="" tabindex="0">&lt;script&gt;alert(1)&lt;/script&gt;</pre>',
        ),
        (
            'a <img src=x onerror="alert(1)">',
            '<p>a <span data-markup="">&lt;img src=x onerror="alert(1)"&gt;</span></p>',
        ),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"),
        ("[x](JaVaScRiPt:alert`1`)", '<p>[x](JaVaScRiPt:alert<code dir="ltr">1</code>)</p>'),
        (
            "[x](data:text/html,<script>)",
            '<p>[x](data:text/html,<span data-markup="">&lt;script&gt;</span>)</p>',
        ),
        ("[x](//evil)", '<p><a data-href="//evil" title="//evil">x</a></p>'),
        ("H<sub>2</sub>O<br>x", "<p>H<sub>2</sub>O<br>x</p>"),
        (
            "<b onclick=a>y</b>",
            '<p><span data-markup="">&lt;b onclick=a&gt;</span>y<span data-markup="">&lt;/b&gt;</span></p>',
        ),
        (
            "*a <b>c* d</b>",
            '<p><em>a <span data-markup="">&lt;b&gt;</span>c</em> d<span '
            'data-markup="">&lt;/b&gt;</span></p>',
        ),
        ("main.py and a.md", "<p>main.py and a.md</p>"),
    ],
)
def test_markdown_becomes_these_nodes(text: str, expected: str, modules: Page) -> None:
    assert rendered(modules, text) == expected


def test_links_open_elsewhere_and_tell_nothing(modules: Page) -> None:
    script = """async (text) => {
        const { markdown } = await import("/js/markdown.js");
        return [...markdown(text).querySelectorAll("*")].map((node) => [node.tagName,
          node.getAttribute("href"), node.target, node.rel]);
    }"""
    found = modules.evaluate(script, 'See [a *b*](https://x.org/?q="><script>) and https://y.org/z.')
    told = ["_blank", "noopener noreferrer nofollow"]
    assert [node for node in found if node[0] == "A"] == [
        ["A", "https://x.org/?q=%22%3E%3Cscript%3E", *told],
        ["A", "https://y.org/z", *told],
    ]
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


def test_code_has_colours_and_copies_as_it_is(modules: Page) -> None:
    script = """async (text) => {
        const { markdown } = await import("/js/markdown.js");
        const codeTools = (read) => [Object.assign(document.createElement("b"), { read })];
        document.body.replaceChildren(markdown(text, { say: String, codeTools }));
        while (!document.querySelector(".c-keyword")) await new Promise((done) => setTimeout(done, 20));
        const colours = [...document.querySelectorAll("pre span")].map((node) => [node.className,
          node.textContent]);
        return [colours, document.querySelector(".code-head b").read()];
    }"""
    code = 'def f(x):\n    return "<b>"  # why'
    colours, copied = modules.evaluate(script, f"~~~py\n{code}\n~~~")
    assert ["c-keyword", "def"] in colours
    assert ["c-string", '"<b>"'] in colours
    assert ["c-comment", "# why"] in colours
    assert copied == code


def test_tables_are_aligned_and_scroll_by_themselves(modules: Page) -> None:
    found = rendered(modules, "| a | b | c |\n|---|:-:|--:|\n| 1 | **2** | `x \\| y` |")
    assert found.startswith('<div class="table" tabindex="0"><table>')
    assert (
        '<th scope="col">a</th><th data-align="center" scope="col">b</th><th data-align="right" '
        'scope="col">c</th>' in found
    )
    assert (
        '<td>1</td><td data-align="center"><strong>2</strong></td><td data-align="right"><code '
        'dir="ltr">x | y</code></td>' in found
    )


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("Let $a_1 * b_1 * c$ be.", [("a_1 * b_1 * c", False)]),
        (r"So \(x_i^2\) and \[y_{i} < z\].", [("x_i^2", False), ("y_{i} < z", True)]),
        ("$$\na \\\\ b\n$$", [("a \\\\ b", True)]),
        ("> $$\n> x\n> $$", [("x", True)]),
        ("- one\n\n  \\[\n  x^2\n  \\]", [("x^2", True)]),
        (
            "\\begin{align}\na &= b \\\\\n\nc &= d\n\\end{align}",
            [("\\begin{align}\na &= b \\\\\n\nc &= d\n\\end{align}", True)],
        ),
        ("```math\nx_1\n```", [("x_1", True)]),
        ("Inline $$x$$ here.", [("x", True)]),
        ("It costs $5 to $10, or US$7 and 8$.", []),
        ("I gave $20 for it and got 10$.", []),
        ("echo $HOME/bin:$PATH", []),
        ("`$x$` and \\$x\\$", []),
        ("never $closed", []),
        ("$x$5", []),
    ],
)
def test_latex_is_found_and_left_as_it_is(text: str, formulas: list[tuple[str, bool]], modules: Page) -> None:
    script = """async (text) => {
        const { markdown } = await import("/js/markdown.js");
        const found = [...markdown(text).querySelectorAll("[data-tex]")];
        return found.map((node) => [node.dataset.tex, node.classList.contains("display")]);
    }"""
    assert [tuple(one) for one in modules.evaluate(script, text)] == formulas


def test_a_formula_becomes_mathml_and_what_is_none_stays_as_it_was_written(modules: Page) -> None:
    script = """async (text) => {
        const { markdown } = await import("/js/markdown.js");
        document.body.replaceChildren(markdown(text));
        const typeset = () => document.querySelector("math") !== null;
        while (!typeset()) await new Promise((done) => setTimeout(done, 20));
        const formulas = [...document.querySelectorAll("[data-tex]")];
        return formulas.map((node) => {
            const math = node.querySelector("math");
            const parts = () => [...math.querySelectorAll("mfrac, msub, mi, mn")].map((part) => part.tagName);
            return math ? [math.namespaceURI, parts()] : node.textContent;
        });
    }"""
    found = modules.evaluate(script, r"$\frac{a_1}{2}$ and $\nonsense{x$ and $\href{javascript:alert(1)}{x}$")
    assert found[0] == ["http://www.w3.org/1998/Math/MathML", ["mfrac", "msub", "mi", "mn", "mn"]]
    assert found[1] == r"\nonsense{x"
    assert modules.evaluate("() => document.querySelectorAll('a, [href], script').length") == 0


def test_right_to_left_text_stands_right(modules: Page) -> None:
    script = """async (text) => {
        const { markdown } = await import("/js/markdown.js");
        document.body.replaceChildren(markdown(text));
        return [...document.querySelectorAll("p, ul, pre")].map((node) => [node.tagName,
          getComputedStyle(node).direction]);
    }"""
    found = modules.evaluate(script, "שלום עולם\n\nhello\n\n- שלום\n- b\n\n```\nx\n```")
    assert found == [["P", "rtl"], ["P", "ltr"], ["UL", "rtl"], ["PRE", "ltr"]]


@pytest.mark.parametrize(
    "piece",
    [
        "*",
        "_a",
        "`",
        "[",
        "[a](",
        "> ",
        "- ",
        "  - ",
        "|",
        "\\",
        "**a",
        "1. ",
        "```\n",
        "# ",
        "~~",
        "![",
        "h",
        "$",
        "$$",
        "\\(",
        "$a",
        "a](",
        "<b>",
        "<",
        "|a|\n|-|\n",
        "www.",
        "http://",
        "a@",
    ],
)
def test_hostile_markdown_comes_to_an_end(piece: str, modules: Page) -> None:
    script = """async (text) => {
        const { markdown } = await import("/js/markdown.js");
        const { presentable } = await import("/js/markdown/unfinished.js");
        presentable(text);
        return markdown(text).querySelectorAll("script, img, iframe, style").length;
    }"""
    for text in (piece * (20_000 // len(piece)), "\n".join([piece] * 3000)):
        assert modules.evaluate(script, text) == 0  # exponential work would not end
