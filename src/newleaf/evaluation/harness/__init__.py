"""lm-evaluation-harness on newleaf's engine. Only this package imports lm_eval."""

try:
    import datasets  # noqa: F401
    import lm_eval.evaluator  # noqa: F401
except ImportError as error:
    from newleaf.errors import InputError

    raise InputError(
        f"lm_eval: tasks with this name are lm-evaluation-harness's ({error}); run: pip install "
        f"'newleaf[eval]'"
    ) from None

from newleaf.evaluation.harness.lm import NewleafLM
from newleaf.evaluation.harness.local_data import local_data
from newleaf.evaluation.harness.run import check_harness, run_harness, task_manager

__all__ = ["NewleafLM", "check_harness", "local_data", "run_harness", "task_manager"]
