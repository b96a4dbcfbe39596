"""What answers say of themselves: usage, fingerprints, log-probabilities; and the items of responses, stored,
referred to and listed."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai.types import CompletionUsage
from openai.types.responses import ResponseUsage
from server_process import Running, Start

import newleaf
from newleaf.serve.answers.chat_answers import Delta
from newleaf.serve.openai.response_items import ResponseItems
from newleaf.text.reasoning import Part

HELLO: Any = [{"role": "user", "content": "What is the capital?"}]
FAR = {
    "type": "object",
    "properties": {"far": {"type": "boolean"}},
    "required": ["far"],
    "additionalProperties": False,
}
GO: Any = {"type": "function", "name": "go", "parameters": FAR}


def test_usage_has_the_details_that_openais_types_ask_for(client: openai.OpenAI) -> None:
    """How many tokens of a prompt the cache held, the engine's own tests say."""
    chat = client.chat.completions.create(model="endless", messages=HELLO, max_tokens=2).usage
    text = client.completions.create(model="endless", prompt="a", max_tokens=2).usage
    assert (
        CompletionUsage.model_validate(chat.model_dump(), strict=True).prompt_tokens_details.cached_tokens
        == 0
    )
    assert (
        CompletionUsage.model_validate(text.model_dump(), strict=True).prompt_tokens_details.cached_tokens
        == 0
    )
    response = client.responses.create(model="endless", input=HELLO, max_output_tokens=2).usage
    found = ResponseUsage.model_validate(response.model_dump(), strict=True)
    assert (found.input_tokens_details.cached_tokens, found.output_tokens_details.reasoning_tokens) == (0, 0)


def test_tokens_of_thoughts_are_counted(client: openai.OpenAI, models: Any) -> None:
    tokenizer = newleaf.load(models / "qwen3").tokenizer
    grammar = r'start: "<think>" /[a-f]{8}/ "</think>" "yes"'
    options: Any = {"model": "qwen3", "extra_body": {"grammar": grammar}, "max_tokens": 60, "seed": 1}
    got = client.chat.completions.create(messages=HELLO, **options)
    said = len(tokenizer.encode("yes"))
    ended = got.usage.completion_tokens - got.usage.completion_tokens_details.reasoning_tokens
    assert said <= ended <= said + 1  # with the token that ends the turn, or without
    *_, last = client.chat.completions.create(
        messages=HELLO, stream=True, stream_options={"include_usage": True}, **options
    )
    assert last.usage == got.usage
    assert (
        client.chat.completions.create(
            model="endless", messages=HELLO, max_tokens=3
        ).usage.completion_tokens_details.reasoning_tokens
        == 0
    )


def test_a_fingerprint_names_the_model_and_stays(client: openai.OpenAI) -> None:
    def ask(model: str, **options: Any) -> Any:
        return client.chat.completions.create(model=model, messages=HELLO, max_tokens=2, **options)

    one = ask("endless").system_fingerprint
    assert (
        one
        == ask("endless").system_fingerprint
        == client.completions.create(model="endless", prompt="a", max_tokens=1).system_fingerprint
    )
    assert {chunk.system_fingerprint for chunk in ask("endless", stream=True)} == {one}
    assert one != ask("chatml").system_fingerprint


def test_a_response_scores_its_tokens_as_chat_does(client: openai.OpenAI) -> None:
    options: Any = {"model": "endless", "temperature": 0}
    chat = (
        client.chat.completions.create(messages=HELLO, max_tokens=6, logprobs=True, top_logprobs=2, **options)
        .choices[0]
        .logprobs.content
    )
    options |= {
        "input": HELLO,
        "max_output_tokens": 6,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    }
    whole = client.responses.create(**options).output[0].content[0].logprobs
    events = [
        event
        for event in client.responses.create(stream=True, **options)
        if event.type == "response.output_text.delta"
    ]
    for found in (whole, [score for event in events for score in event.logprobs]):
        assert [(each.token, each.logprob) for each in found] == [
            (each.token, pytest.approx(each.logprob, abs=1e-4)) for each in chat
        ]
        assert all(len(each.top_logprobs) == 2 for each in found)


def test_seed_and_stop_hold_in_responses(server: Running) -> None:
    body: Any = {"model": "endless", "input": "Hi", "max_output_tokens": 30, "seed": 4}
    text = server.post("/v1/responses", **body).json()["output"][0]["content"][0]["text"]
    assert server.post("/v1/responses", **body).json()["output"][0]["content"][0]["text"] == text
    stopped = server.post("/v1/responses", **body, stop=text[5:8]).json()
    assert stopped["output"][0]["content"][0]["text"] == text[: text.index(text[5:8])]
    assert stopped["status"] == "completed"


def test_items_are_referred_to_by_their_ids(client: openai.OpenAI, server: Running) -> None:
    options: Any = {"model": "endless", "max_output_tokens": 300, "tools": [GO]}
    first = client.responses.create(input="Hi", tool_choice="required", parallel_tool_calls=False, **options)
    (call,) = first.output
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    short: Any = options | {"max_output_tokens": 2}
    plain = client.responses.create(input=[*HELLO, call.model_dump(), result], **short)
    referred = client.responses.create(
        input=[*HELLO, {"type": "item_reference", "id": call.id}, result], **short
    )
    bare = client.responses.create(input=[*HELLO, {"id": call.id}, result], **short)
    assert plain.usage.input_tokens == referred.usage.input_tokens == bare.usage.input_tokens
    client.responses.delete(first.id)
    client.responses.delete(plain.id)
    client.responses.delete(referred.id)
    client.responses.delete(bare.id)
    with pytest.raises(openai.BadRequestError, match=r"input\[1\].id"):
        client.responses.create(input=[*HELLO, {"type": "item_reference", "id": call.id}, result], **short)


def test_the_items_of_a_request_are_listed(client: openai.OpenAI) -> None:
    asked: Any = [
        *({"role": "user", "content": f"{n}"} for n in range(25)),
        {"type": "function_call_output", "call_id": "c", "output": "x"},
    ]
    asked.insert(25, {"type": "function_call", "call_id": "c", "name": "go", "arguments": "{}"})
    response = client.responses.create(model="endless", input=asked, max_output_tokens=2)
    page = client.responses.input_items.list(response.id)
    assert [item.type for item in page.data[:2]] == ["function_call_output", "function_call"]
    assert page.has_more
    # the client asks for all pages
    items = list(client.responses.input_items.list(response.id, order="asc", limit=10))
    assert [item.content[0].text for item in items[:25]] == [str(n) for n in range(25)]
    assert len({item.id for item in items}) == 27
    with pytest.raises(openai.BadRequestError):
        client.responses.input_items.list(response.id, after="msg_0")
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list("resp_0")


def test_what_is_not_in_the_background_cannot_be_cancelled(client: openai.OpenAI) -> None:
    response = client.responses.create(model="endless", input="Hi", max_output_tokens=2)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_0")


def test_thoughts_come_back_from_clients_that_keep_them_packed(server: Running, models: Any) -> None:
    """A conversation that its client keeps: it drops the text of thoughts and sends their packed form, as
    Codex does."""
    items = ResponseItems(newleaf.load(models / "qwen3").tokenizer, packed=True)
    items.push(Delta(0, Part("reasoning", "Far or near? 新叶")))
    items.push(Delta(0, end="stop"))
    (thought,) = items.output
    kept = {
        "type": "reasoning",
        "summary": [],
        "encrypted_content": thought["encrypted_content"],
        "content": None,
    }
    plain = {"type": "reasoning", "summary": [], "content": thought["content"]}
    others = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAB-another-service"}
    go: Any = {"type": "function_call", "call_id": "c", "name": "go", "arguments": "{}"}
    done: Any = {"type": "function_call_output", "call_id": "c", "output": "x"}
    counts = []
    for item in (kept, plain, others):
        got = server.post(
            "/v1/responses", model="qwen3", input=[*HELLO, item, go, done], max_output_tokens=2, store=False
        )
        counts.append(got.json()["usage"]["input_tokens"])
    assert counts[0] == counts[1] > counts[2]


def test_truncation_auto_leaves_the_oldest_turns_out(start: Start, models: Any) -> None:
    server = start(models / "endless", "--max-prompt", "300")
    turns = [{"role": role, "content": f"{n}" * 20} for n in range(20) for role in ("user", "assistant")]
    asked = [{"role": "system", "content": "Obey."}, *turns, *HELLO]
    refused = server.post("/v1/responses", input=asked, max_output_tokens=2)
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    got = server.post("/v1/responses", input=asked, max_output_tokens=2, truncation="auto").json()
    assert got["truncation"] == "auto"

    def tokens(first: int) -> int:
        rest = [asked[0], *turns[2 * first :], *HELLO]
        return int(server.post("/tokenize", messages=rest).json()["count"])

    fitting = next(first for first in range(20) if tokens(first) <= 300)
    assert got["usage"]["input_tokens"] == tokens(fitting)
    long = [{"role": "user", "content": "far " * 400}]
    assert (
        server.post("/v1/responses", input=long, truncation="auto").json()["error"]["code"]
        == "context_length_exceeded"
    )


def test_allowed_tools_are_the_ones_that_may_be_called(client: openai.OpenAI) -> None:
    tools: Any = [GO, {"type": "function", "name": "stay", "parameters": FAR}]
    choice: Any = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "stay"}],
    }
    options: Any = {"model": "endless", "input": HELLO, "tools": tools, "max_output_tokens": 300}
    found = client.responses.create(tool_choice=choice, **options)
    assert {item.name for item in found.output if item.type == "function_call"} == {"stay"}
    nested: Any = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "go"}}]},
    }
    chat_tools: Any = [
        {"type": "function", "function": {"name": tool["name"], "parameters": FAR}} for tool in tools
    ]
    chat = client.chat.completions.create(
        model="endless", messages=HELLO, tools=chat_tools, tool_choice=nested, max_tokens=300
    )
    assert {call.function.name for call in chat.choices[0].message.tool_calls or ()} == {"go"}


def test_the_tokenizer_tells_what_lm_eval_asks_of_it(server: Running, models: Any) -> None:
    from transformers import AutoTokenizer

    stock = AutoTokenizer.from_pretrained(models / "llama3")
    info = httpx.get(f"{server.url}/tokenizer_info", params={"model": "llama3"}).json()
    assert (info["eos_token"], info["bos_token"], info["chat_template"]) == (
        stock.eos_token,
        stock.bos_token,
        stock.chat_template,
    )
    text = stock.apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True)
    for each in (text, stock.eos_token, "no control token", f"a {stock.eos_token} b"):
        got = server.post("/tokenize", model="llama3", prompt=each, add_special_tokens=False).json()["tokens"]
        assert got == stock.encode(each, add_special_tokens=False)
    plain = server.post(
        "/tokenize", model="llama3", prompt=stock.eos_token, add_special_tokens=False, parse_special=False
    ).json()["tokens"]
    assert stock.eos_token_id not in plain
    assert httpx.get(f"{server.url}/tokenizer_info", params={"model": "nobody"}).status_code == 404


def test_lm_evals_remote_tokenizer_reads_as_the_stock_one(server: Running, models: Any) -> None:
    utils = pytest.importorskip("lm_eval.utils")
    from transformers import AutoTokenizer

    assert utils.check_remote_tokenizer_support(f"{server.url}/v1/completions")
    remote, stock = (
        utils.RemoteTokenizer(f"{server.url}/v1/completions"),
        AutoTokenizer.from_pretrained(models / "chatml"),
    )
    assert (remote.eos_token, remote.eos_token_id) == (stock.eos_token, stock.eos_token_id)
    text = remote.apply_chat_template(HELLO)
    assert remote.encode(text) == stock.encode(text, add_special_tokens=False)
    assert remote.decode(remote.encode("2 < 3")) == "2 < 3"
