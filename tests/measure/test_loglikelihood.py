"""Scores of continuations that share a beginning, against one plain forward pass for each by stock
arithmetic."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from newleaf.measure.loglikelihood import Tree, score_trees
from newleaf.model import GPT, GPTConfig

SHAPES = {
    "gpt2": {},
    "rotary with grouped heads": {
        "positions": "rotary",
        "n_kv_head": 2,
        "norm": "rms_norm",
        "activation": "silu",
        "gated": True,
    },
    "windows": {"windows": (0, 5)},
    "sinks and windows": {"positions": "rotary", "sinks": True, "windows": (6, 0)},
    "parallel, interleaved": {
        "positions": "rotary",
        "rotary_interleaved": True,
        "rotary_dim": 4,
        "block": "parallel",
        "shared_norm": True,
    },
    "sinusoids": {"positions": "sinusoidal"},
    "experts": {"n_expert": 4, "n_expert_active": 2, "gated": True, "activation": "silu"},
}


def network(context: int = 96, **fields: object) -> GPT:
    torch.manual_seed(3)
    return GPT(GPTConfig(60, context, 2, 4, 32, init_std=0.4, **fields)).eval()  # type: ignore[arg-type]


def one_by_one(model: GPT, trunk: Sequence[int], branch: Sequence[int]) -> tuple[float, bool]:
    """The definition: one text, all logits, log-softmax."""
    ids = torch.tensor([[*trunk, *branch][:-1]])
    with torch.no_grad():
        logprobs = model(ids)[0].double().log_softmax(-1)[len(trunk) - 1 :]
    wanted = torch.tensor(branch)
    return float(logprobs.gather(1, wanted[:, None]).sum()), bool((logprobs.argmax(-1) == wanted).all())


def drawn_trees(
    seed: int, count: int = 12, trunk: int = 30, branch: int = 12, shared: Sequence[int] = ()
) -> list[Tree]:
    draw = random.Random(seed)

    def ids(least: int, most: int) -> list[int]:
        return [draw.randrange(60) for _ in range(draw.randint(least, most))]

    return [
        Tree([*shared, *ids(1, trunk)], [ids(1, branch) for _ in range(draw.randint(1, 5))])
        for _ in range(count)
    ]


def check(model: GPT, trees: list[Tree], batch_tokens: int = 200) -> None:
    found = dict(score_trees(model, trees, batch_tokens))
    assert sorted(found) == list(range(len(trees)))
    for number, tree in enumerate(trees):
        assert len(found[number]) == len(tree.branches)
        for score, branch in zip(found[number], tree.branches, strict=True):
            total, greedy = one_by_one(model, tree.trunk, branch)
            assert score.logprob == pytest.approx(total, abs=2e-4)
            assert (score.greedy, score.tokens) == (greedy, len(branch))


@pytest.mark.parametrize("shape", SHAPES)
def test_branches_are_scored_as_if_each_were_read_alone(shape: str) -> None:
    check(network(**SHAPES[shape]), drawn_trees(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", SHAPES)
def test_beginnings_that_start_alike_are_read_once_and_change_nothing(shape: str) -> None:
    shared = [number % 60 for number in range(7, 60)]
    check(network(**SHAPES[shape]), drawn_trees(2, trunk=20, shared=shared) + drawn_trees(3, count=3))  # type: ignore[arg-type]


def test_the_shared_beginning_is_read_once() -> None:
    model, read = network(), []
    model.register_forward_hook(lambda *_: None)
    model.embedding.register_forward_hook(lambda module, given, out: read.append(given[0].numel()))
    shared = list(range(50))
    trees = [Tree([*shared, number], [[number], [number + 1], [3, 4]]) for number in range(8)]
    dict(score_trees(model, trees))
    assert sum(read) == 50 + 8 * 2  # the last tokens of continuations are only predicted


def test_a_beginning_and_a_continuation_may_fill_the_context_but_not_more() -> None:
    model = network(context=32)
    full = Tree(list(range(20)), [list(range(13)), [5], list(range(40, 53))])
    check(model, [full, Tree([1, 2], [[3]])])
    check(model, [Tree(list(range(32)), [[5], [6]])])
    with pytest.raises(ValueError, match="33 tokens do not fit the context of 32"):
        dict(score_trees(model, [Tree(list(range(20)), [list(range(14))])]))


def test_one_continuation_each_goes_through_plain_causal_rows() -> None:
    trees = [Tree(tree.trunk, tree.branches[:1]) for tree in drawn_trees(5, count=20, branch=30)]
    check(network(), trees)
    check(network(positions="rotary"), trees, batch_tokens=4000)


def test_a_large_vocabulary_is_summed_by_the_compiled_loop_to_the_same_figures() -> None:
    torch.manual_seed(5)
    model = GPT(GPTConfig(20_000, 96, 1, 2, 32, init_std=0.4)).eval()
    draw = random.Random(6)
    trees = [Tree([draw.randrange(20_000)], [[draw.randrange(20_000) for _ in range(90)]]) for _ in range(3)]
    check(model, trees, batch_tokens=400)


def test_greedy_is_seen_and_not_assumed() -> None:
    model = network()
    ids = [4, 5, 6]
    with torch.no_grad():
        for _ in range(4):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    found = dict(score_trees(model, [Tree(ids[:3], [ids[3:], [*ids[3:6], (ids[6] + 1) % 60]])]))[0]
    assert [score.greedy for score in found] == [True, False]


def test_bf16_and_packed_networks_score_near_fp32() -> None:
    from newleaf.quant.packed import FORMATS
    from newleaf.quant.packed_layers import packable, put_packed
    from newleaf.quant.quantize import quantize

    torch.manual_seed(0)
    config = GPTConfig(64, 64, 2, 4, 64, init_std=0.1)
    exact, trees = GPT(config).eval(), drawn_trees(8, count=6)
    wanted = dict(score_trees(exact, trees))
    narrow = GPT(config).eval()
    narrow.load_state_dict(exact.state_dict())
    packed = GPT(config).eval()
    packed.load_state_dict(exact.state_dict())
    plain = packed.state_dict()
    for name in sorted(packable(packed) - {"head.weight"}):
        put_packed(packed, name, quantize(plain[name], FORMATS["int8"]))
    put_packed(packed, "head.weight", packed.embedding.token.packed)
    for other, tolerance in ((narrow.bfloat16(), 0.05), (packed, 0.1)):
        found = dict(score_trees(other, trees))
        for number in wanted:
            for a, b in zip(wanted[number], found[number], strict=True):
                assert a.logprob / a.tokens == pytest.approx(b.logprob / b.tokens, abs=tolerance)


def test_an_empty_beginning_or_continuation_is_refused() -> None:
    for tree in (Tree([], [[1]]), Tree([1], []), Tree([1], [[]])):
        with pytest.raises(ValueError, match="need a token"):
            dict(score_trees(network(), [tree]))
