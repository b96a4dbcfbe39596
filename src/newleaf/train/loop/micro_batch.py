"""How many windows fit into memory at once: a measured step, and what the machine or its cgroup has left.

Linux ends a process that takes too much without a word, so this is settled before the first step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from newleaf.format_amounts import byte_size
from newleaf.train.loop.loop import next_token_losses
from newleaf.train.objective.objective import Batch

Losses = Callable[[nn.Module, Any], Sequence[Tensor]]
# of what is free: other processes grow too, and the validation and the writing of checkpoints need some
USABLE_SHARE = 0.7


def free_memory(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes this process may still take on `device`: on the CPU what the machine has available or its cgroups
    (v1, v2) have left, the least of them. `root` is where proc/ and sys/ are."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([int(psutil.virtual_memory().available), *_cgroup_free_bytes(root)])


def largest_micro_batch(batch_size: int, fixed: float, window: float, room: float) -> int:
    """The most windows, dividing the batch, that fit into `room` bytes when a step takes `fixed` bytes and
    each window `window`.

    At least 1."""
    return next(
        (n for n in range(batch_size, 0, -1) if batch_size % n == 0 and fixed + n * window <= room), 1
    )


def choose_micro_batch(
    network: nn.Module, batch: Batch, coming: float, sharers: int = 1, losses: Losses = next_token_losses
) -> tuple[int, str | None]:
    """Windows of `batch` to take at once, and a sentence when not all of them; `coming` bytes are still to be
    taken beside the step, and `sharers` processes on this machine do the same."""
    fixed, window = measure_step_memory(network, batch, losses)
    fixed += int(coming)
    device, wanted = next(network.parameters()).device, batch.rows
    free = free_memory(device) // (sharers if device.type == "cpu" else 1)
    chosen = largest_micro_batch(wanted, fixed, window, USABLE_SHARE * free)
    needed = fixed + chosen * window
    told = f"{byte_size(needed)}; {byte_size(free)} are free"
    if needed > USABLE_SHARE * free:
        return (
            chosen,
            f"Warning: memory is short even for {chosen} window at once ({told}); make the model or the "
            f"context smaller.",
        )
    return chosen, None if chosen == wanted else f"Memory: {chosen} of {wanted} windows at once ({told})."


def measure_step_memory(
    network: nn.Module, batch: Batch, losses: Losses = next_token_losses
) -> tuple[int, int]:
    """Bytes that any step takes, and bytes that each window adds: forward and backward of one window and of
    two, counted exactly."""
    one, two = _peak(network, batch, 1, losses), _peak(network, batch, 2, losses)
    return max(0, 2 * one - two), max(1, two - one)


def _peak(network: nn.Module, batch: Batch, rows: int, losses: Losses) -> int:
    part = batch.part(0, rows, next(network.parameters()).device)
    counter = _AllocationCounter((*network.parameters(), *network.buffers()))
    with counter:
        loss = sum(found for found in losses(network, part) if found.requires_grad)
        loss.backward()  # type: ignore[union-attr]
    for weight in network.parameters():
        weight.grad = None
    return counter.peak


class _AllocationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors made inside it that are still alive, and the most there were at once; `known`
    tensors do not count."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes = {tensor.untyped_storage().data_ptr(): 0 for tensor in known}
        self.alive = self.peak = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled in here, so PyTorch need not import its compiler to say so, which takes a
        second and a half."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        place = storage.data_ptr()
        if place in self.sizes:
            return
        self.sizes[place] = storage.nbytes()
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, place)

    def _forget(self, place: int) -> None:
        self.alive -= self.sizes.pop(place, 0)


def _cgroup_free_bytes(root: Path) -> Iterator[int]:
    """What each cgroup this process is in, and each above it, has left.

    Cached file pages count as free: the system gives them up.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # no Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, files = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount, files = (
                root / "sys/fs/cgroup/memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
        else:
            continue
        place = mount / path.lstrip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(mount):
                yield from _free_bytes(folder, *files)


def _free_bytes(folder: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    try:
        most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        given_up = int(
            dict(line.split() for line in (folder / "memory.stat").read_text().splitlines()).get(
                reclaimable, 0
            )
        )
    except (OSError, ValueError):
        return  # this one sets no limit, as the root of a hierarchy does not
    if most != "max":
        yield max(0, int(most) - (used - given_up))
