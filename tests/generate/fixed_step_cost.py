"""Times that do not depend on what else the machine does."""

from __future__ import annotations

from newleaf.generate.speculation.step_cost import StepCost


class FixedStepCost(StepCost):
    """A machine where a row takes `one` and each further one `more`, whatever is measured."""

    def __init__(self, one: float, more: float) -> None:
        super().__init__()
        self.one, self.more, self.sampling_seconds = one, more, 0.0

    @property
    def known(self) -> bool:
        return True

    def record(self, texts: int, rows: int, seconds: float) -> None:
        pass

    def record_sampling(self, tokens: int, seconds: float) -> None:
        pass

    def seconds(self, texts: int, rows: int) -> float:
        return self.one + self.more * (rows - 1)
