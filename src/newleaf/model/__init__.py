"""The network: one GPT, built from one frozen configuration. Pure PyTorch; imports nothing of newleaf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from newleaf.model.gpt_config import ConfigError, GPTConfig

if TYPE_CHECKING:
    from newleaf.model.gpt import GPT
    from newleaf.model.kv_cache import KVCache

__all__ = ["GPT", "ConfigError", "GPTConfig", "KVCache"]


def __getattr__(name: str) -> Any:
    """A plan needs configurations only, and PyTorch takes seconds to import: it waits for the first
    network."""
    if name == "GPT":
        from newleaf.model.gpt import GPT

        return GPT
    if name == "KVCache":
        from newleaf.model.kv_cache import KVCache

        return KVCache
    raise AttributeError(f"module 'newleaf.model' has no attribute {name!r}")
