"""The section of a recipe that says how conversations are learned from."""

from __future__ import annotations

from dataclasses import dataclass

from newleaf.measure.corpus_scores import TextMetric


@dataclass(frozen=True)
class ChatConfig:
    """Conversations. `length` is the most tokens of an example and of a packed window, 0 for the context's
    own, up to 1,024."""

    length: int = 0
    packed: bool = True  # several conversations in a window, which do not see each other
    system: str | None = None  # before conversations that have no system message
    template: str | None = None  # a file with a Jinja chat template that takes the place of the model's own
    new_template: bool = True  # ChatML for a model that has none; otherwise such a model is refused
    # of the answers that the model writes itself, against the last answers of the validation set
    measure: TextMetric | None = None
    answers: int = 64  # of a validation are written at most
    max_tokens: int = 128  # of each

    def __post_init__(self) -> None:
        for name, least in (("length", 0), ("answers", 1), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be at least {least}, not {getattr(self, name)!r}")
