"""Fields that clients send beside what is asked for: null is absent, advice is ignored by name, what would
change the answer is refused.

Which fields there are, and what they mean, is from OpenAI's reference (the types of its Python package) and
other servers' documentation.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessage
from server_process import Running, Start

from newleaf.serve.http.middleware import MAX_HEADER_CHARACTERS, header_list

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HELLO: Any = [{"role": "user", "content": "What is the capital?"}]
FAR = {
    "type": "object",
    "properties": {"far": {"type": "boolean"}},
    "required": ["far"],
    "additionalProperties": False,
}
GO = {"name": "go", "parameters": FAR}
SHORT: dict[str, dict[str, Any]] = {
    CHAT: {"model": "endless", "messages": HELLO, "max_tokens": 4, "seed": 1},
    TEXT: {"model": "endless", "prompt": "What is", "max_tokens": 4, "seed": 1},
    RESPONSES: {"model": "endless", "input": "What is the capital?", "max_output_tokens": 4, "seed": 1},
}


def ignored(got: httpx.Response) -> list[str]:
    return [each for each in got.headers.get("x-newleaf-ignored", "").split(", ") if each]


def text_of(got: httpx.Response) -> str:
    body = got.json()
    assert got.status_code == 200, body
    if body["object"] == "response":
        return "".join(part["text"] for item in body["output"] for part in item["content"])
    choice = body["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


ADVICE = {
    "metadata": {"a": "b"},
    "safety_identifier": "x",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "service_tier": "auto",
    "prediction": {"type": "content", "content": "x"},
    "verbosity": "low",
    "web_search_options": {},
    "keep_alive": "5m",
    "num_ctx": 4096,
    "chat_id": "c",
    "cache_prompt": True,
    "id_slot": 0,
    "add_generation_prompt": True,
    "skip_special_tokens": True,
    "guided_decoding_backend": "x",
    "store": True,
    "a name that nobody knows": {"deep": [None]},
}


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_advice_is_ignored_by_name_and_changes_nothing(server: Running, path: str) -> None:
    plain, advised = server.post(path, **SHORT[path]), server.post(path, **SHORT[path], **ADVICE)
    assert ignored(plain) == []
    assert text_of(advised) == text_of(plain)
    assert sorted(ignored(advised)) == sorted(name.replace(" ", "%20") for name in ADVICE)


def test_responses_ignore_what_only_openais_service_has(server: Running) -> None:
    advice = {
        "include": ["reasoning.encrypted_content", "file_search_call.results"],
        "reasoning": {"effort": "none", "summary": "auto"},
        "prompt_cache_key": "k",
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "service_tier": "auto",
        "background": False,
        "truncation": "auto",
        "stream_options": None,
        "client_metadata": {"x-codex": "1"},
        "max_tool_calls": 3,
        "tools": [
            {"type": "web_search"},
            {"type": "custom", "name": "patch"},
            {"type": "function", **GO},
            {"type": "namespace", "tools": []},
        ],
        "tool_choice": "none",
    }
    plain, advised = (
        server.post(RESPONSES, **SHORT[RESPONSES]),
        server.post(RESPONSES, **SHORT[RESPONSES], **advice),
    )
    assert text_of(advised) == text_of(plain)
    wanted = [
        "reasoning.summary",
        "prompt_cache_key",
        "text.verbosity",
        "service_tier",
        "background",
        "client_metadata",
        "max_tool_calls",
    ]
    assert sorted(ignored(advised)) == sorted([*wanted, "include[1]", "tools[0]", "tools[1]", "tools[3]"])
    assert [tool["name"] for tool in advised.json()["tools"]] == ["go"]


def test_null_is_absent_everywhere(server: Running) -> None:
    fields = [
        "temperature",
        "top_p",
        "n",
        "stop",
        "stream",
        "stream_options",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "response_format",
    ]
    fields += [
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "store",
        "user",
        "metadata",
        "audio",
        "modalities",
    ]
    fields += [
        "functions",
        "function_call",
        "service_tier",
        "top_k",
        "min_p",
        "regex",
        "options",
        "a name that nobody knows",
    ]
    nothing = [
        "name",
        "tool_calls",
        "tool_call_id",
        "refusal",
        "annotations",
        "audio",
        "function_call",
        "reasoning",
        "namespace",
        "index",
    ]
    messages = [{**HELLO[0], **dict.fromkeys(nothing)}]
    parts = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": HELLO[0]["content"], "cache_control": None, "refusal": None}
            ],
        }
    ]
    plain = text_of(server.post(CHAT, **SHORT[CHAT]))
    for given in (messages, parts):
        got = server.post(CHAT, **SHORT[CHAT] | {"messages": given} | dict.fromkeys(fields))
        assert (text_of(got), ignored(got)) == (plain, [])


def test_nulls_of_schemas_and_of_template_variables_are_values(server: Running) -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"enum": [None]}, "strict": None, "description": None},
    }
    assert text_of(server.post(CHAT, **SHORT[CHAT] | {"response_format": form})) == "null"


def test_a_clients_own_messages_come_back_as_it_dumps_them(client: openai.OpenAI, server: Running) -> None:
    tools: Any = [
        {"type": "function", "function": GO, "cache_control": {"type": "ephemeral"}, "defer_loading": None}
    ]
    options: Any = {
        "model": "endless",
        "max_tokens": 400,
        "seed": 3,
        "tools": tools,
        "parallel_tool_calls": False,
    }
    first = (
        client.chat.completions.create(messages=HELLO, tool_choice="required", **options).choices[0].message
    )
    assert first.tool_calls
    dumped = first.model_dump()
    assert None in dumped.values()
    calls = [{**call, "index": number, "namespace": None} for number, call in enumerate(dumped["tool_calls"])]
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "done", "name": None}
        for call in first.tool_calls
    ]
    spoken = ChatCompletionMessage(role="assistant", content="Well.").model_dump()
    thread = [*HELLO, {**dumped, "tool_calls": calls, "metadata": None}, *results, spoken, *HELLO]
    plain_calls = [
        {"id": call.id, "type": "function", "function": call.function.model_dump()}
        for call in first.tool_calls
    ]
    plain = [
        *HELLO,
        {"role": "assistant", "tool_calls": plain_calls},
        *results,
        {"role": "assistant", "content": "Well."},
        *HELLO,
    ]
    counts = [
        server.post(CHAT, **SHORT[CHAT] | {"messages": each, "tools": tools}).json()["usage"]["prompt_tokens"]
        for each in (thread, plain)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("content", [[], "", None])
def test_a_call_may_have_any_kind_of_no_content(server: Running, content: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "go", "arguments": {"far": True}}}
    thread = [
        *HELLO,
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "content": "yes", "tool_call_id": "c"},
    ]
    old = [
        *HELLO,
        {
            "role": "assistant",
            "content": content,
            "function_call": {"name": "go", "arguments": '{"far": true}'},
        },
        thread[2],
    ]
    got = [server.post("/tokenize", model="qwen3", messages=each).json() for each in (thread, old)]
    assert got[0]["tokens"] == got[1]["tokens"]
    assert server.post(CHAT, **SHORT[CHAT] | {"messages": thread}).status_code == 200


@pytest.mark.parametrize(
    ("path", "neutral"),
    [
        (CHAT, {"top_k": -1}),
        (CHAT, {"stop": ""}),
        (CHAT, {"stop": []}),
        (CHAT, {"top_logprobs": 0}),
        (CHAT, {"max_completion_tokens": 4}),
        (CHAT, {"max_completion_tokens": 2048}),
        (CHAT, {"reasoning_effort": "none"}),
        (CHAT, {"tool_choice": "none"}),
        (CHAT, {"tools": []}),
        (CHAT, {"modalities": ["text"]}),
        (CHAT, {"stop_token_ids": []}),
        (TEXT, {"top_k": -1}),
        (TEXT, {"stop": [""]}),
        (TEXT, {"suffix": ""}),
        (TEXT, {"best_of": 1}),
        (TEXT, {"logprobs": False}),
        (TEXT, {"use_beam_search": False}),
    ],
)
def test_neutral_values_are_values(server: Running, path: str, neutral: dict[str, Any]) -> None:
    assert text_of(server.post(path, **SHORT[path], **neutral)) == text_of(server.post(path, **SHORT[path]))


def test_top_p_of_zero_takes_the_likeliest_token(server: Running) -> None:
    got = [
        text_of(server.post(CHAT, **SHORT[CHAT] | more))
        for more in ({"temperature": 0}, {"top_p": 0}, {"top_p": 0, "seed": 9})
    ]
    assert got[1] == got[2] == got[0]


@pytest.mark.parametrize(
    ("path", "name"), [(CHAT, "max_tokens"), (TEXT, "max_tokens"), (RESPONSES, "max_output_tokens")]
)
def test_limits_above_what_there_is_are_cut(start: Start, models: Any, path: str, name: str) -> None:
    server = start(models / "endless", "--max-output", "9")
    for asked in (100, 4096, 2**30, -1):
        usage = server.post(path, **SHORT[path] | {name: asked}).json()["usage"]
        assert usage.get("completion_tokens", usage.get("output_tokens")) == 9


def test_a_limit_above_what_the_context_leaves_is_cut(server: Running) -> None:
    prompt = [1] * 4090
    got = server.post(TEXT, model="endless", prompt=prompt, max_tokens=500).json()
    assert got["usage"]["completion_tokens"] == 6
    assert got["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_at_all_score_a_prompt(client: openai.OpenAI, stream: bool) -> None:
    options: Any = {"model": "endless", "prompt": ["What is the capital", "The"], "echo": True, "logprobs": 2}
    scored = client.completions.create(**options, max_tokens=1, temperature=0)
    alone: Any = client.completions.create(**options, max_tokens=0, stream=stream)
    choices = [choice for chunk in alone for choice in chunk.choices] if stream else alone.choices
    for whole, only, prompt in zip(scored.choices, choices, options["prompt"], strict=True):
        assert (only.text, only.finish_reason) == (prompt, "length")
        count = len(only.logprobs.tokens)
        assert only.logprobs.token_logprobs == whole.logprobs.token_logprobs[:count]
        assert count == len(whole.logprobs.tokens) - 1
    empty = client.completions.create(model="endless", prompt="What", max_tokens=0)
    assert (empty.choices[0].text, empty.usage.completion_tokens) == ("", 0)


OURS_AND_THEIRS: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    (CHAT, {"repetition_penalty": 1.9}, {"repeat_penalty": 1.9}, []),
    (
        CHAT,
        {"max_tokens": 2, "temperature": 0},
        {"max_tokens": None, "options": {"num_predict": 2, "temperature": 0, "num_ctx": 9}},
        ["options.num_ctx"],
    ),
    (CHAT, {"top_k": 1}, {"options": {"top_k": 1, "num_gpu": 1, "stop": []}}, ["options.num_gpu"]),
    (CHAT, {"temperature": 0}, {"temperature": 0, "options": {"temperature": 2}}, ["options.temperature"]),
    (CHAT, {"max_tokens": 2}, {"max_tokens": None, "n_predict": 2}, []),
    (TEXT, {"max_tokens": 2}, {"max_tokens": None, "n_predict": 2}, []),
    (TEXT, {"max_tokens": 4096 - 2}, {"max_tokens": -1}, []),
    (CHAT, {"regex": "[xy]{5}"}, {"guided_regex": "[xy]{5}"}, []),
    (CHAT, {"choice": ["x", "yy"]}, {"guided_choice": ["x", "yy"]}, []),
    (
        CHAT,
        {"choice": ["x", "yy"]},
        {"structured_outputs": {"choice": ["x", "yy"], "json": None, "whitespace_pattern": "x"}},
        ["structured_outputs.whitespace_pattern"],
    ),
    (TEXT, {"regex": "[xy]{5}"}, {"structured_outputs": {"regex": "[xy]{5}"}}, []),
    (TEXT, {"grammar": "start: /[ab]{6}/"}, {"grammar": 'root ::= x x x x x x\nx ::= "a" | "b"'}, None),
    (TEXT, {"json_schema": FAR}, {"guided_json": json.dumps(FAR)}, []),
    (
        TEXT,
        {"json_schema": FAR},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": FAR}}},
        [],
    ),
    (
        CHAT,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": FAR}}},
        {"response_format": {"type": "json_object", "schema": FAR}},
        [],
    ),
    (
        CHAT,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": FAR}}},
        {"json_schema": FAR},
        [],
    ),
    (
        CHAT,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": FAR}}},
        {"format": FAR},
        [],
    ),
    (
        CHAT,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": FAR}}},
        {"structured_outputs": {"json": FAR}},
        [],
    ),
    (
        CHAT,
        {"min_tokens": 9, "max_tokens": 9, "model": "chatml"},
        {"ignore_eos": True, "max_tokens": 9, "model": "chatml"},
        [],
    ),
    (RESPONSES, {"max_output_tokens": 2}, {"max_output_tokens": None, "max_tokens": 2}, ["max_tokens"]),
]


@pytest.mark.parametrize(("path", "ours", "theirs", "left"), OURS_AND_THEIRS)
def test_other_servers_names_are_honoured(
    server: Running, path: str, ours: dict[str, Any], theirs: dict[str, Any], left: Any
) -> None:
    small = {"max_tokens": 60} if "max_tokens" not in ours and path != RESPONSES else {}
    one, other = (
        server.post(path, **SHORT[path] | small | ours),
        server.post(path, **SHORT[path] | small | theirs),
    )
    if left is None:  # the same texts by other grammars, whose tokens are drawn differently
        assert set(text_of(one)) | set(text_of(other)) <= set("ab")
        assert len(text_of(one)) == len(text_of(other)) == 6
        return
    if path != RESPONSES:
        assert text_of(other) == text_of(one)
    assert ignored(other) == left


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        (CHAT, {"audio": {"voice": "x", "format": "wav"}}, "audio"),
        (CHAT, {"modalities": ["text", "audio"]}, "modalities"),
        (CHAT, {"functions": [{"name": "f"}]}, "functions"),
        (CHAT, {"use_beam_search": True}, "use_beam_search"),
        (CHAT, {"bad_words": ["a"]}, "bad_words"),
        (CHAT, {"n": 17}, "n"),
        (TEXT, {"suffix": "and so on"}, "suffix"),
        (RESPONSES, {"background": True}, "background"),
        (RESPONSES, {"conversation": "conv_1"}, "conversation"),
        (RESPONSES, {"prompt": {"id": "pmpt_1"}}, "prompt"),
        (
            RESPONSES,
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages[0].content[0]",
        ),
        (
            CHAT,
            {"tools": [{"type": "custom", "custom": {"name": "x"}}], "tool_choice": "required"},
            "tool_choice",
        ),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(
    server: Running, path: str, more: dict[str, Any], param: str
) -> None:
    got = server.post(path, **SHORT[path] | more)
    assert (got.status_code, got.json()["error"]["param"]) == (400, param), got.text
    assert param in got.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        (
            CHAT,
            {
                "messages": [
                    *HELLO,
                    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": 7}]},
                ]
            },
            "messages[1].content[1].text",
        ),
        (CHAT, {"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "texts", "text": "a"}]}]},
            "messages[0].content[0].type",
        ),
        (CHAT, {"messages": [{"content": "a"}]}, "messages[0].role"),
        (
            CHAT,
            {
                "messages": [
                    *HELLO,
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "a", "function": {"name": 7, "arguments": "{}"}}],
                    },
                ]
            },
            "messages[1].tool_calls[0].function.name",
        ),
        (
            CHAT,
            {"tools": [{"type": "web_search"}, {"type": "function", "function": {"name": "a b"}}]},
            "tools[1].function.name",
        ),
        (CHAT, {"tools": [{"type": "function", "function": {"parameters": {}}}]}, "tools[0].function.name"),
        (CHAT, {"tool_choice": "sometimes"}, "tool_choice"),
        (CHAT, {"stop": {"a": 1}}, "stop"),
        (CHAT, {"temperature": "hot"}, "temperature"),
        (CHAT, {"options": 7, "temperature": []}, "temperature"),
        (TEXT, {"prompt": [1, "a"]}, "prompt[1]"),
        (TEXT, {"prompt": ["a", 1]}, "prompt[1]"),
        (TEXT, {"prompt": [[1], ["a"]]}, "prompt[1][0]"),
        (TEXT, {"prompt": {"a": 1}}, "prompt"),
        (
            RESPONSES,
            {
                "input": [
                    {"role": "user", "content": "a"},
                    {"type": "function_call", "name": "f", "arguments": "{}"},
                ]
            },
            "input[1].call_id",
        ),
        (
            RESPONSES,
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": ["a"]}]}]},
            "input[0].content[0].text",
        ),
        (RESPONSES, {"input": [{"type": "mesage", "role": "user", "content": "a"}]}, "input[0].type"),
        (RESPONSES, {"input": [7]}, "input[0]"),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "schema": 7}}}, "text.format.schema"),
        (RESPONSES, {"reasoning": {"effort": "wild"}}, "reasoning.effort"),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "msg_gone"}]}, "input[0].id"),
        ("/v1/embeddings", {"input": [[1], [None]]}, "input[1][0]"),
    ],
)
def test_errors_name_the_field_that_is_wrong(
    server: Running, path: str, more: dict[str, Any], param: str
) -> None:
    got = server.post(path, **SHORT.get(path, {}) | more)
    error = got.json()["error"]
    assert (got.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error"), error
    assert error["message"].startswith(param)
    assert len(error["message"]) < 400
    assert "[{" not in error["message"]


def test_a_templates_own_error_is_about_the_messages(server: Running) -> None:
    thread = [*HELLO, {"role": "user", "content": "again"}]
    got = server.post(CHAT, **SHORT[CHAT] | {"model": "mistral", "messages": thread})
    assert (got.status_code, got.json()["error"]["param"]) == (400, "messages"), got.text
    got = server.post(CHAT, **SHORT[CHAT], chat_template_kwargs={"messages": []})
    assert got.json()["error"]["param"] == "chat_template_kwargs"


def test_strict_refuses_what_it_does_not_know(start: Start, models: Any) -> None:
    server = start(models / "endless", "--strict")
    for more, param in (
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"messages": [{**HELLO[0], "annotations": []}]}, "messages[0].annotations"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"repeat_penalty": 1.2}, "repeat_penalty"),
    ):
        error = server.post(CHAT, **SHORT[CHAT] | more).json()["error"]
        assert error["param"] == param
    assert server.post(CHAT, **SHORT[CHAT], temperature=None).status_code == 200


def test_the_log_names_what_was_ignored(server: Running) -> None:
    from server_process import until

    server.post(CHAT, **SHORT[CHAT], keep_alive=1, user="forgetful")
    until(lambda: '"user": "forgetful"' in server.log)
    (line,) = [json.loads(each) for each in server.log.splitlines() if '"user": "forgetful"' in each]
    assert line["ignored"] == ["keep_alive"]


def test_the_header_is_short_and_safe() -> None:
    assert (
        header_list(["a.b[0]", "x\r\nset-cookie: y", "新叶, z"])
        == "a.b[0], x%0D%0Aset-cookie%3A%20y, %E6%96%B0%E5%8F%B6%2C%20z"
    )
    many = header_list([f"field_{number}" for number in range(5000)])
    assert len(many) < MAX_HEADER_CHARACTERS + 20
    assert many.endswith(" more")


def test_a_flood_of_unknown_names_is_no_trouble(server: Running) -> None:
    got = server.post(CHAT, **SHORT[CHAT], **{f"name \u00e9 {number}": number for number in range(20_000)})
    assert got.status_code == 200
    assert len(got.headers["x-newleaf-ignored"]) < MAX_HEADER_CHARACTERS + 20
