"""Bodies as stock clients sent them to this server, recorded and with long texts cut. docs/compatibility.md
says which clients, and how the clients themselves fare is `python -m benchmarks.clients`."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from server_process import Running

WEATHER: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"name": "get_weather", "description": "The weather of a city.", "parameters": WEATHER, "strict": True}
CALL = {
    "id": "call_dec3",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
}
CODEX: dict[str, Any] = {
    "stream": True,
    "input": [
        {
            "type": "message",
            "id": "msg_1",
            "role": "developer",
            "content": [{"type": "input_text", "text": "You are a coding agent."}],
        },
        {
            "type": "message",
            "id": "msg_2",
            "role": "developer",
            "content": [{"type": "input_text", "text": "The sandbox is read-only."}],
        },
        {
            "type": "message",
            "id": "msg_3",
            "role": "user",
            "content": [{"type": "input_text", "text": "<environment_context>"}],
        },
        {
            "type": "message",
            "id": "msg_4",
            "role": "user",
            "content": [{"type": "input_text", "text": "Say hello."}],
        },
        {
            "type": "message",
            "status": "completed",
            "id": "msg_5",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello!", "annotations": [], "logprobs": []}],
        },
        {
            "type": "message",
            "id": "msg_6",
            "role": "user",
            "content": [{"type": "input_text", "text": "Say it again."}],
        },
    ],
    "tools": [
        {
            "type": "function",
            "name": "exec_command",
            "description": "Runs.",
            "parameters": WEATHER,
            "strict": False,
        },
        {"type": "namespace", "name": "multi_agent_v1", "description": "Agents.", "tools": []},
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "01a22dd8",
    "client_metadata": {"session_id": "01a22dd8", "x-codex-turn-metadata": '{"sandbox":"seccomp"}'},
}
CHAT: dict[str, tuple[dict[str, Any], list[str]]] = {
    "openai-agents for JavaScript, second turn": (
        {
            "messages": [
                {"content": "Be brief.", "role": "system"},
                {"role": "user", "content": "What is the capital of France?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "It is Paris.", "role": "assistant", "refusal": None}
                    ],
                },
                {"role": "user", "content": [{"type": "text", "text": "And of Norway?"}]},
            ]
        },
        ["messages[2].content[0].role"],
    ),
    "openai-agents, result of a tool": (
        {
            "messages": [
                {"content": "Be brief.", "role": "system"},
                {"role": "user", "content": "How is the weather in Oslo?"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "call_dec3", "content": "It rains in Oslo."},
            ],
            "parallel_tool_calls": False,
            "tools": [{"type": "function", "function": TOOL}],
        },
        [],
    ),
    "LiteLLM, with Anthropic's cache marks": (
        {
            "messages": [
                {"role": "user", "content": "What is the capital of France?"},
                {"content": "It is Paris.", "role": "assistant"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "And of Norway?", "cache_control": {"type": "ephemeral"}}
                    ],
                },
            ]
        },
        ["messages[2].content[0].cache_control"],
    ),
    "Open WebUI": (
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "metadata": {"user_id": "u", "variables": {"{{USER_NAME}}": "U"}},
            "options": {"num_ctx": 2048, "temperature": 0.7, "repeat_penalty": 1.1},
            "keep_alive": "5m",
            "tool_ids": None,
            "features": {"web_search": False},
        },
        ["options.num_ctx", "metadata", "keep_alive", "features"],
    ),
}


def ignored(got: httpx.Response) -> list[str]:
    return [each for each in got.headers.get("x-newleaf-ignored", "").split(", ") if each]


@pytest.mark.parametrize("name", CHAT)
def test_chats_of_stock_clients_are_answered(server: Running, name: str) -> None:
    body, names = CHAT[name]
    got = server.post("/v1/chat/completions", model="endless", max_tokens=4, **body)
    assert got.status_code == 200, got.text
    assert sorted(ignored(got)) == sorted(names)
    ChatCompletion.model_validate(got.json(), strict=True)


def test_codex_gets_its_events(server: Running) -> None:
    got = server.post("/v1/responses", model="endless", max_output_tokens=6, **CODEX)
    assert got.status_code == 200, got.text
    assert ignored(got) == [
        "tools[1]",
        "tools[2]",
        "reasoning.summary",
        "prompt_cache_key",
        "client_metadata",
    ]
    events = [
        json.loads(line.removeprefix("data: ")) for line in got.text.splitlines() if line.startswith("data: ")
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.incomplete")
    Response.model_validate(events[-1]["response"], strict=True)


def test_the_ai_sdk_refers_to_what_it_was_given(server: Running) -> None:
    """Its provider for responses sends ids in place of the items that the server has stored."""

    def said(text: str) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "input_text", "text": text}]}

    first = server.post("/v1/responses", model="endless", input=[said("Hi")], max_output_tokens=6).json()
    (message,) = first["output"]
    thread = [said("Hi"), {"type": "item_reference", "id": message["id"]}, said("And?")]
    second = server.post("/v1/responses", model="endless", input=thread, max_output_tokens=2)
    assert second.status_code == 200, second.text
    whole = server.post(
        "/v1/responses", model="endless", input=[said("Hi"), message, said("And?")], max_output_tokens=2
    ).json()
    assert second.json()["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    Response.model_validate(second.json(), strict=True)


def test_litellm_translates_anthropics_tools(server: Running) -> None:
    asked = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "How is the weather in Oslo?"}],
    }
    call = {
        "type": "function_call",
        "call_id": "call_24df",
        "name": "get_weather",
        "arguments": '{"city": "Oslo"}',
    }
    body = {
        "input": [asked, call, {"type": "function_call_output", "call_id": "call_24df", "output": "Rain."}],
        "include": ["reasoning.encrypted_content"],
        "tools": [{"type": "function", **TOOL, "strict": False}],
        "user": "u" * 300,
    }
    got = server.post("/v1/responses", model="endless", max_output_tokens=4, **body)
    assert (got.status_code, ignored(got)) == (200, []), got.text
