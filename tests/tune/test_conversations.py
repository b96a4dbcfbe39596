"""Rows of every shape become conversations; what is wrong with one is said with file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from newleaf.data.stdlib_chat import documented_objects, stdlib_chat
from newleaf.errors import InputError
from newleaf.tune.conversations.conversation_formats import to_conversation
from newleaf.tune.conversations.conversation_rows import read_rows
from newleaf.tune.conversations.pairs import to_pair
from newleaf.tune.conversations.read_examples import Findings, Reading

TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
CALL = {"name": "weather", "arguments": {"town": "Rome"}}


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"messages": TALK}, "OpenAI's"),
        (
            {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]},
            "ShareGPT's",
        ),
        ({"conversations": TALK}, "ShareGPT's"),
        ({"instruction": "Hello", "input": "", "output": "Hi!"}, "Alpaca's"),
        ({"instruction": "Hello", "output": "Hi!", "input": None}, "Alpaca's"),
        ({"prompt": "Hello", "completion": "Hi!"}, "prompt and completion"),
        ({"prompt": TALK[:1], "completion": TALK[1:]}, "prompt and completion"),
        ({"prompt": "Hello", "response": "Hi!"}, "prompt and response"),
        ({"prompt": "Hello", "references": ["Hi!", "Hey!"]}, "prompt and references"),
        ({"question": "Hello", "answer": "Hi!"}, "question and answer"),
        ({"title": "x", "text": "Hello", "summary": "Hi!"}, "text and summary"),
    ],
)
def test_every_shape_is_told_and_becomes_the_same_conversation(row: dict[str, Any], shape: str) -> None:
    found = to_conversation(row, "f:1")
    assert (found.messages, found.shape) == (TALK, shape)


def test_fields_of_the_shapes_are_kept() -> None:
    shared = {
        "system": "Be brief.",
        "tools": json.dumps([{"name": "weather"}]),
        "conversations": [
            {"from": "human", "value": "Rain?"},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": ""},
            {"from": "gpt", "value": "No."},
        ],
    }
    found = to_conversation(shared, "f:1")
    assert [message["role"] for message in found.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert found.messages[2]["tool_calls"][0]["function"] == CALL
    assert found.tools == [{"name": "weather"}]
    openai = [
        TALK[0],
        {
            "role": "assistant",
            "tool_calls": [{"function": CALL | {"arguments": json.dumps(CALL["arguments"])}}],
            "weight": 0,
        },
    ]
    found = to_conversation({"messages": openai}, "f:1", system="Be kind.")
    assert found.messages[0] == {"role": "system", "content": "Be kind."}
    assert found.messages[2]["tool_calls"][0]["function"] == CALL
    assert found.said_by_assistant() == []
    alpaca = {
        "system": "S",
        "instruction": "Add",
        "input": "1, 2",
        "output": "3",
        "history": [["Hello", "Hi!"]],
    }
    assert [message["content"] for message in to_conversation(alpaca, "f:1").messages] == [
        "S",
        "Hello",
        "Hi!",
        "Add\n\n1, 2",
        "3",
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([1], "must be a JSON object"),
        (
            {"body": "x"},
            "no conversation; it has the fields body, and known are OpenAI's: messages; ShareGPT's",
        ),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role: 'robot' is not one of"),
        ({"messages": []}, "messages: is empty"),
        ({"messages": [TALK[0], {"role": "assistant", "content": " \n"}]}, "messages[1].content: is empty"),
        ({"messages": [{"role": "user", "content": ""}, TALK[1]]}, "messages[0].content: is empty"),
        (
            {"conversations": [{"from": "alien", "value": "x"}]},
            "conversations[0].from: 'alien' is not one of human",
        ),
        ({"conversations": [{"from": "human", "value": 1}]}, "conversations[0].value: must be text"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "must be valid JSON"),
        ({"instruction": "x", "output": ""}, "messages[1].content: is empty"),
        ({"prompt": "x", "references": []}, "references: must be a list of texts"),
        ({"messages": TALK, "tools": "{"}, "tools: is not valid JSON"),
        ({"messages": TALK, "tools": {"a": 1}}, "tools: must be a list"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(row: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        to_conversation(row, "talks.jsonl:7")
    assert str(caught.value).startswith("talks.jsonl:7: ")
    assert said in str(caught.value)


def test_files_of_lines_and_of_lists_are_read_also_when_packed(tmp_path: Path) -> None:
    rows = [{"messages": TALK}, {"prompt": "Hello", "response": "Hi!"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text("\ufeff" + text + "\n", "utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.json").write_text(json.dumps(rows), "utf-8")
    for name, where in (("a.jsonl", "a.jsonl:2"), ("b.jsonl.gz", "b.jsonl.gz:2"), ("c.json", "c.json row 2")):
        found = list(read_rows([str(tmp_path / name)]))
        assert [row.read() for row in found] == rows
        assert found[1].where == str(tmp_path / where)
    findings = Findings()
    talks = list(Reading(100).conversations([str(tmp_path / "a.jsonl"), str(tmp_path / "c.json")], findings))
    assert [talk.messages for talk in talks] == [TALK] * 4
    assert findings.sentences()[0] == "Read 2 conversations in OpenAI's format."


def test_a_broken_line_names_its_place_or_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps({"messages": TALK})
        + "\n"
        + json.dumps({"messages": [{"role": "x", "content": "y"}]})
        + "\n{\n",
        "utf-8",
    )
    with pytest.raises(
        InputError,
        match=r"a\.jsonl:2: messages\[0\]\.role: 'x' is not .*--data\.on_error skip leaves such rows out",
    ):
        list(Reading(100).conversations([str(path)], Findings()))
    findings = Findings()
    assert len(list(Reading(100, on_error="skip").conversations([str(path)], findings))) == 1
    assert findings.left_out == {"bad": 2}
    assert ":2: messages[0].role" in (findings.first or "")
    for name in ("nothing.jsonl", "nothing.json", "newleaf:nothing"):
        with pytest.raises(InputError, match="nothing"):
            list(read_rows([str(tmp_path / name) if "." in name else name]))


PAIRS = [
    {"prompt": "Hello", "chosen": "Hi!", "rejected": "No."},
    {"prompt": TALK[:1], "chosen": TALK[1:], "rejected": [{"role": "assistant", "content": "No."}]},
    {"chosen": TALK, "rejected": [TALK[0], {"role": "assistant", "content": "No."}]},
    {"prompt": "Hello", "chosen": TALK, "rejected": [TALK[0], {"role": "assistant", "content": "No."}]},
    {
        "input": {"messages": TALK[:1]},
        "preferred_output": TALK[1:],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    },
]


@pytest.mark.parametrize("row", PAIRS)
def test_pairs_of_every_shape_become_two_conversations_of_which_the_end_is_judged(
    row: dict[str, Any],
) -> None:
    pair = to_pair(row, "f:1")
    assert pair.chosen.messages == TALK
    assert pair.rejected.messages == [TALK[0], {"role": "assistant", "content": "No."}]
    assert pair.chosen.said_by_assistant() == pair.rejected.said_by_assistant() == [1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Hello", "chosen": "Hi!", "rejected": "Hi!"}, "chosen and rejected are the same"),
        ({"chosen": TALK, "rejected": TALK}, "chosen and rejected are the same"),
        ({"prompt": "Hello", "chosen": "Hi!", "rejected": " "}, "rejected: messages[1].content: is empty"),
        ({"prompt": "Hello", "chosen": "Hi!"}, "no pair; it has the fields prompt, chosen"),
        ({"chosen": "Hi!", "rejected": "No."}, "no beginning in common; give a prompt"),
        (
            {"chosen": TALK, "rejected": TALK[:1]},
            "rejected: must end with an answer of the assistant, not of user",
        ),
    ],
)
def test_a_bad_pair_is_refused_with_its_place(row: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        to_pair(row, "pairs.jsonl:3")
    assert str(caught.value).startswith("pairs.jsonl:3: ")
    assert said in str(caught.value)


def test_the_standard_library_makes_conversations_that_are_the_same_each_time() -> None:
    source = (
        '"""About numbers and so on."""\ndef add(a, /, b: int = 1, *c) -> int:\n    """Add two '
        'numbers, and more."""\n    return a + b\n'
    )
    module, add = documented_objects(source, "numbers")
    assert (module.name, module.doc, module.call) == ("numbers", "About numbers and so on.", "")
    assert add.call == "numbers.add(a, /, b: int=1, *c) -> int"
    assert add.code == source.partition("\n")[2].rstrip()
    held_out = list(stdlib_chat(held_out=True))
    assert held_out == list(stdlib_chat(held_out=True))
    assert len(held_out) > 100
    for row in held_out:
        talk = to_conversation(row, row["about"])
        assert [message["role"] for message in talk.messages] == ["user", "assistant"] * (
            len(talk.messages) // 2
        )


def test_miniminds_rows_keep_their_tools_and_calls() -> None:
    """Tools as JSON text in the system message, calls as JSON text of bare names and arguments."""
    tool = {
        "type": "function",
        "function": {
            "name": "look",
            "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
        },
    }
    rows = [
        {"role": "system", "content": "You may look.", "tools": json.dumps([tool])},
        {"role": "user", "content": "What is it?", "tools": ""},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": json.dumps([{"name": "look", "arguments": {"what": "it"}}]),
        },
        {"role": "tool", "content": "a leaf"},
        {"role": "assistant", "content": "A leaf.", "tool_calls": ""},
    ]
    for name in ("conversations", "messages"):
        found = to_conversation({name: rows}, "a:1")
        assert found.tools == [tool]
        assert found.messages[0] == {"role": "system", "content": "You may look."}
        assert found.messages[2]["tool_calls"] == [
            {"type": "function", "function": {"name": "look", "arguments": {"what": "it"}}}
        ]
        assert "tool_calls" not in found.messages[4]
    assert to_conversation({"messages": rows, "tools": [tool]}, "a:1").tools == [tool]
    for bad, said in (
        (
            {"messages": rows, "tools": [{"type": "function", "function": {"name": "other"}}]},
            "a:1: tools: the row and its system message",
        ),
        (
            {"messages": [rows[0] | {"tools": "[{"}, *rows[1:]]},
            r"a:1: messages\[0\].tools: is not valid JSON",
        ),
        (
            {"messages": [*rows[:2], rows[2] | {"tool_calls": "look()"}]},
            r"a:1: messages\[2\].tool_calls: is not valid JSON",
        ),
    ):
        with pytest.raises(InputError, match=said):
            to_conversation(bad, "a:1")
