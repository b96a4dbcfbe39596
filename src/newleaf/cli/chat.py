"""`newleaf chat`: talk with a model, in a terminal or through pipes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from newleaf.cli.answer_speed import Timed
from newleaf.cli.sampling_options import add_sampling_options, given_options
from newleaf.cli.shared_options import (
    add_cache_option,
    add_context_options,
    add_draft_options,
    add_model_options,
    apply_offline,
    open_draft,
    opening_options,
)
from newleaf.errors import InputError

if TYPE_CHECKING:
    from newleaf.api import Model
    from newleaf.generate.chat.conversation import Conversation

# Options of generate that mean nothing for one answer that is written as it comes.
NOT_FOR_ANSWERS = (
    "--guidance-scale",
    "--negative-prompt",
    "--best-of",
    "--beams",
    "--length-penalty",
    "--logprobs",
    "--prompt-logprobs",
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "chat",
        help="talk with a model",
        description="Talk with a model in its own chat template. In a terminal, /help lists what else there "
        "is. "
        "From a pipe, each line is a message and each answer is printed; with --json, each answer is a JSON "
        "object on a line.",
    )
    parser.add_argument("model", help="a run, a model folder, a .gguf file, or owner/name of the Hub")
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    parser.add_argument(
        "--template", type=Path, metavar="FILE", help="a Jinja chat template in place of the model's own"
    )
    parser.add_argument(
        "--template-variable",
        action="append",
        metavar="NAME=VALUE",
        help="a variable of the template, such as enable_thinking=false; may be given several times",
    )
    add_sampling_options(parser, NOT_FOR_ANSWERS)
    add_draft_options(parser)
    add_model_options(parser)
    add_context_options(parser)
    add_cache_option(parser)
    parser.set_defaults(run=run, name="chat")


def run(args: argparse.Namespace) -> int:
    apply_offline(args)
    variables = dict(_variable(text) for text in args.template_variable or [])
    from newleaf.api.opening import load_for_text
    from newleaf.generate.chat.answering import answer_config
    from newleaf.generate.chat.sampling_defaults import chat_sampling
    from newleaf.generate.speculation.draft_model import check_drafting
    from newleaf.text.load_tokenizer import read_template

    template = read_template(args.template) if args.template is not None else None
    in_terminal = sys.stdin.isatty() and sys.stdout.isatty() and not args.json
    given = given_options(args)
    if in_terminal:
        print(f"Opening {args.model} …", end="", flush=True)
    try:
        model = load_for_text(args.model, **opening_options(args))
        draft = open_draft(args)
    finally:
        if in_terminal:
            print("\r\033[K", end="", flush=True)
    if template is not None:
        model.use_template(template)
    options = chat_sampling(model.defaults) | given
    conversation = model.conversation(args.system, draft=draft, template_variables=variables)
    check_drafting(draft is not None, answer_config(options))
    if in_terminal:
        from newleaf.cli.chat_terminal import Terminal

        Terminal(model, conversation, options, str(args.model)).run()
    else:
        _answer_lines(model, conversation, options, args.json)
    return 0


def _answer_lines(model: Model, conversation: Conversation, options: dict[str, Any], as_json: bool) -> None:
    from newleaf.generate.chat.answering import gather

    context = model.network.config.context_length
    for number, line in enumerate(sys.stdin, 1):
        text = line.rstrip("\r\n")
        if not text.strip():
            continue
        pieces = Timed(conversation.say(text, **options))
        try:
            reply = gather(pieces)
        except InputError as error:
            raise InputError(f"line {number}: {error}") from None
        if reply.end == "context":
            cut = f"the answer to line {number} ends after {reply.tokens:,} tokens"
            print(f"newleaf: {cut}, where the context of {context:,} was full", file=sys.stderr)
        if as_json:
            speed = round(pieces.per_second, 1) if pieces.per_second is not None else None
            row = reply.message | {"end": reply.end, "tokens": reply.tokens, "tokens_per_second": speed}
            print(json.dumps(row, ensure_ascii=False), flush=True)
        else:
            print(reply.content, flush=True)


def _variable(text: str) -> tuple[str, Any]:
    """NAME=VALUE, where the value is JSON or else text."""
    name, found, value = text.partition("=")
    if not found or not name.isidentifier():
        raise InputError(f"--template-variable: {text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
