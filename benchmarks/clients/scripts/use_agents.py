"""openai-agents: an agent with a tool, a typed result and a session, over responses and over chat
completions."""

import asyncio
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel
from say import KEY, MODEL, QUESTION, URL, tried

set_tracing_disabled(True)


class City(BaseModel):
    city: Literal["Paris", "Oslo"]


@function_tool
def get_weather(city: Literal["Paris", "Oslo"]) -> str:
    """The weather of a city."""
    return f"It rains in {city}."


def client():
    return AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0)


def agent(kind, **options):
    settings = options.pop("settings", ModelSettings(max_tokens=60))
    return Agent(
        name="helper",
        instructions="Be brief.",
        model=kind(MODEL, client()),
        model_settings=settings,
        **options,
    )


def with_tools(kind):
    def run():
        settings = ModelSettings(tool_choice="required", max_tokens=400, parallel_tool_calls=False)
        found = asyncio.run(
            Runner.run(agent(kind, tools=[get_weather], settings=settings), "How is the weather in Oslo?")
        )
        assert any(item.type == "tool_call_output_item" for item in found.new_items)
        return found.final_output

    return run


def typed(kind):
    return lambda: asyncio.run(Runner.run(agent(kind, output_type=City), "Name a city.")).final_output.city


def turns(kind):
    async def run():
        session = SQLiteSession("one")
        await Runner.run(agent(kind), QUESTION, session=session)
        streamed = Runner.run_streamed(agent(kind), "And of Norway?", session=session)
        count = len([event async for event in streamed.stream_events()])
        return f"{count} events, {streamed.final_output[:60]}"

    return lambda: asyncio.run(run())


for name, kind in (("responses", OpenAIResponsesModel), ("chat", OpenAIChatCompletionsModel)):
    tried(f"{name}: tool and its result", with_tools(kind))
    tried(f"{name}: typed result", typed(kind))
    tried(f"{name}: two turns, streamed", turns(kind))
