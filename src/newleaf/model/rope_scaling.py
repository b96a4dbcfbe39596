"""A context longer than the trained one: only the rates of the rotary positions change.

Keys are cached as they were rotated, and texts with a common prefix share them. So the rates follow from the
context that was asked for, not from a text's length at the moment: the cache always holds what one pass over
the full text would give.
"""

from __future__ import annotations

from typing import Literal, get_args

from newleaf.model.gpt_config import ConfigError, GPTConfig

Method = Literal["yarn", "ntk"]
MAX_FACTOR = 64  # times the trained context; YaRN's authors went to 32


def with_context(config: GPTConfig, length: int, method: Method = "yarn") -> GPTConfig:
    """The configuration for texts of up to `length` tokens; a shorter context changes only the limit.

    yarn (Peng et al. 2023, arXiv:2309.00071): dimensions that turn often keep their rate, slow ones are
    slowed down by the factor length / context. Where the network has YaRN already, its factor grows in
    proportion.
    ntk (dynamic NTK, bloc97 and emozilla 2023; "dynamic" in transformers): the base becomes what dynamic NTK
    with that factor takes for a text of `length` tokens, for shorter texts too.

    Raises ConfigError, starting with `context`, where positions cannot be stretched, or not so far.
    """
    trained = config.context_length
    if type(length) is not int or length < 2:
        raise ConfigError(f"context: must be a whole number of tokens, at least 2, not {length!r}")
    if method not in get_args(Method):
        raise ConfigError(f"context_method: {method!r} is not one of {', '.join(get_args(Method))}")
    if config.positions != "rotary":
        if length == trained:
            return config
        kind = "a learned table" if config.positions == "learned" else "sinusoids that it was trained with"
        raise ConfigError(
            f"context: positions of this model are {kind} of {trained} tokens; only rotary positions can be "
            "stretched"
        )
    if length <= trained:
        return config.replace(context_length=length)
    factor = length / trained
    if factor > MAX_FACTOR:
        raise ConfigError(
            f"context: {length} is more than {MAX_FACTOR} times the {trained} tokens that this model was "
            "made for"
        )
    if method == "yarn":
        yarn = {"yarn_factor": factor, "yarn_context": trained}
        if config.yarn_factor:
            yarn = {"yarn_factor": config.yarn_factor * factor}
        return config.replace(context_length=length, **yarn)
    if config.yarn_factor:
        raise ConfigError(
            "context_method: this model was made with YaRN, which is stretched further by yarn only"
        )
    if config.rotary_dim < 4:
        raise ConfigError(
            "context_method: ntk needs 4 dimensions of a head that turn; this model has 2, and yarn takes it"
        )
    grown = factor * length / trained - (factor - 1)
    return config.replace(
        context_length=length,
        rotary_base=config.rotary_base * grown ** (config.rotary_dim / (config.rotary_dim - 2)),
    )
