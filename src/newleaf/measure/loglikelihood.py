"""How likely continuations are: a beginning is read once for all texts that may follow it, and for all
beginnings that start alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from newleaf.errors import NotFiniteError
from newleaf.generate.backend.runner import evaluating
from newleaf.kernels.matmul_speed import bf16_is_faster
from newleaf.model import GPT, KVCache
from newleaf.model.cpu import fused_layers
from newleaf.model.masks import Branches
from newleaf.quant.packed_layers import PackedWeight

BATCH_TOKENS = 2048  # of one forward pass: matrix products are at their best, activations still small
HEAD_ROWS = 128  # positions whose logits are held at once
LARGE = 1 << 20  # logits that are worth a compiled loop
SHARED = 48  # tokens that beginnings must have in common to be read together


@dataclass(frozen=True)
class Tree:
    """A beginning, of one id or more, and continuations that may follow it, each of one id or more."""

    trunk: Sequence[int]
    branches: Sequence[Sequence[int]]

    @property
    def length(self) -> int:
        """Ids that the network reads: the last of a continuation is only predicted."""
        return len(self.trunk) + sum(len(branch) - 1 for branch in self.branches)

    @property
    def reach(self) -> int:
        """The context it takes."""
        return len(self.trunk) + max(len(branch) for branch in self.branches) - 1


@dataclass(frozen=True)
class Score:
    """Of one continuation: the sum of its tokens' natural log-probabilities, whether each was the likeliest,
    and how many they are."""

    logprob: float
    greedy: bool
    tokens: int


class _Wanted(NamedTuple):
    """A token whose probability is asked for: the place among all hidden states that predicts it, itself, and
    whose it is."""

    place: int
    token: int
    branch: int


@torch.no_grad()
def score_trees(
    network: GPT, trees: Sequence[Tree], batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[int, list[Score]]]:
    """Scores of each tree's branches, with the tree's number, in the order in which they are computed:
    similar lengths together.

    Raises ValueError for a tree that is empty or longer than the context.
    """
    for number, tree in enumerate(trees):
        if not tree.trunk or not tree.branches or not all(tree.branches):
            raise ValueError(f"tree {number}: the beginning and each continuation need a token")
        if tree.reach > network.config.context_length:
            raise ValueError(
                f"tree {number}: {tree.reach} tokens do not fit the context of "
                f"{network.config.context_length}"
            )
    for shared, numbers in _alike(trees):
        prefix = _read(network, trees[numbers[0]].trunk[:shared]) if shared else None
        parts = {number: Tree(trees[number].trunk[shared:], trees[number].branches) for number in numbers}
        for batch in _batches(parts, batch_tokens):
            yield from zip(
                batch, _score_batch(network, [parts[number] for number in batch], prefix), strict=True
            )


def _alike(trees: Sequence[Tree]) -> Iterator[tuple[int, list[int]]]:
    """Groups of trees, each with the number of tokens that their beginnings share; 0 where that is not worth
    a pass of its own."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, tree in enumerate(trees):
        groups.setdefault(tuple(tree.trunk[:SHARED]) if len(tree.trunk) > SHARED else (), []).append(number)
    alone = groups.pop((), [])
    for numbers in groups.values():
        if len(numbers) == 1:
            alone += numbers
            continue
        shared = min(len(trees[number].trunk) for number in numbers) - 1
        first = list(trees[numbers[0]].trunk)
        for number in numbers[1:]:
            other = trees[number].trunk
            shared = next((at for at in range(shared) if first[at] != other[at]), shared)
        yield shared, numbers
    if alone:
        yield 0, alone


def _batches(trees: dict[int, Tree], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of trees of about one length, longest first, so that what takes most memory comes first."""
    batch: list[int] = []
    for number in sorted(trees, key=lambda number: -trees[number].length):
        if batch and (len(batch) + 1) * trees[batch[0]].length > batch_tokens:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _packed(network: GPT) -> bool:
    return any(isinstance(module, PackedWeight) for module in network.modules())


def _read(network: GPT, ids: Sequence[int]) -> KVCache:
    packed = _packed(network)
    cache = KVCache(network.config, 1, len(ids), torch.bfloat16 if packed else network.dtype, network.device)
    with (
        evaluating(network),
        torch.autocast("cpu", torch.bfloat16, enabled=packed and bf16_is_faster(network.device)),
    ):
        network.hidden(torch.tensor([list(ids)], device=network.device), cache=cache)
    return cache


def _widened(cache: KVCache, network: GPT, rows: int, more: int) -> KVCache:
    """The same tokens in each of several rows, with room for more."""
    wide = KVCache(network.config, rows, cache.length + more, cache.keys.dtype, network.device)
    wide.keys[:, :, :, : cache.length], wide.values[:, :, :, : cache.length] = cache.keys, cache.values
    wide.mark_real(None, cache.length)
    wide.advance(cache.length)
    return wide


def _score_batch(network: GPT, trees: Sequence[Tree], prefix: KVCache | None) -> list[list[Score]]:
    """One forward pass: a row for each tree, the trunk first, then its branches without their last tokens."""
    past, limit = prefix.length if prefix is not None else 0, network.config.context_length
    longest = max(tree.length for tree in trees)
    straight = all(len(tree.branches) == 1 for tree in trees)
    # Plain causal rows of whole sixteens go through the compiled loops.
    width = -(-longest // 16) * 16 if straight and past + longest + 15 <= limit else longest
    ids, number = torch.zeros(2, len(trees), width, dtype=torch.long).unbind()
    wanted: list[_Wanted] = []
    owners = 0
    for row, tree in enumerate(trees):
        at, last = len(tree.trunk), row * width + len(tree.trunk) - 1
        ids[row, :at] = torch.tensor(tree.trunk)
        for branch, tokens in enumerate(tree.branches, 1):
            end = at + len(tokens) - 1
            ids[row, at:end], number[row, at:end] = torch.tensor(tokens[:-1], dtype=torch.long), branch
            places = [last, *range(row * width + at, row * width + end)]
            wanted += [_Wanted(place, token, owners) for place, token in zip(places, tokens, strict=True)]
            owners, at = owners + 1, end
        number[row, at:] = -1
    branches = None if straight else Branches(number.to(network.device))
    cache = _widened(prefix, network, len(trees), width) if prefix is not None else None
    with (
        evaluating(network),
        torch.autocast("cpu", torch.bfloat16, enabled=_packed(network) and bf16_is_faster(network.device)),
    ):
        hidden = network.hidden(ids.to(network.device), cache=cache, placement=branches).flatten(0, 1)
        logprobs, likeliest = _predict(network, hidden, wanted)
    return _collect(trees, wanted, logprobs, likeliest)


def _predict(network: GPT, hidden: Tensor, wanted: Sequence[_Wanted]) -> tuple[Tensor, Tensor]:
    """Log-probabilities fp32 of the wanted tokens, and whether each was the likeliest; logits are made once
    for each place."""
    every = torch.tensor([each.place for each in wanted], device=hidden.device)
    places, which = torch.unique(every, return_inverse=True)
    tokens = torch.tensor([each.token for each in wanted], device=hidden.device)
    logprobs = torch.empty(len(wanted), device=hidden.device)
    likeliest = torch.empty(len(wanted), dtype=torch.bool, device=hidden.device)
    order = which.argsort(stable=True)
    bounds = torch.searchsorted(
        which[order], torch.arange(0, len(places) + HEAD_ROWS, HEAD_ROWS, device=hidden.device)
    ).tolist()
    for number, (first, end) in enumerate(itertools.pairwise(bounds)):
        some, start = order[first:end], number * HEAD_ROWS
        logits = network.head(hidden[places[start : start + HEAD_ROWS]])
        rows, own = which[some] - start, tokens[some]
        values = logits[rows, own].float()
        likely = values == logits.amax(-1).float()[rows]
        for place in likely.nonzero().flatten().tolist():  # where several are the likeliest, the first is
            likely[place] = logits[rows[place]].argmax() == own[place]
        likeliest[some] = likely
        logprobs[some] = values - _log_total(logits)[rows]
    if bool((logprobs.isnan() | (logprobs == torch.inf)).any()):
        raise NotFiniteError
    return logprobs.cpu(), likeliest.cpu()


def _log_total(logits: Tensor) -> Tensor:
    """The logarithm of Σ exp over the vocabulary, fp32 [R]. On a CPU a compiled loop finds it in one pass,
    and leaves something else in the logits."""
    compiled = (
        logits.device.type == "cpu"
        and logits.dtype in (torch.bfloat16, torch.float32)
        and logits.numel() >= LARGE
    )
    if not compiled or not fused_layers.available():
        return logits.float().logsumexp(-1)
    first = logits[:, 0].to(torch.float32, copy=True)
    losses, _ = fused_layers.softmax_gradients(
        logits.contiguous(), torch.zeros(len(logits), dtype=torch.long)
    )
    return losses + first


def _collect(
    trees: Sequence[Tree], wanted: Sequence[_Wanted], logprobs: Tensor, likeliest: Tensor
) -> list[list[Score]]:
    owner = torch.tensor([each.branch for each in wanted])
    count = int(owner.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, owner, logprobs.double()).tolist()
    misses = torch.zeros(count, dtype=torch.long).index_add_(0, owner, (~likeliest).long()).tolist()
    scores = iter(zip(sums, misses, strict=True))
    return [
        [
            Score(total, missed == 0, len(branch))
            for branch, (total, missed) in zip(tree.branches, scores, strict=False)
        ]
        for tree in trees
    ]
