"""One optimizer step: Muon for the matrices inside the blocks, AdamW for the rest, fp32 master weights behind
a bf16 network."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from newleaf.train.distributed.process_group import Ranks
from newleaf.train.distributed.sharding import Replicated
from newleaf.train.objective.optimizer_config import OptimizerConfig

# The quintic of Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), as torch.optim.Muon has it.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)

EPSILON = 1e-8  # of AdamW


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices to `matrices` [N, R, C], roughly: five Newton–Schulz steps in
    bf16, all N at once."""
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


class Stack:
    """Matrices of one shape as one tensor [N, R, C], so that Muon steps them all at once.

    Masters are views of it.

    Where the layout gives each process a part of the rows, this is the part here.
    """

    def __init__(self, weights: list[nn.Parameter], layout: Replicated) -> None:
        self.weights, self.layout = weights, layout
        self.rows, self.columns = weights[0].shape
        self.master = torch.stack([layout.local(w.detach()).to(torch.float32) for w in weights])
        self.momentum = torch.zeros_like(self.master)

    def step(self, config: OptimizerConfig, factor: float, scale: float) -> None:
        found = [
            self.layout.local(w.grad if w.grad is not None else torch.zeros_like(w)) for w in self.weights
        ]
        grads = torch.stack(found).float().mul_(scale)
        self.momentum.lerp_(grads, 1 - config.momentum)
        wanted = grads.lerp_(self.momentum, config.momentum).to(torch.bfloat16)
        update = self.layout.on_full_matrices(orthogonalize, wanted, self.rows)
        rate = config.matrix_learning_rate * factor
        self.master.mul_(1 - rate * config.weight_decay).add_(
            update, alpha=-rate * max(1.0, self.rows / self.columns) ** 0.5
        )


class Optimizer:
    """Steps a network whose weights may be bf16, keeping fp32 masters of all of them.

    Groups: `matrices` (every 2-D weight inside the blocks, Muon), `embeddings` (embedding and head, AdamW
      with decay), `vectors` (norms and biases, AdamW without). With kind "adamw" the matrices are AdamW's
      too, with decay.
    """

    def __init__(
        self,
        network: nn.Module,
        config: OptimizerConfig,
        dtype: torch.dtype = torch.float32,
        layout: Replicated | None = None,
    ) -> None:
        """Takes the network's weights as masters and turns the network itself into `dtype`.

        `layout` is how the network lies over the processes; masters and moments lie alike.
        """
        self.config = config
        self.layout = layout = layout or Replicated(Ranks())
        named = {name: p for name, p in network.named_parameters() if p.requires_grad}
        if not layout.in_step:
            # A folder that stores a matrix transposed gives one that lies so, and AdamW's moments from a
            # checkpoint would not.
            for weight in named.values():
                weight.data = weight.data.contiguous()
        by_muon = {
            name
            for name, p in named.items()
            if config.kind == "muon" and p.ndim == 2 and ".blocks." in f".{name}"
        }
        by_shape: dict[torch.Size, list[str]] = defaultdict(list)
        for name in sorted(by_muon, key=list(named).index):
            by_shape[named[name].shape].append(name)
        self.stacks = [Stack([named[name] for name in names], layout) for names in by_shape.values()]
        self.momenta: dict[str, Tensor] = {}
        self.masters = {
            name: layout.local(p.detach()).to(torch.float32, copy=True)
            for name, p in named.items()
            if name not in by_muon
        }
        for names, stack in zip(by_shape.values(), self.stacks, strict=True):
            self.masters |= zip(names, stack.master, strict=True)
            self.momenta |= zip(names, stack.momentum, strict=True)
        self.weights = named
        self.by_adam = [name for name in named if name not in by_muon]
        # AdamW's, by the names that torch.optim has for them; made in the first step
        self.moments: dict[str, dict[str, Tensor]] = {}
        network.to(dtype)
        if layout.in_step:  # FSDP2 has replaced them
            self.weights.update((name, p) for name, p in network.named_parameters() if p.requires_grad)
            for names, stack in zip(by_shape.values(), self.stacks, strict=True):
                stack.weights = [self.weights[name] for name in names]

    @torch.no_grad()
    def step(self, factor: float) -> float:
        """Apply the gradients in the network at `factor` times the peak rates, clear them, and return their
        norm before clipping.

        Gradients whose norm is not finite are only cleared: weights and moments stay as they are.
        """
        norm = self.layout.norm(
            self.layout.local(p.grad) for p in self.weights.values() if p.grad is not None
        )
        if math.isfinite(norm):
            self._apply(factor, norm)
        self.clear()
        return norm

    def clear(self) -> None:
        """Forget the gradients."""
        for weight in self.weights.values():
            weight.grad = None

    def _apply(self, factor: float, norm: float) -> None:
        scale = min(1.0, self.config.clip / (norm + 1e-6)) if self.config.clip else 1.0
        for stack in self.stacks:
            stack.step(self.config, factor, scale)
        self._step_by_adam(
            [name for name in self.by_adam if self.weights[name].ndim >= 2],
            factor,
            scale,
            self.config.weight_decay,
        )
        self._step_by_adam([name for name in self.by_adam if self.weights[name].ndim < 2], factor, scale, 0.0)
        torch._foreach_copy_(
            [self.layout.local(weight) for weight in self.weights.values()],
            [self.masters[name] for name in self.weights],
        )

    def _step_by_adam(self, names: list[str], factor: float, scale: float, decay: float) -> None:
        """PyTorch's fused AdamW as a function: its class would import PyTorch's compiler, which takes a
        second and a half."""
        config = self.config
        found = {name: grad for name in names if (grad := self.weights[name].grad) is not None}
        for name in found.keys() - self.moments.keys():
            master = self.masters[name]
            step = torch.zeros((), device=master.device)
            self.moments[name] = {
                "step": step,
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }
        if not found:
            return
        masters, grads = (
            [self.masters[name] for name in found],
            [self.layout.local(grad).float().mul_(scale) for grad in found.values()],
        )
        means, squares, steps = (
            [self.moments[name][key] for name in found] for key in ("exp_avg", "exp_avg_sq", "step")
        )
        adamw(
            masters, grads, means, squares, [], steps, fused=True, amsgrad=False, beta1=config.beta1,
            beta2=config.beta2, lr=config.learning_rate * factor, weight_decay=decay, eps=EPSILON,
            maximize=False,
        )  # fmt: skip

    def weights_by_name(self) -> dict[str, Tensor]:
        """The fp32 masters under the network's names, whole.

        Where each process has a part, all must ask and the first one gets them.
        """
        return self.layout.collect({name: self.masters[name] for name in self.weights}, self.weights)

    @torch.no_grad()
    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Compute with these, whole and by the network's names, instead of the masters.

        What is not there stays as it is.
        """
        for name in self.weights.keys() & weights.keys():
            weight = self.weights[name]
            self.layout.local(weight).copy_(self.layout.cut(weights[name]))

    def full_bytes(self) -> int:
        """Bytes of `state()` once every moment is there, which AdamW's are after the first step."""
        moments = sum(2 * self.masters[name].nbytes for name in self.by_adam)
        return moments + sum(tensor.nbytes for tensor in (*self.masters.values(), *self.momenta.values()))

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name: masters, momenta, AdamW's moments and step counts."""
        tensors = {f"master.{name}": self._whole(name, master) for name, master in self.masters.items()}
        tensors |= {
            f"momentum.{name}": self._whole(name, momentum) for name, momentum in self.momenta.items()
        }
        for name in self.by_adam:
            tensors |= {
                f"adam.{key}.{name}": self._whole(name, value)
                for key, value in self.moments.get(name, {}).items()
            }
        return tensors

    def _whole(self, name: str, piece: Tensor) -> Tensor:
        return self.layout.whole(piece, self.weights[name].shape) if piece.ndim else piece

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` returned, or the parts of it here.

        Raises KeyError when a tensor is missing.
        """
        tensors = {name: self.layout.local(tensor) for name, tensor in tensors.items()}
        for name, weight in self.weights.items():
            self.masters[name].copy_(tensors[f"master.{name}"])
            self.layout.local(weight).copy_(self.masters[name])
        for name, momentum in self.momenta.items():
            momentum.copy_(tensors[f"momentum.{name}"])
        for name in self.by_adam:
            keys = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"adam.{k}.{name}" in tensors]
            if keys:
                self.moments[name] = {
                    k: tensors[f"adam.{k}.{name}"].to(self.masters[name].device, copy=True) for k in keys
                }
