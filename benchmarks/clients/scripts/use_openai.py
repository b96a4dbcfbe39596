"""The openai package: chat, tools, schemas, streams and conversations of several turns, in both of its
interfaces."""

import json
from typing import Literal

from openai import OpenAI
from pydantic import BaseModel
from say import KEY, MODEL, QUESTION, URL, WEATHER, tried

client = OpenAI(base_url=URL, api_key=KEY, max_retries=0)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": WEATHER,
        "strict": True,
    },
}
FLAT = {"type": "function", **TOOL["function"]}


class City(BaseModel):
    city: Literal["Paris", "Oslo"]
    days: int


def chat():
    thread = [{"role": "user", "content": QUESTION}]
    first = client.chat.completions.create(model=MODEL, messages=thread, max_tokens=40).choices[0].message
    thread += [first.model_dump(), {"role": "user", "content": "And of Norway?"}]
    return (
        client.chat.completions.create(model=MODEL, messages=thread, max_tokens=40).choices[0].message.content
    )


def stream():
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 40}
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": QUESTION}], **options
        )
    )
    assert chunks[-1].usage.completion_tokens > 0
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def tools():
    thread = [{"role": "user", "content": "How is the weather in Oslo?"}]
    asked = client.chat.completions.create(model=MODEL, messages=thread, tools=[TOOL], tool_choice="required")
    message = asked.choices[0].message
    for call in message.tool_calls:
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Oslo")
    thread += [
        message.model_dump(),
        *({"role": "tool", "tool_call_id": call.id, "content": "Rain."} for call in message.tool_calls),
    ]
    return (
        client.chat.completions.create(model=MODEL, messages=thread, tools=[TOOL], max_tokens=40)
        .choices[0]
        .finish_reason
    )


def parsed():
    thread = [{"role": "user", "content": "Three days in Oslo, as JSON."}]
    return (
        client.chat.completions.parse(model=MODEL, messages=thread, response_format=City)
        .choices[0]
        .message.parsed.city
    )


def responses():
    first = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=40)
    second = client.responses.create(
        model=MODEL, input="And of Norway?", previous_response_id=first.id, max_output_tokens=40
    )
    assert len(client.responses.input_items.list(second.id).data) == 1
    back = [
        {"role": "user", "content": QUESTION},
        *(item.model_dump() for item in first.output),
        {"role": "user", "content": "And of Norway?"},
    ]
    client.responses.create(
        model=MODEL, input=back, store=False, include=["reasoning.encrypted_content"], max_output_tokens=20
    )
    return second.output_text


def response_tools():
    tools_ = [FLAT, {"type": "web_search"}]
    thread = [{"role": "user", "content": "How is the weather in Oslo?"}]
    with client.responses.stream(model=MODEL, input=thread, tools=tools_, tool_choice="required") as stream_:
        kinds = {event.type for event in stream_}
        found = stream_.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    thread += [item.model_dump() for item in found.output]
    thread += [
        {"type": "function_call_output", "call_id": item.call_id, "output": "Rain."}
        for item in found.output
        if item.type == "function_call"
    ]
    return client.responses.create(model=MODEL, input=thread, tools=tools_, max_output_tokens=40).status


def response_parsed():
    return client.responses.parse(
        model=MODEL, input="Three days in Oslo, as JSON.", text_format=City
    ).output_parsed.city


def others():
    vectors = client.embeddings.create(model=MODEL, input=["a", "b"], dimensions=64).data
    assert abs(sum(x * x for x in vectors[0].embedding) - 1) < 1e-3
    assert MODEL in [model.id for model in client.models.list()]
    scored = client.completions.create(model=MODEL, prompt="The capital", echo=True, logprobs=1, max_tokens=0)
    return len(scored.choices[0].logprobs.tokens)


for name, work in {
    "chat of two turns": chat,
    "stream": stream,
    "tools and their results": tools,
    "parse": parsed,
    "responses of two turns": responses,
    "responses: tools in a stream": response_tools,
    "responses: parse": response_parsed,
    "embeddings, models, completions": others,
}.items():
    tried(name, work)
