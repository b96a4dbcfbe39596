"""pydantic-ai: agents with tools and typed outputs over chat completions and responses."""

from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput, UsageLimitExceeded, UsageLimits
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from say import KEY, MODEL, QUESTION, URL, tried


class City(BaseModel):
    city: Literal["Paris", "Oslo"]


def model(kind):
    return kind(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY))


def turns(kind):
    def run():
        agent = Agent(model(kind), instructions="Be brief.", model_settings={"max_tokens": 40})
        first = agent.run_sync(QUESTION)
        assert first.usage.output_tokens > 0 if not callable(first.usage) else first.usage().output_tokens > 0
        return agent.run_sync("And of Norway?", message_history=first.all_messages()).output[:60]

    return run


def typed(kind, wrap):
    return lambda: Agent(model(kind), output_type=wrap(City), retries=0).run_sync("Name a city.").output.city


def tools(kind):
    """A model this small may never be done with calling; that its calls are made and their results come back
    is what counts."""

    def run():
        agent, called = (
            Agent(model(kind), output_type=ToolOutput(City), model_settings={"max_tokens": 100}),
            [],
        )

        @agent.tool_plain
        def get_weather(city: Literal["Paris", "Oslo"]) -> str:
            """The weather of a city."""
            called.append(city)
            return f"It rains in {city}."

        try:
            agent.run_sync("How is the weather in Oslo?", usage_limits=UsageLimits(request_limit=4))
        except UsageLimitExceeded:
            assert called, "nothing was called"
        return f"called {len(called)} times"

    return run


for name, kind in (("chat", OpenAIChatModel), ("responses", OpenAIResponsesModel)):
    tried(f"{name}: two turns", turns(kind))
    tried(f"{name}: typed by a tool", typed(kind, ToolOutput))
    tried(f"{name}: typed by a schema", typed(kind, NativeOutput))
    tried(f"{name}: a tool and a typed result", tools(kind))
