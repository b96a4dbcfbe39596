"""The network: a GPT built from one frozen configuration, in PyTorch and loops compiled for CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from newleaf.model.gpt_config import ConfigError, GPTConfig

if TYPE_CHECKING:
    from newleaf.model.gpt import GPT
    from newleaf.model.kv_cache import KVCache

__all__ = ["GPT", "ConfigError", "GPTConfig", "KVCache"]


def __getattr__(name: str) -> Any:
    """GPT and KVCache when first used: configurations alone, as a plan needs, do not wait for PyTorch."""
    if name == "GPT":
        from newleaf.model.gpt import GPT

        return GPT
    if name == "KVCache":
        from newleaf.model.kv_cache import KVCache

        return KVCache
    raise AttributeError(f"module 'newleaf.model' has no attribute {name!r}")
