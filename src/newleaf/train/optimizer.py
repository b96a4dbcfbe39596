"""One optimizer step: Muon for the matrices inside the blocks, AdamW for the rest, fp32 master weights behind a bf16 network."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

# The quintic of Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), as torch.optim.Muon has it.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class OptimizerConfig:
    """Rates are peaks; the schedule multiplies them. Zero clips nothing or decays nothing."""

    kind: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 3e-3  # AdamW's: embeddings, head, norms, biases; with kind "adamw", everything
    matrix_learning_rate: float = 0.02  # Muon's, before the factor sqrt(max(1, rows / columns))
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95
    weight_decay: float = 0.1  # on matrices and embeddings, never on norms and biases
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("muon", "adamw"):
            raise ValueError(f"optimizer.kind: {self.kind!r} is not one of muon, adamw")
        for name in ("learning_rate", "matrix_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"optimizer.{name}: must be above 0, not {getattr(self, name)!r}")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}: must be at least 0 and below 1, not {getattr(self, name)!r}")
        for name in ("weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer.{name}: must be at least 0, not {getattr(self, name)!r}")


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices to `matrices` [N, R, C], roughly: five Newton–Schulz steps in bf16, all N at once."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Optimizer:
    """Steps a network whose weights may be bf16, keeping fp32 masters of all of them.

    Groups: `matrices` (every 2-D weight inside the blocks, Muon), `embeddings` (embedding and head, AdamW with decay),
    `vectors` (norms and biases, AdamW without). With kind "adamw" the matrices are AdamW's too, with decay.
    """

    def __init__(self, network: nn.Module, config: OptimizerConfig, dtype: torch.dtype = torch.float32) -> None:
        """Takes the network's weights as masters and turns the network itself into `dtype`."""
        self.config = config
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.weights = [p for _, p in named]
        self.masters = [p.detach().to(torch.float32, copy=True) for p in self.weights]
        network.to(dtype)
        in_blocks = {name for name, p in named if p.ndim == 2 and name.startswith("blocks.")}
        matrices = [i for i, name in enumerate(self.names) if name in in_blocks]
        decayed = [i for i, p in enumerate(self.weights) if p.ndim == 2 and i not in set(matrices)]
        vectors = [i for i, p in enumerate(self.weights) if p.ndim < 2]
        self.stacks: list[list[int]] = []
        if config.kind == "muon":
            by_shape: dict[torch.Size, list[int]] = defaultdict(list)
            for i in matrices:
                by_shape[self.weights[i].shape].append(i)
            self.stacks = list(by_shape.values())
        else:
            decayed = sorted(matrices + decayed)
        self.momenta = [
            torch.zeros(len(stack), *self.weights[stack[0]].shape, device=self.weights[stack[0]].device) for stack in self.stacks
        ]
        groups = [
            {"params": [self.masters[i] for i in decayed], "weight_decay": config.weight_decay},
            {"params": [self.masters[i] for i in vectors], "weight_decay": 0.0},
        ]
        self.by_adam = decayed + vectors
        self.adam = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
        )

    @torch.no_grad()
    def step(self, factor: float) -> float:
        """Apply the gradients in the network at `factor` times the peak rates, clear them, and return their norm before clipping."""
        grads = [p.grad for p in self.weights if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(grads, foreach=True))
        scale = min(1.0, self.config.clip / (norm + 1e-6)) if self.config.clip else 1.0
        for stack, momentum in zip(self.stacks, self.momenta, strict=True):
            self._step_stack(stack, momentum, factor, scale)
        for i in self.by_adam:
            grad = self.weights[i].grad
            self.masters[i].grad = grad.float().mul_(scale) if grad is not None else None
        for group in self.adam.param_groups:
            group["lr"] = self.config.learning_rate * factor
        self.adam.step()
        for weight, master in zip(self.weights, self.masters, strict=True):
            weight.copy_(master)
            weight.grad = None
        return norm

    def _step_stack(self, stack: list[int], momentum: Tensor, factor: float, scale: float) -> None:
        grads = torch.stack([g for i in stack if (g := self.weights[i].grad) is not None]).float().mul_(scale)
        momentum.lerp_(grads, 1 - self.config.momentum)
        update = orthogonalize(grads.lerp_(momentum, self.config.momentum))
        rate = self.config.matrix_learning_rate * factor
        rows, columns = update.shape[-2:]
        for i, change in zip(stack, update, strict=True):
            self.masters[i].mul_(1 - rate * self.config.weight_decay).add_(change, alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def weights_by_name(self) -> dict[str, Tensor]:
        """The fp32 masters under the network's names."""
        return dict(zip(self.names, self.masters, strict=True))

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name: masters, momenta, AdamW's moments and step counts."""
        tensors = {f"master.{name}": master for name, master in zip(self.names, self.masters, strict=True)}
        for stack, momentum in zip(self.stacks, self.momenta, strict=True):
            tensors |= {f"momentum.{self.names[i]}": momentum[row] for row, i in enumerate(stack)}
        for i in self.by_adam:
            for key, value in self.adam.state[self.masters[i]].items():
                tensors[f"adam.{key}.{self.names[i]}"] = value
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` returned. Raises KeyError when a tensor is missing."""
        for name, master, weight in zip(self.names, self.masters, self.weights, strict=True):
            master.copy_(tensors[f"master.{name}"])
            weight.copy_(master)
        for stack, momentum in zip(self.stacks, self.momenta, strict=True):
            for row, i in enumerate(stack):
                momentum[row] = tensors[f"momentum.{self.names[i]}"]
        for i in self.by_adam:
            keys = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"adam.{k}.{self.names[i]}" in tensors]
            self.adam.state[self.masters[i]] = {k: tensors[f"adam.{k}.{self.names[i]}"].clone() for k in keys}
