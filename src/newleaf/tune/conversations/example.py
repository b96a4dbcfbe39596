"""What is learned from: the tokens of a conversation, and which of them the assistant wrote.

Two of them as a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Example:
    """A rendered conversation: `ids` int32 [n], and `learned` [n], true where a token is one the
    assistant wrote."""

    where: str
    ids: npt.NDArray[np.int32]
    learned: npt.NDArray[np.bool_]

    @property
    def places(self) -> int:
        """Positions it takes in a window: each reads a token and predicts the next."""
        return len(self.ids) - 1

    @property
    def has_targets(self) -> bool:
        """Whether there is anything to learn: the first token of all is predicted from nothing."""
        return bool(self.learned[1:].any())


@dataclass(frozen=True)
class ExamplePair:
    """Two answers to the same prompt, and what a reference model gives each, the sum of log p over its
    tokens, where that is wanted."""

    chosen: Example
    rejected: Example
    reference: tuple[float, float] = (0.0, 0.0)

    @property
    def places(self) -> int:
        """Positions of both."""
        return self.chosen.places + self.rejected.places
