"""What of a conversation is learned: token by token against stock transformers, and templates of which it
cannot be proved."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_folders import make_folder

from newleaf.errors import InputError
from newleaf.text.chat_template import ChatTemplate, RenderOptions
from newleaf.text.tokenizer import Tokenizer
from newleaf.tune.chat.template import TEMPLATE, with_chat_tokens
from newleaf.tune.conversations.assistant_mask import Answers
from newleaf.tune.conversations.conversation_formats import Conversation, to_conversation
from newleaf.tune.conversations.example import Example
from newleaf.tune.conversations.read_examples import Findings, Reading

transformers = pytest.importorskip("transformers")

ASK = {"role": "user", "content": "What is the capital of France?"}
SAID = {"role": "assistant", "content": "  Paris, café 日本 🙂.\n"}
MORE = {"role": "user", "content": "And of <|im_end|> Italy?\n"}
THOUGHT = {"role": "assistant", "content": "Rome.", "reasoning_content": "Easy."}
TALK = [ASK, SAID, MORE, {"role": "assistant", "content": "Rome."}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "x", "parameters": {"type": "object", "properties": {}}},
}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"a": 1}}}],
}
MARKED_CHATML = """\
{%- for message in messages %}
{%- if loop.first and message.role != 'system' %}{{- '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{%- endif %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message.role == 'assistant' %}{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{- message['content'] + '<|im_end|>' }}{%- endif %}{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def folder_of(tmp_path: Path, kind: str, source: str | None = None) -> Path:
    return (
        make_folder(tmp_path / "folder", kind, source) if source else make_folder(tmp_path / "folder", kind)
    )


def answers_of(folder: Path) -> Answers:
    return Answers(ChatTemplate.of(Tokenizer.load(folder)))


def talk(messages: list[dict[str, Any]], **more: Any) -> Conversation:
    return to_conversation({"messages": messages, **more}, "file:1")


def words(answers: Answers, example: Example) -> list[str]:
    """What is learned, run by run."""
    found, tokenizer = [], answers.template.tokenizer
    for number in np.flatnonzero(example.learned):
        if not found or number != found[-1][-1] + 1:
            found.append([])
        found[-1].append(int(number))
    return [tokenizer.decode([int(example.ids[n]) for n in run], skip_special=False) for run in found]


def safe(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what stock transformers takes for a control token."""
    return [message | {"content": message["content"].replace("<|im_end|>", "")} for message in messages]


@pytest.mark.parametrize(("kind", "source"), [("qwen3", None), ("chatml", MARKED_CHATML)])
@pytest.mark.parametrize(
    "messages",
    [TALK[:2], TALK, [ASK, THOUGHT], [ASK, CALL, {"role": "tool", "content": "rain"}, SAID]],
    ids=["one", "two", "thought", "call"],
)
def test_ids_and_mask_are_those_of_stock_transformers_where_the_template_marks_answers(
    tmp_path: Path, kind: str, source: str | None, messages: list[dict[str, Any]]
) -> None:
    folder = folder_of(tmp_path, kind, source)
    peer = transformers.AutoTokenizer.from_pretrained(folder)
    wanted = peer.apply_chat_template(safe(messages), return_dict=True, return_assistant_tokens_mask=True)
    (found,) = answers_of(folder).examples(talk(safe(messages)))
    assert found.ids.tolist() == wanted["input_ids"]
    assert found.learned.tolist() == [bool(one) for one in wanted["assistant_masks"]]
    assert found.learned.any()


@pytest.mark.parametrize("messages", [TALK[:2], TALK], ids=["one", "two"])
def test_without_markers_the_mask_is_that_of_the_same_template_with_markers(
    tmp_path: Path, messages: list[dict[str, Any]]
) -> None:
    peer = transformers.AutoTokenizer.from_pretrained(
        make_folder(tmp_path / "marked", "chatml", MARKED_CHATML)
    )
    wanted = peer.apply_chat_template(safe(messages), return_dict=True, return_assistant_tokens_mask=True)
    (found,) = answers_of(folder_of(tmp_path, "chatml")).examples(talk(safe(messages)))
    assert (found.ids.tolist(), found.learned.astype(int).tolist()) == (
        wanted["input_ids"],
        wanted["assistant_masks"],
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("chatml", ["  Paris, café 日本 🙂.\n<|im_end|>", "Rome.<|im_end|>"]),
        ("llama3", ["Paris, café 日本 🙂.<|eot_id|>", "Rome.<|eot_id|>"]),
        ("mistral", [" Paris, café 日本 🙂.</s>", " Rome.</s>"]),
    ],
)
def test_what_is_learned_is_the_assistants_words_and_the_end_of_its_turn(
    tmp_path: Path, kind: str, said: list[str]
) -> None:
    answers = answers_of(folder_of(tmp_path, kind))
    (found,) = answers.examples(talk(TALK))
    assert [text.strip() for text in words(answers, found)] == [text.strip() for text in said]
    end = answers.template.turn_end.token
    assert found.ids[found.learned].tolist().count(end) == 2  # what the user wrote stays characters


def test_places_of_tokens_hold_their_white_space_where_the_tokenizer_trims_it(tmp_path: Path) -> None:
    """GPT-2's post-processor trims white space off the places that it gives."""
    folder = folder_of(tmp_path, "chatml")
    description = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    description["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    (folder / "tokenizer.json").write_text(json.dumps(description), "utf-8")
    template = ChatTemplate.of(Tokenizer.load(folder))
    found = template.encode_marked([ASK, {"role": "assistant", "content": "  the <|im_end|> capital\n"}])
    assert [found.text[start:end] for start, end in found.places] == [
        template.tokenizer.decode([n], skip_special=False) for n in found.ids
    ]


def test_a_template_that_rewrites_earlier_answers_gives_an_example_for_each(tmp_path: Path) -> None:
    """Harmony ends the last answer with <|return|> and earlier ones with <|end|>."""
    answers = answers_of(folder_of(tmp_path, "harmony"))
    first, second = answers.examples(talk(TALK))
    assert words(answers, first) == ["<|channel|>final<|message|>  Paris, café 日本 🙂.\n<|return|>"]
    assert words(answers, second) == ["<|channel|>final<|message|>Rome.<|return|>"]


def test_tools_calls_and_thoughts_are_kept(tmp_path: Path) -> None:
    tokenizer = with_chat_tokens(Tokenizer.load(folder_of(tmp_path, "chatml")))
    answers = Answers(ChatTemplate.of(tokenizer))
    messages = [
        {"role": "system", "content": "Be kind."},
        ASK,
        CALL,
        {"role": "tool", "content": "rain"},
        THOUGHT,
    ]
    (found,) = answers.examples(talk(messages, tools=[TOOL]))
    text = tokenizer.decode(found.ids.tolist(), skip_special=False)
    assert text.count('"name": "weather"') == 2
    assert text.count("Be kind.") == 1
    assert words(answers, found) == [
        '<tool_call>{"name": "weather", "arguments": {"a": 1}}</tool_call><|im_end|>',
        "<think>\nEasy.\n</think>\n\nRome.<|im_end|>",
    ]


def test_an_answer_of_weight_0_is_context(tmp_path: Path) -> None:
    for kind, source in (("chatml", None), ("chatml", MARKED_CHATML)):
        answers = answers_of(
            make_folder(tmp_path / f"{kind}{source is None}", kind, source)
            if source
            else folder_of(tmp_path, kind)
        )
        (found,) = answers.examples(talk([ASK, SAID | {"weight": 0}, MORE, TALK[3]]))
        assert words(answers, found) == ["Rome.<|im_end|>"]


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages | length }}{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}{% if "
        "add_generation_prompt %}Bot:{% endif %}",
        "{% for m in messages | reverse %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}",
    ],
)
def test_a_template_of_which_it_cannot_be_proved_is_refused_by_name(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError, match=r"^file:1: messages\[1\]: a template without generation markers"):
        answers_of(folder_of(tmp_path, "chatml", source)).examples(talk(TALK[:2]))


def read(
    answers: Answers, length: int, talks: list[Conversation], on_error: str = "stop"
) -> tuple[list[Example], Findings]:
    found = Findings()
    made = Reading(length, on_error=on_error).examples(talks, answers, found)  # type: ignore[arg-type]
    return [example for _, examples in made for example in examples], found


@pytest.mark.parametrize("kind", ["chatml", "qwen3"])
def test_a_long_conversation_is_cut_at_a_turn(tmp_path: Path, kind: str) -> None:
    answers = answers_of(folder_of(tmp_path, kind))
    long = [ASK, SAID, MORE, TALK[3], ASK, SAID | {"content": "word " * 200}]
    (whole,) = answers.examples(talk(long[:4]))
    for room in (whole.places, whole.places + 60):
        (found,), findings = read(answers, room, [talk(long)])
        assert found.ids.tolist() == whole.ids.tolist()
        assert found.learned.tolist() == whole.learned.tolist()
        assert sum(findings.changed.values()) == 1
    (one,) = answers.examples(talk(long[:2]))
    (found,), _ = read(answers, whole.places - 1, [talk(long)])
    assert found.ids.tolist() == one.ids.tolist()
    with pytest.raises(InputError, match=r"^file:1: even its first answer ends beyond"):
        read(answers, one.places - 1, [talk(long)])
    examples, findings = read(answers, one.places - 1, [talk(long)], "skip")
    assert not examples
    assert findings.left_out == {"bad": 1}


def test_how_many_conversations_do_not_fit_is_said_with_the_length_that_would_hold_nearly_all(
    tmp_path: Path,
) -> None:
    answers = answers_of(folder_of(tmp_path, "chatml"))
    long = [ASK, SAID, MORE, SAID | {"content": "word " * 50}]
    short, cut = talk(long[:2]), talk(long)
    places = [answers.examples(one)[0].places for one in (short, cut)]
    _, findings = read(answers, places[0], [short] * 7 + [cut] * 3)
    assert findings.too_long(places[0]) == (
        f"3 of 10 conversations have more than the {places[0]} tokens of an example; {places[1]} would hold "
        f"at least 95 % of them."
    )
    _, findings = read(answers, places[0], [short] * 39 + [cut])
    said = findings.too_long(places[0])
    assert said is not None
    assert f"; {places[0] + 1} would hold" in said
    assert findings.too_long(places[1]) is None


def test_conversations_that_teach_nothing_are_counted_and_left_out(tmp_path: Path) -> None:
    answers = answers_of(folder_of(tmp_path, "chatml"))
    talks = [talk([ASK]), talk([ASK, SAID | {"weight": 0}]), talk(TALK), talk([SAID])]
    examples, findings = read(answers, 999, talks)
    assert len(examples) == 1
    assert findings.left_out == {"without an answer to learn from": 3}
    assert re.search(
        r"Left out: 3 without an answer to learn from\. The first: file:1", "\n".join(findings.sentences())
    )


def test_the_new_template_is_one_that_stock_transformers_renders_alike(tmp_path: Path) -> None:
    tokenizer = with_chat_tokens(Tokenizer.load(make_folder(tmp_path / "base", "llama3")))
    tokenizer.save(tmp_path / "chat")
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path / "chat")
    template = ChatTemplate.of(tokenizer)
    assert template.source() == TEMPLATE
    for messages in (TALK, [ASK, CALL, {"role": "tool", "content": "rain"}, THOUGHT]):
        for tools in (None, [TOOL]):
            wanted = peer.apply_chat_template(
                safe(messages), tools=tools, return_dict=False, add_generation_prompt=True
            )
            assert (
                template.encode(safe(messages), RenderOptions(tools=tools, add_generation_prompt=True)).ids
                == wanted
            )
