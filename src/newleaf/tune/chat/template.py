"""A chat template for a model that has none: ChatML's layout, and a tokenizer that knows its tokens."""

from __future__ import annotations

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from newleaf.text.tokenizer import Tokenizer

START, END = "<|im_start|>", "<|im_end|>"

# No {% generation %} markers: programs other than transformers stumble over them. Nothing earlier is
# rewritten, so answers can be told
# without them. Calls and thoughts stand in the tags that Qwen and others use.
TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}
{{- 'Functions that can be called, as JSON:\\n' }}
{%- for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}
{{- 'To call one, answer with <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.reasoning_content %}{{ '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}
{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{%- set function = call.function or call %}
{{- '<tool_call>' + {'name': function.name, 'arguments': function.arguments} | tojson + '</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def with_chat_tokens(tokenizer: Tokenizer, template: str = TEMPLATE) -> Tokenizer:
    """A tokenizer with this template that knows ChatML's tokens.

    The ids it gave before stay what they are.
    """
    backend = Backend.from_str(tokenizer.backend.to_str())
    missing = [token for token in (START, END) if token in template and backend.token_to_id(token) is None]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    settings = tokenizer.settings | {"chat_template": template}
    return Tokenizer(backend, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, settings)
