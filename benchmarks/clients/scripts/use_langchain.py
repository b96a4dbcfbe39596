"""LangChain: chat models over both interfaces, tools, structured output, and embeddings."""

from typing import Literal

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from say import KEY, MODEL, QUESTION, URL, tried


class City(BaseModel):
    """A city."""

    city: Literal["Paris", "Oslo"]


def get_weather(city: Literal["Paris", "Oslo"]) -> str:
    """The weather of a city."""
    return f"It rains in {city}."


def model(**options):
    return ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, max_retries=0, max_tokens=60, **options)


def turns(**options):
    def run():
        talker = model(**options)
        thread = [HumanMessage(QUESTION)]
        thread += [talker.invoke(thread), HumanMessage("And of Norway?")]
        assert thread[1].usage_metadata["total_tokens"] > 0
        return "".join(str(chunk.text) for chunk in talker.stream(thread))[:80]

    return run


def tools(**options):
    def run():
        thread = [HumanMessage("How is the weather in Oslo?")]
        asked = (
            model(**options)
            .bind_tools([get_weather], tool_choice="any", strict=True, parallel_tool_calls=False)
            .invoke(thread)
        )
        assert asked.tool_calls[0]["args"]["city"] in ("Paris", "Oslo")
        agent = create_agent(model(**options), tools=[get_weather])
        return len(agent.invoke({"messages": thread})["messages"])

    return run


def structured(method):
    return lambda: model().with_structured_output(City, method=method).invoke("Name a city.").city


def embeddings():
    return len(
        OpenAIEmbeddings(
            model=MODEL, base_url=URL, api_key=KEY, check_embedding_ctx_length=False
        ).embed_query("a")
    )


tried("two turns, streamed", turns())
tried("tools and an agent", tools())
tried("structured output: json_schema", structured("json_schema"))
tried("structured output: function_calling", structured("function_calling"))
tried("responses: two turns, streamed", turns(use_responses_api=True))
tried("responses: tools and an agent", tools(use_responses_api=True))
tried("embeddings", embeddings)
