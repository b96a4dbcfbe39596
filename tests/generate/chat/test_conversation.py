"""Answers: where they end, what they are made of, and what is read again from turn to turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_folders import make_chat_model, make_folder

import newleaf
from newleaf.api import Model
from newleaf.errors import InputError
from newleaf.generate.chat.answering import Answerer, gather
from newleaf.generate.kernels.layout import PAGE
from newleaf.generate.options import TextOptions
from newleaf.generate.text.text_state import Piece
from newleaf.model import GPT, GPTConfig
from newleaf.text.chat_template import RenderOptions
from newleaf.text.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return newleaf.load(make_chat_model(tmp_path_factory.mktemp("chat") / "model", context=512))


class Scripted(GPT):
    """Writes these ids one after the other, whatever it reads, and counts what it read."""

    def __init__(self, config: GPTConfig, script: list[int]) -> None:
        super().__init__(config)
        self.script, self.place, self.read = script, 0, 0

    def hidden(self, ids: torch.Tensor, **options: object) -> torch.Tensor:
        self.read += ids.shape[1]
        return super().hidden(ids, **options)  # type: ignore[arg-type]


def scripted(tmp_path: Path, kind: str, text: Callable[[Tokenizer], list[int]], **defaults: object) -> Model:
    tokenizer = Tokenizer.load(make_folder(tmp_path / kind, kind))
    network = Scripted(GPTConfig(tokenizer.vocab_size, 512, 1, 2, 16), text(tokenizer)).eval()

    def write_next(_: torch.nn.Module, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        token = network.script[network.place % len(network.script)]
        network.place += 1
        return torch.full_like(logits, -100.0).index_fill(-1, torch.tensor([token]), 100.0)

    network.head.register_forward_hook(write_next)
    return Model(network, tokenizer, "newleaf", defaults)


def ids_of(tokenizer: Tokenizer, *parts: str) -> list[int]:
    """Parts that are tokens as tokens, others as text."""
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=True)
    return [
        number
        for part in parts
        for number in ([vocabulary[part]] if part in vocabulary else tokenizer.encode(part))
    ]


def test_an_answer_ends_at_any_of_the_named_tokens(tmp_path: Path) -> None:
    for end in ("<|endoftext|>", "<|im_end|>", "<|im_start|>"):
        found = scripted(tmp_path, "chatml", lambda t, end=end: ids_of(t, "Paris", end, "more"))
        found.defaults["eos_token_id"] = ids_of(found.tokenizer, "<|endoftext|>", "<|im_start|>")
        reply = found.reply(HELLO, speculation="off")
        assert (reply.content, reply.end) == ("Paris", "end")
    folder = tmp_path / "saved"
    found.save(folder)
    assert (
        json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
        == found.defaults["eos_token_id"]
    )
    assert newleaf.load(folder).end_ids == found.end_ids
    found.__dict__.pop("end_ids")
    found.defaults["eos_token_id"] = "none"
    with pytest.raises(InputError, match="eos_token_id must be a token's number"):
        found.chat(HELLO)


def test_thoughts_come_apart_from_the_answer(tmp_path: Path) -> None:
    qwen = scripted(
        tmp_path,
        "qwen3",
        lambda t: ids_of(t, "<think>", "\nIt is 4.\n", "</think>", "\n\nFour.", "<|im_end|>"),
    )
    reply = qwen.reply([{"role": "user", "content": "2 + 2?"}])
    assert (reply.reasoning, reply.content, reply.end) == ("It is 4.", "Four.", "end")
    parts = (
        "<|channel|>",
        "analysis",
        "<|message|>",
        "It is 4.",
        "<|end|>",
        "<|start|>",
        "assistant",
        "<|channel|>",
        "final",
        "<|message|>",
        "Four.",
    )
    harmony = scripted(tmp_path, "harmony", lambda t: ids_of(t, *parts, "<|return|>"))
    reply = harmony.reply([{"role": "user", "content": "2 + 2?"}], speculation="off")
    assert (reply.reasoning, reply.content, reply.end, reply.tokens) == (
        "It is 4.",
        "Four.",
        "end",
        len(harmony.network.script),
    )
    harmony.network.place = 0
    assert "".join(harmony.chat_stream(HELLO)) == "Four."
    assert reply.message == {"role": "assistant", "content": "Four.", "reasoning_content": "It is 4."}


def test_a_conversation_reads_only_what_is_new(tmp_path: Path) -> None:
    model = scripted(tmp_path, "chatml", lambda t: ids_of(t, "Paris", ".", "<|im_end|>"))
    talk, network, template = model.conversation(), model.network, model.chat_template
    gather(talk.say("What is the capital of France?", speculation="off"))
    first = network.read
    before = [
        *template.encode(talk.messages[:1], RenderOptions(add_generation_prompt=True)).ids,
        *network.script[:-1],
    ]
    assert first == len(before)
    assert "".join(piece.text for piece in talk.say("And of Italy?", speculation="off")) == "Paris."
    prompt = template.encode(talk.messages[:3], RenderOptions(add_generation_prompt=True)).ids
    assert prompt[: len(before)] == before
    assert len(before) >= PAGE  # whole pages are shared
    assert network.read - first == len(prompt) - len(before) // PAGE * PAGE + len(network.script) - 1


def test_an_answer_from_memory_is_that_of_a_fresh_reading(model: Model) -> None:
    """Also after turns were taken back, broken off and rewritten."""
    options: TextOptions = {"max_tokens": 12, "temperature": 0}
    talk = model.conversation("Be brief.")
    for text in ("One", "Two"):
        gather(talk.say(text, **options))
    talk.undo()
    broken = talk.say("Another second", **options)
    next(broken)
    broken.close()
    talk.set_system("Be long.")
    found = gather(talk.say("Third", **options))
    assert found == model.reply(talk.messages[:-1], max_tokens=12, temperature=0)


class Overheard:
    """Keeps the last prompt."""

    def __init__(self, writer: Answerer) -> None:
        self.writer, self.prompt = writer, list[int]()

    def answer(self, prompt: Sequence[int], *rest: Any) -> Iterator[tuple[Piece, int]]:
        self.prompt = list(prompt)
        return self.writer.answer(prompt, *rest)


def test_the_system_message_stays_when_old_turns_go(model: Model) -> None:
    talk = model.conversation("Be brief.")
    talk.writer = writer = Overheard(talk.writer)
    for number in range(12):
        gather(
            talk.say(f"Message number {number} of many, which is long.", max_tokens=10, min_tokens=10, seed=1)
        )
    assert 0 < talk.forgotten < 22
    assert len(talk.messages) == 25
    shown = model.tokenizer.decode(writer.prompt, skip_special=False)
    assert "Be brief." in shown
    assert "number 0" not in shown
    assert "number 11" in shown


def test_an_answer_never_outgrows_the_context_and_says_where_it_was_full(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    reply = model.reply(HELLO, max_tokens=10**6, min_tokens=10**6, temperature=1, seed=1)
    prompt = model.chat_template.encode(HELLO, RenderOptions(add_generation_prompt=True)).ids
    assert (reply.end, reply.tokens) == ("context", 512 - len(prompt))
    assert (
        f"the answer ends after {reply.tokens} tokens, where the model's context of 512 tokens was full"
        in caplog.text
    )
    caplog.clear()
    exact = model.reply(HELLO, max_tokens=reply.tokens, min_tokens=reply.tokens, temperature=1, seed=1)
    assert (exact.end, exact.content, caplog.text) == ("length", reply.content, "")
    with pytest.raises(InputError, match="leaves no room for an answer: the context is 512"):
        model.chat([{"role": "user", "content": "x" * 600}])
    with pytest.raises(InputError, match="did you mean temperature"):
        model.chat(HELLO, temprature=1)
    with pytest.raises(InputError, match="beams: is for continuing a text"):
        model.chat(HELLO, beams=2, temperature=0)


SPACED = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]
{%- else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"""  # Llama 2's own


@pytest.mark.parametrize(("said", "content"), [(" is it", "is it"), ("is it", "is it"), ("   is", "  is")])
def test_the_templates_own_space_is_no_part_of_an_answer(tmp_path: Path, said: str, content: str) -> None:
    """What the template would write again before the answer, once: `apply_chat_template` of the answer is
    prompt and written text."""
    model = scripted(tmp_path, "mistral", lambda tokenizer: [*pieces_of(tokenizer, said), tokenizer.eos_id])
    model.use_template(SPACED)
    assert model.chat(HELLO) == content


def test_a_message_that_is_gone_on_with_keeps_the_space_that_comes_next(tmp_path: Path) -> None:
    model = scripted(
        tmp_path, "mistral", lambda tokenizer: [*pieces_of(tokenizer, " is it"), tokenizer.eos_id]
    )
    model.use_template(SPACED)
    begun = [*HELLO, {"role": "assistant", "content": "This"}]
    assert model.chat(begun, continue_final_message=True) == " is it"


@pytest.mark.parametrize("choice", [" is", "is"])
@pytest.mark.parametrize("prompt", ["What", ""])
def test_a_choice_is_one_of_the_list_whatever_the_tokenizer_does_with_spaces(
    tmp_path: Path, prompt: str, choice: str
) -> None:
    tokenizer = Tokenizer.load(make_folder(tmp_path / "mistral", "mistral"))
    model = Model(GPT(GPTConfig(tokenizer.vocab_size, 64, 1, 2, 16)).eval(), tokenizer, "newleaf")
    assert model.generate(prompt, choice=[choice], echo=True) == prompt + choice


def pieces_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text as it stands, without SentencePiece's space before it."""
    ids = tokenizer.encode("s" + text, special_tokens=False)
    assert tokenizer.decode(ids) == "s" + text
    return ids[len(tokenizer.encode("s", special_tokens=False)) :]
