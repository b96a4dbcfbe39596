"""instructor: typed answers by its modes for tools, JSON and JSON Schema."""

from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field
from say import KEY, MODEL, URL, tried


class Person(BaseModel, extra="forbid"):
    name: Literal["Ada", "Alan"]
    born: int = Field(ge=1800, le=1950)


def by(mode):
    def run():
        client = instructor.from_openai(OpenAI(base_url=URL, api_key=KEY, max_retries=0), mode=mode)
        messages = [{"role": "user", "content": "Who wrote the first program?"}]
        return client.chat.completions.create(
            model=MODEL, response_model=Person, messages=messages, max_retries=0, max_tokens=120
        )

    return run


for name in ("TOOLS", "TOOLS_STRICT", "JSON", "JSON_SCHEMA", "RESPONSES_TOOLS"):
    if hasattr(instructor.Mode, name):
        tried(name, by(getattr(instructor.Mode, name)))
