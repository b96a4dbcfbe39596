"""What a client's script reports: a line of JSON for each thing that was tried."""

import json
import os
import traceback

URL, KEY, MODEL = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"], os.environ["NEWLEAF_MODEL"]
QUESTION = "What is the capital of France? Answer in one sentence."
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def tried(name, work):
    """Run `work`, which fails by raising, and report it."""
    try:
        said = work()
        print(
            json.dumps({"what": name, "ok": True, "note": str(said if said is not None else "")[:200]}),
            flush=True,
        )
    except Exception as error:
        traceback.print_exc()
        print(
            json.dumps({"what": name, "ok": False, "note": f"{type(error).__name__}: {error}"[:400]}),
            flush=True,
        )
