"""How many held-out rows a timed run can afford to look at, so that training has the greater part of the
time."""

from __future__ import annotations

from dataclasses import dataclass

VALIDATIONS = 10  # validations of a run whose recipe does not say
VALIDATION_SHARE = 0.03  # of a timed run, for the validations on the way
# of a timed run, at most, for the figures that stand before and after, with the closing report
FINAL_SHARE = 0.3
PROBE_SHARE = 0.02  # of a timed run, for finding out what a row takes
MIN_ROWS = 16  # of a validation on the way
WARM_UP_ROWS = 2  # of the very first look, which takes longer than any other


@dataclass(frozen=True)
class ValidationPlan:
    """`validations` validations of `rows` rows each, the last at the end of the training.

    Figures over `final_rows` rows stand before and after it, and the report reads `report_rows` more.
    """

    validations: int
    rows: int
    final_rows: int
    report_rows: int

    @property
    def total_rows(self) -> int:
        """What is read when the training is over."""
        return self.final_rows + self.report_rows


def plan_validation(
    seconds: float, row_seconds: float, wanted: int, all_rows: int, reports: int, looks: int
) -> ValidationPlan:
    """The plan for a run of `seconds` in which a row takes `row_seconds`.

    `wanted` rows are enough for a validation on the way, of `all_rows`; a report reads `reports` rows of its
    own; the closing figures are asked for `looks` times. Where a few rows are too dear to be looked at ten
    times, there are fewer checks.
    """
    row_seconds = max(row_seconds, 1e-9)
    share = min(1.0, FINAL_SHARE * seconds / row_seconds / (looks * all_rows + reports))
    closing, report = max(1, int(share * all_rows)), min(reports, max(1, int(share * reports)))
    affordable = VALIDATION_SHARE * seconds / row_seconds  # rows of all checks together
    few = min(MIN_ROWS, wanted, closing)
    rows = min(wanted, closing, max(few, int(affordable / VALIDATIONS)))
    validations = max(1, min(VALIDATIONS, int(affordable / rows)))
    return ValidationPlan(validations, rows, closing, report)


def probe_rows(seconds: float, single_seconds: float, wanted: int) -> int:
    """Rows of the look that measures what a row takes, after a single one took `single_seconds`."""
    affordable = int(PROBE_SHARE * seconds / max(single_seconds, 1e-9))
    return max(1, min(MIN_ROWS, wanted, affordable))
