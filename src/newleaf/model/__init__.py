"""The network: one GPT, built from one frozen configuration. Pure PyTorch; imports nothing of newleaf."""

from newleaf.model.cache import KVCache
from newleaf.model.config import ConfigError, GPTConfig
from newleaf.model.gpt import GPT

__all__ = ["GPT", "ConfigError", "GPTConfig", "KVCache"]
