"""smolagents: its model class for OpenAI's interface, a tool-calling agent, and a code agent's first step."""

from say import KEY, MODEL, QUESTION, URL, tried
from smolagents import OpenAIServerModel, ToolCallingAgent, tool
from smolagents.models import ChatMessage


@tool
def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: Its name.
    """
    return f"It rains in {city}."


def model():
    return OpenAIServerModel(
        model_id=MODEL, api_base=URL, api_key=KEY, max_tokens=100, client_kwargs={"max_retries": 0}
    )


def message():
    asked = [ChatMessage(role="user", content=[{"type": "text", "text": QUESTION}])]
    first = model()(asked)
    return "".join(each.content or "" for each in model().generate_stream([*asked, first, *asked]))[:60]


def agent():
    agent_ = ToolCallingAgent(tools=[get_weather], model=model(), max_steps=2, verbosity_level=0)
    agent_.run("How is the weather in Oslo?")
    steps = [step for step in agent_.memory.steps if getattr(step, "tool_calls", None)]
    assert steps, "no step called a tool"
    return f"{len(steps)} steps called {steps[0].tool_calls[0].name}"


tried("two turns, streamed", message)
tried("tool-calling agent, two steps", agent)
