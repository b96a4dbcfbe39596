"""What `import newleaf` hands out: models that write, and runs that made them."""

from newleaf.api.evaluating import evaluate
from newleaf.api.model import Model
from newleaf.api.opening import load
from newleaf.api.run import Run
from newleaf.api.training import finetune, pretrain, resume

__all__ = ["Model", "Run", "evaluate", "finetune", "load", "pretrain", "resume"]
