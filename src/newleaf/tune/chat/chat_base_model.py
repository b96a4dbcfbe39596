"""A base model made ready to chat: its template, or a new one with tokens of its own, and what its folder
says afterwards."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from newleaf.errors import InputError
from newleaf.model import GPT
from newleaf.text.chat_template import ChatTemplate
from newleaf.text.tokenizer import Tokenizer
from newleaf.train.display.monitor import Monitor
from newleaf.tune.base_model import Base
from newleaf.tune.chat.chat_config import ChatConfig
from newleaf.tune.chat.template import with_chat_tokens
from newleaf.tune.new_tokens import add_rows, new_tokens
from newleaf.tune.tune_config import TuneConfig


@dataclass(frozen=True)
class ChatBase:
    """A base with a tokenizer that has a chat template.

    `added` are ids that the base's own tokenizer does not give.
    """

    base: Base
    tokenizer: Tokenizer
    added: list[int]
    seed: int

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate.of(self.tokenizer)

    @property
    def template_fingerprint(self) -> str:
        """Names the template's text."""
        sources = json.dumps(self.template.sources, sort_keys=True)
        return hashlib.blake2b(sources.encode(), digest_size=16).hexdigest()

    @property
    def pad_id(self) -> int:
        """What fills windows up; no position that counts sees it."""
        ids = (self.tokenizer.pad_id, self.tokenizer.eos_id, self.tokenizer.bos_id)
        return next((token for token in ids if token is not None), 0)

    def network(self) -> GPT:
        """The base's network, with rows for the added tokens."""
        return add_rows(self.base.network(), self.added, self.base.tokenizer.vocab_size, self.seed)

    @property
    def defaults(self) -> dict[str, Any]:
        """generation_config.json: an answer also ends where the template ends a turn."""
        named = self.base.defaults.get("eos_token_id", self.tokenizer.eos_id)
        known = [token for token in (named if isinstance(named, list) else [named]) if token is not None]
        end = self.template.turn_end.token
        ends = ([end] if end is not None else []) + [token for token in known if token != end]
        return self.base.defaults | ({"eos_token_id": ends} if ends else {})


def chat_base(base: Base, config: ChatConfig, tuning: TuneConfig, monitor: Monitor) -> ChatBase:
    """The base with the template that the recipe names, its own, or a new one.

    Raises InputError when there is none to be had.
    """
    tokenizer = base.tokenizer
    if config.template is not None:
        ready = with_chat_tokens(tokenizer, _read(Path(config.template)))
    elif tokenizer.settings.get("chat_template"):
        ready = tokenizer
    elif config.new_template:
        ready = with_chat_tokens(tokenizer)
    else:
        raise InputError(
            f"{base.name}: has no chat template; give one with --chat.template FILE, or let "
            f"chat.new_template add one"
        )
    added = new_tokens(tokenizer, ready)
    if tuning.lora is not None and ready is not tokenizer:
        raise InputError(
            f"lora: an adapter leaves the model's tokens and template as they are, and {base.name} would "
            f"get new ones; "
            "begin from a chat model, or tune all weights for chat first"
        )
    if ready is not tokenizer:
        names = ", ".join(str(ready.backend.id_to_token(token)) for token in added)
        said = f", with the tokens {names}, which begin as the mean of all others" if added else ""
        monitor.say(f"Chat template: {config.template or 'new, in the layout of ChatML'}{said}.")
    return ChatBase(base, ready, added, tuning.train.seed)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"chat.template: {path} cannot be read ({error})") from None
