"""The state of speculation for each sequence: prompt-lookup index, acceptance rates, draft."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from newleaf.generate.speculation.acceptance_rates import AcceptanceRates
from newleaf.generate.speculation.prompt_lookup import PromptLookup
from newleaf.generate.text.sequence import Sequence


@dataclass
class SpeculationState:
    """The state of one sequence. It outlives the sequence's slot, since the text can be admitted again."""

    lookup: PromptLookup = field(default_factory=PromptLookup)
    acceptance: AcceptanceRates | None = None  # of prompt lookup in this text
    draft_base: int = 0  # index in the text of the first token that the draft has read
    draft_read: int = 0  # tokens of the text in the draft's KV cache, from `draft_base` on
    draft_tokens: list[int] = field(default_factory=list)  # own proposals, which follow those in its cache
    paused_steps: int = 0  # steps until the draft is tried again
    last_pause: int = 0  # length of the last pause in steps


class SpeculationStates:
    """The states of all sequences; each is dropped with its sequence."""

    def __init__(self) -> None:
        self._states: WeakKeyDictionary[Sequence, SpeculationState] = WeakKeyDictionary()

    def of(self, sequence: Sequence) -> SpeculationState:
        """The state of this sequence; a new one where it has none yet."""
        state = self._states.get(sequence)
        if state is None:
            state = self._states[sequence] = SpeculationState()
        return state

    def __len__(self) -> int:
        return len(self._states)
