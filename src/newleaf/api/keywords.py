"""The keywords of `Model`'s methods beside sampling options: those of the chat template."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from newleaf.errors import InputError
from newleaf.generate.options import TextOptions
from newleaf.recipe import check_names
from newleaf.text.chat_template import RenderOptions


class TemplateOptions(TypedDict, total=False):
    """What a chat template is given beside the messages."""

    tools: Sequence[Any] | None
    documents: Sequence[Any] | None
    template_variables: Mapping[str, Any] | None


class ChatOptions(TextOptions, TemplateOptions, total=False):
    """Keywords of `Model.chat`, for `Unpack[ChatOptions]`."""

    continue_final_message: bool


TEMPLATE_OPTIONS = (*TemplateOptions.__annotations__, "continue_final_message")


def rendering(options: Mapping[str, Any]) -> RenderOptions:
    """How a conversation is rendered with these options. Raises InputError for one that does not exist."""
    check_names(options, TEMPLATE_OPTIONS)
    given = dict(options)
    return RenderOptions(variables=given.pop("template_variables", None) or {}, **given)


def refuse_logprobs(options: Mapping[str, Any], method: str) -> None:
    """Raises InputError for log-probabilities, which this method has no place for."""
    for option in ("logprobs", "prompt_logprobs"):
        if options.get(option) is not None:
            raise InputError(f"{option}: {method} returns text only; complete returns log-probabilities too")


def warn_deprecated(old: str, new: str) -> None:
    """Tell the caller of a deprecated method what to call."""
    warnings.warn(f"{old} is deprecated; use {new}", DeprecationWarning, stacklevel=3)
