"""LiteLLM: OpenAI's interfaces, and Anthropic's messages translated into them."""

import asyncio
import json

import litellm
from say import KEY, MODEL, QUESTION, URL, WEATHER, tried

TO = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": KEY, "num_retries": 0}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": WEATHER},
}


def turns():
    thread = [{"role": "user", "content": QUESTION}]
    first = litellm.completion(messages=thread, max_tokens=30, **TO).choices[0].message
    thread += [
        first.model_dump(),
        {
            "role": "user",
            "content": [{"type": "text", "text": "And of Norway?", "cache_control": {"type": "ephemeral"}}],
        },
    ]
    chunks = litellm.completion(messages=thread, max_tokens=30, stream=True, **TO)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)[:80]


def tools():
    thread = [{"role": "user", "content": "How is the weather in Oslo?"}]
    message = (
        litellm.completion(messages=thread, tools=[TOOL], tool_choice="required", **TO).choices[0].message
    )
    thread += [
        message,
        *({"role": "tool", "tool_call_id": call.id, "content": "Rain."} for call in message.tool_calls),
    ]
    litellm.completion(messages=thread, tools=[TOOL], max_tokens=30, **TO)
    return json.loads(message.tool_calls[0].function.arguments)["city"]


def responses():
    first = litellm.responses(input=QUESTION, max_output_tokens=30, **TO)
    return litellm.responses(
        input="And of Norway?", previous_response_id=first.id, max_output_tokens=30, **TO
    ).status


def anthropic():
    async def run():
        thread = [{"role": "user", "content": QUESTION}]
        options = {
            "max_tokens": 60,
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            **TO,
        }
        first = await litellm.anthropic.messages.acreate(
            messages=thread, metadata={"user_id": "u"}, **options
        )
        assert first["content"][0]["type"] == "text"
        assert first["usage"]["output_tokens"] > 0
        thread += [
            {"role": "assistant", "content": first["content"]},
            {"role": "user", "content": "And of Norway?"},
        ]
        stream = await litellm.anthropic.messages.acreate(messages=thread, stream=True, **options)
        return f"{len([event async for event in stream])} events"

    return asyncio.run(run())


def anthropic_tools():
    async def run():
        tool = {"name": "get_weather", "description": "The weather.", "input_schema": WEATHER}
        thread = [{"role": "user", "content": "How is the weather in Oslo?"}]
        options = {"max_tokens": 100, "tools": [tool], **TO}
        first = await litellm.anthropic.messages.acreate(
            messages=thread, tool_choice={"type": "any"}, **options
        )
        calls = [part for part in first["content"] if part["type"] == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": call["id"], "content": "Rain."} for call in calls]
        thread += [{"role": "assistant", "content": first["content"]}, {"role": "user", "content": results}]
        second = await litellm.anthropic.messages.acreate(messages=thread, **options)
        return f"{calls[0]['input']}, then {second['stop_reason']}"

    return asyncio.run(run())


tried("two turns, streamed", turns)
tried("tools and their results", tools)
tried("responses of two turns", responses)
tried("Anthropic's messages of two turns, streamed", anthropic)
tried("Anthropic's tools and their results", anthropic_tools)
