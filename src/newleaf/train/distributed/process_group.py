"""The processes of one run, as torchrun starts them: what they share, what they agree on, and what only the
first one does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from newleaf.errors import InputError, ToldElsewhereError

T = TypeVar("T")
# for the first process to read, tokenize and write; one that dies is noticed at once
TIMEOUT = timedelta(days=7)


class Ranks:
    """One process alone: it leads, agrees with itself, and adds nothing."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock  # seconds, of this process
        self.group: Any = None  # of torch.distributed, for small things in the CPU's memory
        self.stopping: Callable[[], bool] = lambda: False  # whether this process was asked to stop

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def sum(self, *numbers: float) -> tuple[float, ...]:
        """Each number, added up over the processes in fp64.

        All of them must call it; clock and stop requests go along.
        """
        return numbers

    def from_rank_zero(self, number: float) -> float:
        """The first process's number."""
        return self.sum(number if self.is_rank_zero else 0.0)[0]

    def now(self) -> float:
        """The clock of the first process, as of the last `sum`."""
        return self.clock()

    def stop_requested(self) -> bool:
        """Whether any process had been asked to stop, as of the last `sum`."""
        return self.stopping()

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """`work()` in the first process only.

        The others wait and get its result, which must be what JSON holds.

        Raises the OSError that it raised in all of them, and its InputError in the first, as
        ToldElsewhereError in the others.
        """
        return work()

    def rank_zero_first(self, work: Callable[[], T]) -> T:
        """`work()` in the first process, then in the first of each machine, then in the rest: the later ones
        find what is cached."""
        return work()

    def sum_gradients(self, weights: list[Tensor]) -> None:
        """Add up the weights' gradients over the processes."""


class DistributedRanks(Ranks):
    """One of several processes. A collective whose partners are gone raises InputError."""

    BUCKET = 1 << 24  # numbers summed at once, 64 MB: large enough for the network, small beside it

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        import torch.distributed as dist

        super().__init__(clock)
        self.dist: Any = dist
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank, self.local_size = (
            int(os.environ.get("LOCAL_RANK", "0")),
            int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
        self.group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self.first_clock, self.stop = clock(), False
        self.sum()

    def sum(self, *numbers: float) -> tuple[float, ...]:
        clock = self.clock() if self.is_rank_zero else 0.0
        shared = torch.tensor([*numbers, clock, float(self.stopping())], dtype=torch.float64)
        self._together(lambda: self.dist.all_reduce(shared, group=self.group))
        *sums, self.first_clock, stops = shared.tolist()
        self.stop = self.stop or stops > 0
        return tuple(sums)

    def now(self) -> float:
        return self.first_clock

    def stop_requested(self) -> bool:
        return self.stop

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        outcome: dict[str, Any] = {}
        failure: Exception | None = None
        if self.is_rank_zero:
            try:
                outcome = {"result": work()}
            except OSError as error:
                outcome, failure = {"system": [error.errno, error.strerror or str(error)]}, error
            except InputError as error:
                outcome, failure = {"input": str(error)}, error
        told = [json.dumps(outcome) if self.is_rank_zero else ""]
        self._together(lambda: self.dist.broadcast_object_list(told, src=0, group=self.group))
        if failure is not None:
            raise failure
        outcome = json.loads(told[0])
        if "system" in outcome:
            raise OSError(*outcome["system"])
        if "input" in outcome:
            raise ToldElsewhereError(outcome["input"])
        result: T = outcome["result"]
        return result

    def rank_zero_first(self, work: Callable[[], T]) -> T:
        results: list[T] = []
        for turn in (self.rank == 0, self.local_rank == 0, True):
            if turn and not results:
                results.append(work())
            self._together(lambda: self.dist.barrier(group=self.group))
        return results[0]

    def sum_gradients(self, weights: list[Tensor]) -> None:
        bucket: list[Tensor] = []
        for weight in weights:
            if weight.grad is None:  # an expert that met no token here
                weight.grad = torch.zeros_like(weight)
            bucket.append(weight.grad)
            if sum(grad.numel() for grad in bucket) >= self.BUCKET:
                self._sum_bucket(bucket)
                bucket = []
        if bucket:
            self._sum_bucket(bucket)

    def _sum_bucket(self, grads: list[Tensor]) -> None:
        # In fp32 whatever the network computes in: bf16 would round once for each process.
        flat = torch.cat([grad.flatten().float() for grad in grads])
        self._together(lambda: self.dist.all_reduce(flat))
        for grad, whole in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(whole.view_as(grad))

    def _together(self, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:
            raise InputError(
                f"process {self.rank} has lost the others ({str(error).splitlines()[0]}); see what they say"
            ) from None


def torchrun_size() -> int:
    """How many processes torchrun, or another launcher with its variables, has started; 1 without one."""
    started = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return int(os.environ["WORLD_SIZE"]) if started else 1


def is_rank_zero() -> bool:
    """Whether this process prints, asked before or after the processes have met."""
    return torchrun_size() == 1 or os.environ["RANK"] == "0"


def restarted() -> bool:
    """Whether torchrun has started these processes again after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def init_process_group(backend: str) -> None:
    """torch.distributed.init_process_group, for a restarted job too.

    After a restart torchrun gives the new processes the store that the old ones met in, whose addresses and
    counts are of processes that are gone (PyTorch 2.13): each start has a corner of its own.
    """
    import torch.distributed

    dist: Any = torch.distributed
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or not restarted():
        dist.init_process_group(backend)
        return
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    corner = dist.PrefixStore(f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=corner, rank=int(os.environ["RANK"]), world_size=torchrun_size())


@contextmanager
def join_process_group(clock: Callable[[], float] = time.monotonic) -> Iterator[Ranks]:
    """The processes of this run, met for the time of a `with`. Raises InputError when they cannot meet."""
    if torchrun_size() == 1:
        yield Ranks(clock)
        return
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        raise InputError(
            "this PyTorch was built without gloo, so several processes cannot train together; start one "
            "without torchrun"
        )
    ours = not dist.is_initialized()
    if ours:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        try:
            init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"the processes cannot meet ({str(error).splitlines()[0]}); look at MASTER_ADDR and "
                f"MASTER_PORT"
            ) from None
    try:
        yield DistributedRanks(clock)
    finally:
        if ours:
            dist.destroy_process_group()
