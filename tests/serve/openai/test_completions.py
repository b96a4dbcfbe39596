"""Completions, embeddings, tokens, models and responses by the stock openai client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from server_process import Running, Start

import newleaf
from newleaf.text.chat_template import RenderOptions


def test_a_continuation_is_the_models_own(client: openai.OpenAI, models: Path) -> None:
    model = newleaf.load(models / "endless")
    expected = model.generate("What is", max_tokens=10, temperature=0.7, seed=5)
    options: Any = {"model": "endless", "max_tokens": 10, "temperature": 0.7, "seed": 5}
    got = client.completions.create(prompt="What is", **options)
    assert got.choices[0].text == expected
    ids = model.tokenizer.encode("What is")
    assert client.completions.create(prompt=ids, **options).choices[0].text == expected
    chunks = client.completions.create(prompt="What is", stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert client.completions.create(model="endless", prompt="What").usage.completion_tokens <= 16


def test_several_prompts_with_n_and_best_of_come_in_order(client: openai.OpenAI, models: Path) -> None:
    model = newleaf.load(models / "endless")
    got = client.completions.create(
        model="endless", prompt=["What", "The"], n=2, max_tokens=5, seed=1, temperature=1
    )
    assert [choice.index for choice in got.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in got.choices[:2]] == model.generate(
        "What", n=2, max_tokens=5, seed=1, temperature=1
    )
    best = client.completions.create(
        model="endless", prompt="What", n=1, best_of=4, max_tokens=5, seed=1, temperature=1
    )
    assert (
        best.choices[0].text == model.generate("What", n=1, best_of=4, max_tokens=5, seed=1, temperature=1)[0]
    )
    assert best.usage.completion_tokens == 20


def test_beams_and_guidance_are_the_models_own(client: openai.OpenAI, models: Path) -> None:
    """Their texts are compared with stock transformers' in tests/generate/batch/test_beam_search.py."""
    model = newleaf.load(models / "endless")
    options: Any = {"model": "endless", "prompt": "What is", "max_tokens": 12}
    wanted = model.generate("What is", n=3, beams=3, length_penalty=0.5, max_tokens=12)
    beams = {"use_beam_search": True, "length_penalty": 0.5}
    got = client.completions.create(n=3, extra_body=beams, **options)
    assert [choice.text for choice in got.choices] == wanted
    pieces = ["", "", ""]
    for chunk in client.completions.create(n=3, stream=True, extra_body=beams, **options):
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert pieces == wanted
    assert client.completions.create(best_of=3, extra_body=beams, **options).choices[0].text == wanted[0]
    guided = {"guidance_scale": 3.0, "negative_prompt": "The"}
    got = client.completions.create(temperature=0, extra_body=guided, **options)
    assert got.choices[0].text == model.generate("What is", max_tokens=12, temperature=0, **guided)
    for wrong, named in (
        ({"n": 9, **beams, **guided}, "n: beams of 18 sequences; this server generates 16"),
        ({"temperature": 1, **beams}, "temperature"),
        ({**guided, "negative_prompt": "The " * 5_000}, "negative_prompt: .* are too many"),
        ({**guided, "negative_prompt": "The " * 500_000}, "negative_prompt: .* bytes are too many"),
    ):
        with pytest.raises(openai.BadRequestError, match=named):
            client.completions.create(extra_body=wrong, **options)


def test_echo_scores_the_prompt_as_the_network_does(client: openai.OpenAI, models: Path) -> None:
    model = newleaf.load(models / "endless")
    text = "What is the capital of France?"
    ids = model.tokenizer.encode(text)
    got = client.completions.create(
        model="endless", prompt=text, echo=True, logprobs=2, max_tokens=1, temperature=0
    ).choices[0]
    with torch.no_grad():
        rows = model.network(torch.tensor([ids]))[0].log_softmax(-1)
    assert got.text.startswith(text)
    assert got.logprobs.token_logprobs[0] is None
    expected = [float(rows[place, token]) for place, token in enumerate(ids[1:])]
    assert got.logprobs.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-4)
    assert [
        text[at:].startswith(token)
        for token, at in zip(got.logprobs.tokens[: len(ids)], got.logprobs.text_offset, strict=False)
    ] == [True] * len(ids)
    assert max(got.logprobs.top_logprobs[1].values()) == pytest.approx(float(rows[0].max()), abs=1e-4)


@pytest.mark.parametrize("name", ["endless", "mistral"])
@pytest.mark.parametrize("as_ids", [False, True])
def test_text_offset_says_where_in_the_text_each_token_begins(
    client: openai.OpenAI, models: Path, name: str, as_ids: bool
) -> None:
    """Half of a character begins where the character does, and what a tokenizer puts before a text begins at
    0."""
    tokenizer = newleaf.load(models / name).tokenizer
    text = "ap 🤖 is[INST]"
    ids = tokenizer.encode(text)
    got = client.completions.create(
        model=name, prompt=ids if as_ids else text, echo=True, logprobs=0, max_tokens=4
    ).choices[0]
    offsets, at = got.logprobs.text_offset, 0
    assert got.text.startswith(text)
    for token, offset in zip(ids, offsets, strict=False):
        written = tokenizer.token_bytes(token)
        if at == 0 and name == "mistral":
            written = written.removeprefix(b" ")  # SentencePiece's own
        assert offset == len(text.encode()[:at].decode("utf-8", "ignore")), tokenizer.backend.id_to_token(
            token
        )
        at += len(written)
    assert at == len(text.encode())
    assert offsets[len(ids)] == len(text)
    robot = text.index("🤖")
    assert offsets.count(robot) >= 4  # one token for each byte


def test_tokenizing_a_conversation_counts_what_chat_reads(client: openai.OpenAI, server: Running) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"what":   "Paris"}'}}
    messages = [
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2 < 3"},
    ]
    for name in ("qwen3", "chatml"):
        read = client.chat.completions.create(model=name, messages=messages, max_tokens=1).usage.prompt_tokens
        assert server.post("/tokenize", model=name, messages=messages).json()["count"] == read


def test_prompts_that_do_not_fit_are_refused_with_openais_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="endless", prompt="a " * 9000)
    assert refused.value.code == "context_length_exceeded"
    for prompt in ([], [999999], [[1], []], ""):
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model="endless", prompt=prompt)


def test_embeddings_are_the_mean_of_the_last_hidden_states_scaled_to_length_1(
    client: openai.OpenAI, models: Path
) -> None:
    model = newleaf.load(models / "endless")
    texts = ["The capital of France", "2 < 3"]

    def embedded(**options: Any) -> torch.Tensor:
        got = client.embeddings.create(model="endless", input=texts, **options)
        assert got.usage.prompt_tokens == sum(len(model.tokenizer.encode(text)) for text in texts)
        return torch.tensor([each.embedding for each in got.data])

    with torch.no_grad():
        means = torch.stack(
            [model.network.hidden(torch.tensor([model.tokenizer.encode(text)]))[0].mean(0) for text in texts]
        )
    lengths = torch.linalg.vector_norm(means, dim=1, keepdim=True)
    # the client asks for base64
    torch.testing.assert_close(embedded(), means / lengths, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(embedded(encoding_format="float"), means / lengths, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(embedded(extra_body={"normalize": False}), means, atol=1e-5, rtol=1e-4)
    # OpenAI's guide: cut the vector, then divide by its length again.
    seven = means[:, :7] / torch.linalg.vector_norm(means[:, :7], dim=1, keepdim=True)
    torch.testing.assert_close(embedded(dimensions=7), seven, atol=1e-5, rtol=1e-4)
    for wrong in (0, 4097):
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model="endless", input="a", dimensions=wrong)


def test_tokens_go_both_ways(server: Running, models: Path) -> None:
    tokenizer = newleaf.load(models / "endless").tokenizer
    got = server.post("/tokenize", model="endless", prompt="capital 新叶", return_token_strs=True).json()
    assert got["tokens"] == tokenizer.encode("capital 新叶")
    assert got["count"] == len(got["token_strs"])
    assert server.post("/detokenize", model="endless", tokens=got["tokens"]).json() == {
        "prompt": "capital 新叶"
    }
    assert server.post("/detokenize", model="endless", tokens=[99999]).status_code == 400


def test_models_health_and_metrics_are_there(server: Running, client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list().data]
    assert names == ["chatml", "qwen3", "llama3", "harmony", "mistral", "endless"]
    assert client.models.retrieve("qwen3").id == "qwen3"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("qwen4")
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    assert httpx.get(f"{server.url}/ready").status_code == 200
    client.completions.create(model="endless", prompt="What", max_tokens=3)
    text = httpx.get(f"{server.url}/metrics").text
    assert 'newleaf_requests_total{route="/v1/completions",status="200"}' in text
    assert 'newleaf_completion_tokens_total{model="endless"}' in text
    assert server.gauge("loaded", "endless") == 1


def test_a_response_is_the_chat_completion_in_another_shape(client: openai.OpenAI) -> None:
    options: Any = {"model": "endless", "temperature": 0}
    chat = client.chat.completions.create(
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        max_tokens=9,
        **options,
    )
    got = client.responses.create(instructions="Be brief.", input="Hi", max_output_tokens=9, **options)
    assert got.output_text == chat.choices[0].message.content
    assert (got.status, got.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (got.usage.input_tokens, got.usage.output_tokens) == (chat.usage.prompt_tokens, 9)
    assert client.responses.retrieve(got.id).output_text == got.output_text
    more = client.responses.create(input="And?", previous_response_id=got.id, max_output_tokens=3, **options)
    assert more.usage.input_tokens > got.usage.input_tokens
    client.responses.delete(got.id)
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.responses.create(input="And?", previous_response_id=got.id, **options)


def test_a_responses_events_tell_what_the_whole_of_it_says(client: openai.OpenAI) -> None:
    tools: Any = [
        {
            "type": "function",
            "name": "go",
            "parameters": {"type": "object", "properties": {"far": {"type": "boolean"}}, "required": ["far"]},
        }
    ]
    kinds: list[str] = []
    text = arguments = ""
    for event in client.responses.create(
        model="endless", input="Hi", max_output_tokens=8, temperature=0, stream=True
    ):
        kinds.append(event.type)
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert event.type == "response.incomplete"
    assert text == event.response.output_text != ""
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    for event in client.responses.create(
        model="endless",
        input="Hi",
        tools=tools,
        tool_choice="required",
        stream=True,
        parallel_tool_calls=False,
    ):
        if event.type == "response.function_call_arguments.delta":
            arguments += event.delta
    assert event.type == "response.completed"
    (call,) = event.response.output
    assert (call.type, call.name, call.arguments) == ("function_call", "go", arguments)
    back: Any = [
        {"role": "user", "content": "Hi"},
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "done"},
    ]
    assert client.responses.create(model="endless", input=back, tools=tools, max_output_tokens=4).status in (
        "completed",
        "incomplete",
    )


def test_adapters_are_models_over_one_base(start: Start, models: Path, tmp_path: Path) -> None:
    from newleaf.adapters.init_adapter import new_adapter
    from newleaf.adapters.lora_config import AdapterConfig
    from newleaf.storage.adapter_folder import rules_of, save_adapter

    base = newleaf.load(models / "endless")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        network = newleaf.load(models / "endless").network
        adapter = new_adapter(
            network, AdapterConfig(rank=4, targets=("all",)), rules_of(network.config, base.family)
        )
        for part in adapter.parts.values():
            part.b.data += 0.5 * torch.randn_like(part.b)
        save_adapter(tmp_path / name, adapter, network.config, base.family)
        base.tokenizer.save(tmp_path / name) if name == "two" else None
    brief = "{% for m in messages %}<|im_start|>{{ m.content }}, briefly<|im_end|>{% endfor %}<|im_start|>"
    about = json.loads((tmp_path / "two" / "tokenizer_config.json").read_text())
    (tmp_path / "two" / "tokenizer_config.json").write_text(json.dumps(about | {"chat_template": brief}))
    server = start(
        f"base={models / 'endless'}",
        "--adapter",
        f"one={tmp_path / 'one'}",
        "--adapter",
        f"base:two={tmp_path / 'two'}",
    )
    client = server.client()
    assert [(model.id, getattr(model, "parent", None)) for model in client.models.list().data] == [
        ("base", None),
        ("one", "base"),
        ("two", "base"),
    ]
    options: Any = {"prompt": "What is", "max_tokens": 12, "temperature": 0}
    texts = {
        name: client.completions.create(model=name, **options).choices[0].text
        for name in ("base", "one", "two")
    }
    assert len(set(texts.values())) == 3
    assert texts["base"] == base.generate("What is", max_tokens=12, temperature=0)
    hello: Any = [{"role": "user", "content": "Hi"}]
    ids = base.tokenizer.encode("What is")
    for name in ("one", "two"):
        model = newleaf.load(models / "endless", adapter=tmp_path / name)
        assert texts[name] == model.generate("What is", max_tokens=12, temperature=0)
        # What needs the network by itself, between two rounds of the engine: scores of the prompt, and
        # embeddings.
        with torch.no_grad():
            rows, hidden = (
                model.network(torch.tensor([ids]))[0].log_softmax(-1),
                model.network.hidden(torch.tensor([ids]))[0].mean(0),
            )
        scored = (
            client.completions.create(model=name, **options | {"max_tokens": 1}, echo=True, logprobs=0)
            .choices[0]
            .logprobs
        )
        expected = [float(rows[place, token]) for place, token in enumerate(ids[1:])]
        assert scored.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-4)
        (found,) = client.embeddings.create(model=name, input="What is", extra_body={"normalize": False}).data
        torch.testing.assert_close(torch.tensor(found.embedding), hidden, atol=1e-5, rtol=1e-4)
        # A conversation, by the template that an adapter brings or else the base's.
        said = client.chat.completions.create(model=name, messages=hello, max_tokens=9, temperature=0)
        assert said.choices[0].message.content == model.chat(hello, max_tokens=9, temperature=0)
        assert said.usage.prompt_tokens == len(
            model.chat_template.encode(hello, RenderOptions(add_generation_prompt=True)).ids
        )


def test_a_draft_serves_the_same_text(start: Start, models: Path) -> None:
    words = [
        f"base={models / 'endless'}",
        f"other={models / 'chatml'}",
        "--draft",
        f"base={models / 'endless'}",
    ]
    client = start(*words).client()
    options: Any = {"prompt": "What is", "max_tokens": 30, "temperature": 0.7, "seed": 4}
    wanted = newleaf.load(models / "endless").generate("What is", max_tokens=30, temperature=0.7, seed=4)
    assert client.completions.create(model="base", **options).choices[0].text == wanted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--draft", "nobody=x"], "--draft: there is no model 'nobody', but a, b"),
        (["--draft", "a=x", "--draft", "y"], "--draft: 'a' is given two; give it one"),
        (["--draft", "a="], "--draft: 'a=' is not MODEL or NAME=MODEL"),
        (["--draft-weights", "int4"], "--draft-weights: goes with --draft MODEL"),
    ],
)
def test_drafts_that_cannot_be_are_refused_in_a_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from newleaf.cli.main import main

    assert main(["serve", "a=x", "b=y", "--port", "0", "--state", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err == f"newleaf: {said}\n"


def test_sampled_answers_are_utf8_unless_the_request_says_otherwise(
    client: openai.OpenAI, models: Path
) -> None:
    options: Any = {"model": "endless", "prompt": "What", "max_tokens": 60, "temperature": 1.5, "seed": 2}
    texts = [
        client.completions.create(**options, extra_body=extra).choices[0].text
        for extra in ({}, {"valid_utf8": "off"})
    ]
    model = newleaf.load(models / "endless")
    assert texts == [
        model.generate("What", max_tokens=60, temperature=1.5, seed=2, valid_utf8=how)
        for how in ("sampled", "off")
    ]
    assert ["\ufffd" in text for text in texts] == [False, True]
    with pytest.raises(openai.BadRequestError, match="valid_utf8"):
        client.completions.create(**options, extra_body={"valid_utf8": "no"})
