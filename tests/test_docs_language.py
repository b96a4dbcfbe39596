"""README and docs use the field's terms, and name files that exist."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.prose import sentences

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "newleaf"
GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = [
    *sorted(ROOT.glob("README*.md")),
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").glob("*.md") if page != GLOSSARY),
]

# Words that newleaf used before, as patterns of whole words, and the terms that took their place.
RETIRED = {
    r"slopes": "gradients",
    r"portions?": "micro-batch, or chunk",
    r"guesser|guesses": "speculator, or proposals",
    r"chooser": "sampler",
    r"(?<!log )odds(?! ratios?)": "acceptance rate",
    r"crew": "thread pool",
    r"strands?": "layer group",
    r"heeds?": "check_stop, or respect",
    r"errands?": "engine task",
    r"bystanders?": "read_only_folder",
    r"spool(s|ed|ing)?": "text store",
    r"(?<!of )courses?": "objective",
    r"examiners?": "evaluator",
    r"wears?|wearing": "set_adapter",
    r"puts? away": "evict",
    r"look-ups?": "lookup",
    r"closing look": "final validation",
    r"KernelSlots|NetworkSlots": "LoweredExecutor, ModuleExecutor",
}
OUTPUT_FOLDERS = {"state/", "adapter/", "tensorboard/", "wandb/"}  # of a run, not of this repository


def retired_words(text: str) -> Iterator[str]:
    for pattern, term in RETIRED.items():
        for match in re.finditer(rf"(?<![\w-])({pattern})(?![\w-])", text, re.IGNORECASE):
            yield f"line {text[: match.start()].count(chr(10)) + 1}: '{match[0]}'; the term is: {term}"


def prose_in(path: Path) -> Iterator[tuple[int, str]]:
    """Comments, and strings with a space (messages, help texts, docstrings), with their lines.

    Strings of one word are left out: they are keys, and old names that are still accepted.
    """
    text = path.read_text("utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_holds_no_retired_word(page: Path) -> None:
    assert list(retired_words(page.read_text("utf-8"))) == []


def test_messages_help_texts_docstrings_and_comments_hold_no_retired_word() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in prose_in(path)
        for word in retired_words(text)
    ]
    assert found == []


def test_a_retired_word_is_found_with_its_term_and_part_of_a_word_is_not() -> None:
    found = list(retired_words("Of course.\nA crew; screws, proportions and seventy-odd are other words."))
    assert found == ["line 2: 'crew'; the term is: thread pool"]


def files_named(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w/.<:-])[A-Za-z_.][\w./-]*\.(?:py|toml)\b(?!/)", text))


def folders_named(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w/.<:-])(?:[a-z_]+/)+(?![\w*])", text)) - OUTPUT_FOLDERS


def exists(name: str) -> bool:
    return any((folder / name).exists() for folder in (PACKAGE, ROOT, ROOT / "tests", ROOT / "docs"))


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def tree_entries(tree: str) -> Iterator[str]:
    """Files and folders that a tree lists, as paths: an indented line lies in the folder above it."""
    floor = ""
    for line in tree.splitlines():
        names = re.match(r"(?:\s*[\w]+(?:/|\.py)(?=\s))+", line)
        assert names is not None, line
        if not line.startswith(" "):
            floor = names[0].split()[0]
        for name in names[0].split():
            yield floor + name if line.startswith(" ") else name


def test_every_file_and_folder_that_architecture_names_exists() -> None:
    before, tree, rest = ARCHITECTURE.split("```", 2)
    named = {*tree_entries(tree.strip()), *files_named(before + rest), *folders_named(before + rest)}
    assert len(named) > 150
    assert sorted(name for name in named if not exists(name)) == []


def test_every_room_of_a_large_floor_is_in_architectures_tree() -> None:
    listed = set(tree_entries(ARCHITECTURE.split("```")[1].strip()))
    floors = [path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]
    large = ["generate", "serve", "train", "tune"]
    rooms = [room for name in large for room in (PACKAGE / name).iterdir() if (room / "__init__.py").exists()]
    assert {f"{path.relative_to(PACKAGE).as_posix()}/" for path in [*floors, *rooms]} - listed == set()


LAYERS = [
    contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    if contract["type"] == "layers"
]


@pytest.mark.parametrize("contract", LAYERS, ids=lambda contract: contract["containers"][0])
def test_architectures_tree_has_the_order_of_the_import_contracts(contract: dict[str, list[str]]) -> None:
    folder = "/".join(contract["containers"][0].split(".")[1:]) + "/"
    rank = {name: n for n, layer in enumerate(contract["layers"]) for name in re.findall(r"\w+", layer)}
    entries = list(tree_entries(ARCHITECTURE.split("```")[1].strip()))
    inside = [entry.removeprefix(folder) for entry in entries if folder == "/" or entry.startswith(folder)]
    names = [entry.strip("/").removesuffix(".py") for entry in inside]
    ranks = [(rank[name], name) for name in names if name in rank]
    assert ranks == sorted(ranks, key=lambda pair: pair[0])


@pytest.mark.parametrize("walk", ["text", "prompt", "request"])
def test_each_walk_has_a_drawing_and_each_of_its_steps_names_a_file(walk: str) -> None:
    section = ARCHITECTURE.split(f"What happens to a {walk}\n", 1)[1].split("\n## ", 1)[0]
    assert "```" in section
    steps = re.findall(r"^\d+\. .*(?:\n {3}.*)*", section, re.MULTILINE)
    assert len(steps) >= 7
    assert [step for step in steps if not files_named(step)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_file_that_a_page_names_exists(page: Path) -> None:
    """By its path in the package, the tests or the repository, or by its name alone."""
    names = {
        path.name
        for folder in ("src", "tests", "tools", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    named = files_named(page.read_text("utf-8"))
    assert sorted(name for name in named if not (exists(name) or name in names)) == []


def test_sentences_are_counted_without_code_tables_and_headings() -> None:
    text = (
        "# A heading\n\nOne `a b c` two, see [the page](a/b.md). Three\nfour et al. 2020.\n\n| a | b "
        "|\n```\nx y\n```\n- Five."
    )
    assert [(found.line, found.words) for found in sentences(text)] == [(3, 6), (3, 5), (10, 1)]


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, GLOSSARY], ids=lambda page: page.name)
def test_a_pages_links_lead_to_files_and_headings(page: Path) -> None:
    wrong = []
    for target, anchor in re.findall(
        r"\]\((?!https?:|mailto:)([^)#\s]*)#?([^)\s]*)\)", page.read_text("utf-8")
    ):
        found = page.parent / target if target else page
        if not found.exists() or (anchor and anchor not in anchors(found.read_text("utf-8"))):
            wrong.append(f"{target}#{anchor}")
    assert wrong == []
