"""LlamaIndex: chat, streams, tools, structured output and embeddings by the classes for OpenAI and for
servers like it."""

from typing import Literal

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from say import KEY, MODEL, QUESTION, URL, tried


class City(BaseModel):
    """A city."""

    city: Literal["Paris", "Oslo"]


def get_weather(city: Literal["Paris", "Oslo"]) -> str:
    """The weather of a city."""
    return f"It rains in {city}."


def model():
    options = {
        "is_chat_model": True,
        "is_function_calling_model": True,
        "context_window": 4096,
        "max_tokens": 60,
        "max_retries": 0,
    }
    return OpenAILike(model=MODEL, api_base=URL, api_key=KEY, **options)


def turns():
    thread = [ChatMessage(role="user", content=QUESTION)]
    thread += [model().chat(thread).message, ChatMessage(role="user", content="And of Norway?")]
    return "".join(each.delta or "" for each in model().stream_chat(thread))[:80]


def complete():
    return (
        OpenAILike(model=MODEL, api_base=URL, api_key=KEY, max_tokens=20, is_chat_model=False)
        .complete("The capital of France is")
        .text
    )


def tools():
    found = model().chat_with_tools(
        [FunctionTool.from_defaults(get_weather)], user_msg="The weather in Oslo?", tool_required=True
    )
    (call, *_) = model().get_tool_calls_from_response(found)
    thread = [ChatMessage(role="user", content="The weather in Oslo?"), found.message]
    thread += [
        ChatMessage(role="tool", content="Rain.", additional_kwargs={"tool_call_id": each.tool_id})
        for each in model().get_tool_calls_from_response(found)
    ]
    model().chat(thread)
    return call.tool_kwargs


def structured():
    return (
        model()
        .structured_predict(City, PromptTemplate("Name a city."), llm_kwargs={"tool_choice": "required"})
        .city
    )


def embeddings():
    return len(OpenAIEmbedding(model_name=MODEL, api_base=URL, api_key=KEY).get_text_embedding("a"))


tried("two turns, streamed", turns)
tried("completion", complete)
tried("tools and their results", tools)
tried("structured output", structured)
tried("embeddings", embeddings)
