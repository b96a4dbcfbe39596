"""How a network in training lies over the processes: whole in each (DDP), or a share of every weight in each
(FSDP2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from newleaf.train.distributed.process_group import Ranks


class Replicated:
    """Each process holds the whole network and steps it; only gradients travel, once a step.

    The optimizer works on what `local` gives it, and asks here for everything that a piece of a matrix does
    not tell.
    """

    in_step = False  # whether a forward pass needs all processes at once

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def spread(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        """Lay the network out, which is whole and the same in each process.

        It is turned into `dtype` later.
        """
        network.to(device)

    def local(self, tensor: Tensor) -> Tensor:
        """What this process has of a weight or gradient."""
        return tensor

    def cut(self, whole: Tensor) -> Tensor:
        """What this process has of a tensor that is laid out like a weight."""
        return whole

    def whole(self, piece: Tensor, shape: torch.Size) -> Tensor:
        """A tensor of this shape that knows that `piece` is the part of it here."""
        return piece

    def blank(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """One to read into."""
        return torch.empty(shape, dtype=dtype)

    def collect(self, pieces: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors from pieces that lie like the `weights` of the same names.

        The first process gets them.
        """
        return dict(pieces)

    def on_full_matrices(self, work: Callable[[Tensor], Tensor], stack: Tensor, rows: int) -> Tensor:
        """`work` on a stack of matrices [N, R, C] of which this process has the rows [N, r, C].

        R is `rows`.
        """
        return work(stack)

    def norm(self, gradients: Iterable[Tensor]) -> float:
        """The norm of all gradients, from the pieces here."""
        return float(torch.nn.utils.get_total_norm(list(gradients), foreach=True))

    def reduce_gradients(self, network: nn.Module) -> None:
        """Add up the gradients of the processes, if that is not done yet."""
        self.ranks.sum_gradients([weight for weight in network.parameters() if weight.requires_grad])

    def scale_loss(self, loss: Tensor) -> Tensor:
        """What to take the gradient of, so that the processes' gradients are those of the sum of their
        losses."""
        return loss


class Sharded(Replicated):
    """FSDP2: each process keeps one part of the rows of every weight, gradient and moment.

    A block's weights are whole only while it runs.

    Muon needs whole matrices: each process gets some of a stack's, orthogonalises them and sends the rows
    back (as in Liu et al. 2025, https://arxiv.org/abs/2502.16982, section 2.3), so that nothing is computed
    twice.
    """

    in_step = True

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(ranks)
        self.mesh: Any = None

    def spread(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        self.mesh = init_device_mesh(device.type, (self.ranks.size,))
        # What blocks are called with is in its type already, and the rotary tables among it stay fp32.
        policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        blocks: Any = network.layers
        for block in blocks:
            fully_shard(block, mesh=self.mesh, mp_policy=policy)
        # Its own weights (embedding, final norm, head) go back too: a validation must not leave copies that a
        # later load would miss.
        fully_shard(network, mesh=self.mesh, mp_policy=policy, reshard_after_forward=True)
        register_fsdp_forward_method(network, "loss")
        network.to(device)

    def local(self, tensor: Tensor) -> Tensor:
        piece: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        return piece

    def cut(self, whole: Tensor) -> Tensor:
        if not whole.ndim:
            return whole
        pieces = torch.chunk(whole, self.ranks.size)
        return pieces[self.ranks.rank] if self.ranks.rank < len(pieces) else whole[:0]

    def whole(self, piece: Tensor, shape: torch.Size) -> Tensor:
        from torch.distributed.tensor import DTensor, Shard

        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(piece, self.mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)

    def blank(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        piece = torch.empty_like(
            self.cut(torch.empty(shape, dtype=dtype, device="meta")), device=self.mesh.device_type
        )
        return self.whole(piece, shape) if shape else piece

    def collect(self, pieces: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, piece in pieces.items():
            tensor = self.whole(piece, weights[name].shape).full_tensor()  # type: ignore[attr-defined]
            if self.ranks.is_rank_zero:
                found[name] = tensor.cpu()
        return found

    def on_full_matrices(self, work: Callable[[Tensor], Tensor], stack: Tensor, rows: int) -> Tensor:
        size, (count, own, columns) = self.ranks.size, stack.shape
        # matrices and rows of a process; the last may have fewer
        each, most = -(-count // size), -(-rows // size)
        sent = torch.nn.functional.pad(stack, (0, 0, 0, most - own, 0, each * size - count))
        matrices = (
            self._exchange(sent.view(size, each, most, columns))
            .transpose(0, 1)
            .reshape(each, size * most, columns)
        )
        done = torch.zeros_like(matrices)
        real = min(each, max(0, count - self.ranks.rank * each))
        if real:
            done[:real, :rows] = work(matrices[:real, :rows])
        back = self._exchange(done.view(each, size, most, columns).transpose(0, 1))
        return back.reshape(each * size, most, columns)[:count, :own]

    def _exchange(self, parts: Tensor) -> Tensor:
        """parts [n, …]: the k-th goes to process k, and the k-th of the result came from it."""
        import torch.distributed as dist

        parts = parts.contiguous()
        got = torch.empty_like(parts)
        dist.all_to_all_single(got, parts)
        return got

    def norm(self, gradients: Iterable[Tensor]) -> float:
        (squares,) = self.ranks.sum(super().norm(gradients) ** 2)
        return float(squares**0.5)

    def reduce_gradients(self, network: nn.Module) -> None:
        """FSDP2 has done it on the way back."""

    def scale_loss(self, loss: Tensor) -> Tensor:
        return loss * self.ranks.size  # FSDP2 averages
