"""Bodies as Open WebUI, LibreChat and SillyTavern send them, by hand: these programs are whole websites."""

import json
import urllib.request

from say import KEY, MODEL, QUESTION, URL, tried


def post(path, body):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    return urllib.request.urlopen(
        urllib.request.Request(URL + path, json.dumps(body).encode(), headers), timeout=300
    )


def streamed(body):
    with post("/chat/completions", body) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line]
        ignored = answer.headers.get("x-newleaf-ignored", "nothing")
    assert lines[-1] == "data: [DONE]"
    return f"{len(lines)} events; ignored: {ignored}"


ASKED = [{"role": "user", "content": QUESTION}]
OPEN_WEBUI = {
    "stream": True,
    "model": MODEL,
    "messages": ASKED,
    "stream_options": {"include_usage": True},
    "max_tokens": 30,
    "metadata": {"user_id": "u", "chat_id": "c", "variables": {"{{USER_NAME}}": "U"}},
    "options": {"num_ctx": 2048, "temperature": 0.7, "repeat_penalty": 1.1},
    "keep_alive": "5m",
    "tool_ids": None,
    "features": {"web_search": False},
}
TITLE = {
    "model": MODEL,
    "messages": ASKED,
    "stream": False,
    "max_completion_tokens": 1000,
    "metadata": {"task": "title_generation"},
}
LIBRECHAT = {
    "model": MODEL,
    "user": "u",
    "stream": True,
    "messages": [{"role": "system", "content": "Be brief."}, *ASKED],
    "top_p": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "max_tokens": 30,
    "promptPrefix": None,
    "chatGptLabel": None,
    "safety_identifier": "u",
}
SILLYTAVERN = {
    "model": MODEL,
    "messages": ASKED,
    "stream": True,
    "max_tokens": 30,
    "temperature": 1,
    "top_k": 0,
    "min_p": 0.05,
    "top_a": 0,
    "repetition_penalty": 1.1,
    "stop": [],
    "logit_bias": {},
    "seed": -1,
    "n": 1,
    "enable_web_search": False,
    "reasoning_effort": "medium",
    "user_name": "U",
    "char_name": "C",
    "group_names": [],
    "include_reasoning": True,
}
tried("Open WebUI: chat", lambda: streamed(OPEN_WEBUI))
tried("Open WebUI: title", lambda: json.load(post("/chat/completions", TITLE))["choices"][0]["finish_reason"])
tried("LibreChat: chat", lambda: streamed(LIBRECHAT))
tried("SillyTavern: chat", lambda: streamed(SILLYTAVERN))
