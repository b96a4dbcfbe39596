"""Learning from pairs: the losses of the papers, log-probabilities of packed answers, and what a step of it
does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from newleaf.model import GPT, GPTConfig
from newleaf.tune.conversations.example import Example, ExamplePair
from newleaf.tune.conversations.packing import ShuffledBatches
from newleaf.tune.losses import formulas
from newleaf.tune.losses.log_probs import target_log_probs
from newleaf.tune.losses.loss_config import PreferenceConfig
from newleaf.tune.losses.preference_losses import Pairs, PreferenceLoss, sequence_log_probs, with_reference

CHOSEN = torch.tensor([-12.0, -30.5, -4.0], dtype=torch.float64)
REJECTED = torch.tensor([-14.0, -29.0, -4.0], dtype=torch.float64)
REFERENCE = torch.tensor([[-13.0, -31.0, -5.0], [-13.5, -31.0, -3.0]], dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_dpo_is_the_papers_formula() -> None:
    margin = (CHOSEN - REFERENCE[0]) - (REJECTED - REFERENCE[1])
    wanted = [
        -math.log(sigmoid(0.3 * ((c - rc) - (r - rr))))
        for c, r, rc, rr in zip(CHOSEN, REJECTED, *REFERENCE, strict=True)
    ]
    assert formulas.dpo(margin, 0.3).tolist() == pytest.approx(wanted, rel=1e-12)
    assert float(formulas.dpo(torch.zeros(1), 0.3)) == pytest.approx(math.log(2))
    # cDPO, as in TRL
    smooth = [-0.9 * math.log(sigmoid(0.3 * m)) - 0.1 * math.log(sigmoid(-0.3 * m)) for m in margin.tolist()]
    assert formulas.dpo(margin, 0.3, 0.1).tolist() == pytest.approx(smooth, rel=1e-12)


def test_ipo_is_zero_where_the_margin_is_half_of_one_over_beta() -> None:
    margin = torch.tensor([1 / (2 * 0.1), 0.0, 7.0])
    assert formulas.ipo(margin, 0.1).tolist() == pytest.approx([0.0, 25.0, 4.0])


def test_orpo_is_the_papers_odds_ratio() -> None:
    chosen, rejected = [0.5, 0.2, 0.999999], [0.25, 0.4, 0.001]
    logs = [torch.tensor(values, dtype=torch.float64).log() for values in (chosen, rejected)]
    wanted = [
        -0.1 * math.log(sigmoid(math.log((c / (1 - c)) / (r / (1 - r)))))
        for c, r in zip(chosen, rejected, strict=True)
    ]
    assert formulas.orpo(*logs, 0.1).tolist() == pytest.approx(wanted, rel=1e-6)
    # a token of probability 1
    assert torch.isfinite(formulas.orpo(torch.zeros(1), torch.tensor([-50.0]), 0.1)).all()


def network(seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(
        GPTConfig(vocab_size=90, context_length=64, n_layer=2, n_head=2, n_embd=32, init_std=0.2)
    ).eval()


def example(prompt: list[int], answer: list[int]) -> Example:
    ids = np.array([*prompt, *answer], dtype=np.int32)
    return Example("f:1", ids, np.array([False] * len(prompt) + [True] * len(answer)))


def pairs(count: int = 5) -> list[ExamplePair]:
    chance = np.random.default_rng(3)

    def ids(most: int) -> list[int]:
        return chance.integers(1, 90, chance.integers(2, most)).tolist()

    made = []
    for _ in range(count):
        prompt = ids(9)
        made.append(ExamplePair(example(prompt, ids(20)), example(prompt, ids(6))))
    return made


def alone(model: GPT, one: Example) -> float:
    ids = torch.from_numpy(one.ids.astype(np.int64))
    log_probs = model(ids[None, :-1])[0].log_softmax(-1)
    return float(
        sum(log_probs[place - 1, ids[place]] for place in range(1, len(ids)) if one.learned[place]).detach()
    )


def test_log_probabilities_of_packed_answers_are_those_of_each_alone() -> None:
    model, made = network(), pairs()
    part = Pairs(made, PreferenceLoss(PreferenceConfig()), 0).rows(range(5)).part(0, 5, torch.device("cpu"))
    wanted = [alone(model, pair.chosen) for pair in made] + [alone(model, pair.rejected) for pair in made]
    assert sequence_log_probs(model, part).tolist() == pytest.approx(wanted, rel=1e-5)
    assert with_reference(made, model, 0, lambda done, of: None, at_once=2)[3].reference == pytest.approx(
        (wanted[3], wanted[8]), rel=1e-5
    )


@pytest.mark.parametrize("method", ["dpo", "ipo", "orpo"])
def test_the_terms_are_those_of_the_pairs_one_by_one_and_portions_add_up(method: str) -> None:
    model, before = network(), network(1)
    made = with_reference(pairs(), before, 0, lambda done, of: None)
    loss = PreferenceLoss(PreferenceConfig(method, beta=0.2, nll_weight=0.0 if method == "orpo" else 0.5))  # type: ignore[arg-type]
    batch = Pairs(made, loss, 0).rows(range(5))
    whole = loss(model, batch.part(0, 5, torch.device("cpu")))
    parts = [loss(model, batch.part(start, stop, torch.device("cpu"))) for start, stop in ((0, 2), (2, 5))]
    assert torch.stack(whole).tolist() == pytest.approx(
        (torch.stack(parts[0]) + torch.stack(parts[1])).tolist(), rel=1e-4
    )
    total, right, nll, tokens = 0.0, 0, 0.0, 0
    for pair in made:
        sizes = [int(side.learned.sum()) for side in (pair.chosen, pair.rejected)]
        sums = [alone(model, side) for side in (pair.chosen, pair.rejected)]
        ours = torch.tensor(
            [sums, [alone(before, side) for side in (pair.chosen, pair.rejected)]], dtype=torch.float64
        )
        means = ours / torch.tensor(sizes)
        if method == "dpo":  # TRL's dpo_trainer: logits = (chosen - rejected) - (ref_chosen - ref_rejected)
            margin = (ours[0, 0] - ours[0, 1]) - (ours[1, 0] - ours[1, 1])
            total += float(-F.logsigmoid(0.2 * margin))
        elif method == "ipo":
            margin = (means[0, 0] - means[0, 1]) - (means[1, 0] - means[1, 1])
            total += float((margin - 1 / 0.4) ** 2)
        else:  # TRL's orpo_trainer
            margin = means[0, 0] - means[0, 1]
            odds = margin - (torch.log1p(-means[0, 0].exp()) - torch.log1p(-means[0, 1].exp()))
            total += float(-0.2 * F.logsigmoid(odds))
        right, nll, tokens = right + int(margin > 0), nll - sums[0], tokens + sizes[0]
    assert [float(term) for term in whole][:2] == pytest.approx([total, right], rel=1e-4)
    assert float(whole[3]) == pytest.approx(nll, rel=1e-4)
    assert batch.counts == [5, 5, 5, tokens]
    assert [term.weight for term in loss.terms] == [1, 0, 0, 1.0 if method == "orpo" else 0.5]


def test_at_the_start_dpo_is_log_2_and_a_few_steps_prefer_what_was_chosen() -> None:
    model = network()
    loss = PreferenceLoss(PreferenceConfig(beta=0.5))
    batches = ShuffledBatches(
        Pairs(with_reference(pairs(4), model, 0, lambda done, of: None), loss, 0), 4, seed=1
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    part = batches.batch(0).part(0, 4, torch.device("cpu"))
    found = loss(model, part)
    assert float(found[0]) / 4 == pytest.approx(math.log(2), abs=1e-5)
    for _ in range(10):
        optimizer.zero_grad()
        loss(model, part)[0].backward()
        optimizer.step()
    after = loss(model, part)
    assert float(after[0]) < 0.8 * float(found[0])
    assert float(after[1]) == 4


def test_log_probabilities_and_their_gradients_are_those_of_all_logits_at_once() -> None:
    torch.manual_seed(1)
    head = torch.nn.Linear(16, 40_000).double()
    hidden, targets = (
        torch.randn(300, 16, dtype=torch.float64, requires_grad=True),
        torch.randint(0, 40_000, (300,)),
    )
    weights = torch.randn(300, dtype=torch.float64)
    found = target_log_probs(head, 40_000, hidden, targets)
    (found * weights).sum().backward()
    got = [hidden.grad.clone(), head.weight.grad.clone()]
    hidden.grad = head.weight.grad = None
    wanted = head(hidden).float().log_softmax(-1)[range(300), targets]
    (wanted * weights).sum().backward()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(got, [hidden.grad, head.weight.grad])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"beta": 0.0}, "beta: must be above 0"),
        ({"label_smoothing": 0.6}, "label_smoothing: must be at least 0 and below"),
        ({"label_smoothing": 0.1, "method": "ipo"}, "label_smoothing: is DPO's"),
        ({"nll_weight": 1.0, "method": "orpo"}, "nll_weight"),
    ],
)
def test_options_that_cannot_be_are_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PreferenceConfig(**fields)  # type: ignore[arg-type]
