"""One opening and the first tokens after it, in a process of its own, as JSON of seconds and memory.

    python -m benchmarks.load_one newleaf|llama.cpp MODEL HOW TOKENS

HOW is newleaf's number format or "as stored", and for llama.cpp "mapped" or "read".
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from benchmarks.memory_watch import Watch

PROMPT = "a b c"


def newleaf(model: str, how: str, tokens: int) -> Any:
    """Yields when the model is open."""
    import newleaf as package

    opened = package.load(model, weights=None if how == "as stored" else how)
    yield
    opened.generate(PROMPT, max_tokens=tokens, temperature=0)


def llama_cpp(model: str, how: str, tokens: int) -> Any:
    """Its own calls with its own defaults: a context of 512 tokens, and keys and values in fp16."""
    import ctypes

    import llama_cpp as lib

    params = lib.llama_model_default_params()
    params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if how == "mapped" else lib.LLAMA_LOAD_MODE_NONE
    opened = lib.llama_model_load_from_file(model.encode(), params)
    yield
    context = lib.llama_init_from_model(opened, lib.llama_context_default_params())
    vocab = lib.llama_model_get_vocab(opened)
    ids = (lib.llama_token * 64)()
    count = lib.llama_tokenize(vocab, PROMPT.encode(), len(PROMPT), ids, 64, True, True)
    size = lib.llama_vocab_n_tokens(vocab)
    for _ in range(tokens):
        if lib.llama_decode(context, lib.llama_batch_get_one(ids, count)):
            raise RuntimeError("llama.cpp could not read the tokens")
        logits = ctypes.cast(
            lib.llama_get_logits_ith(context, -1), ctypes.POINTER(ctypes.c_float * size)
        ).contents
        ids[0], count = max(range(size), key=logits.__getitem__), 1


def prepare(program: str) -> None:
    """Import what is there before a model is."""
    if program == "newleaf":
        import torch  # noqa: F401

        import newleaf.api
        import newleaf.families
        import newleaf.storage.model_folder  # noqa: F401
    else:
        import ctypes

        import llama_cpp as lib

        prepare.quiet = lib.llama_log_callback(lambda *_: None)  # type: ignore[attr-defined]
        lib.llama_log_set(prepare.quiet, ctypes.c_void_p(0))  # type: ignore[attr-defined]
        lib.llama_backend_init()


def main() -> None:
    program, model, how, tokens = sys.argv[1:]
    prepare(program)
    watch = Watch()
    found: dict[str, Any] = {"before": watch.look()}
    with watch.running():
        steps = (newleaf if program == "newleaf" else llama_cpp)(model, how, int(tokens))
        begin = time.perf_counter()
        next(steps)
        found |= {"open": time.perf_counter() - begin, "at_open": watch.look()}
        begin = time.perf_counter()
        next(steps, None)
        found["write"] = time.perf_counter() - begin
    print(json.dumps(found | {"at_last": watch.look()}))


if __name__ == "__main__":
    main()
