"""newleaf as a model of lm-evaluation-harness: the same figures as its transformers back end, from tasks on
local files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from chat_folders import make_chat_model
from small_tasks import tiny_model, write_rows

import newleaf
from newleaf.api import Model
from newleaf.errors import InputError
from newleaf.evaluation.local_model import LocalModel

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def both(model: Model, model_folder: Path) -> tuple[Any, Any]:
    from lm_eval.models.huggingface import HFLM

    from newleaf.evaluation.harness import NewleafLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    ours = NewleafLM(LocalModel(model.network, model.tokenizer, "tiny", ends=model.end_ids))
    return ours, HFLM(pretrained=str(model_folder), dtype="float32", device="cpu", batch_size=3)


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


def test_log_likelihoods_are_the_back_ends(both: tuple[Any, Any], book: Path) -> None:
    text = book.read_text("utf-8")
    pairs = [(text[at : at + 200], text[at + 200 : at + 230]) for at in range(0, 4000, 500)]
    pairs += [
        (text[:200], " other"),
        (text[:200], " and another"),
        ("ends in spaces   ", "then"),
        ("", "from the start"),
        ("a", text[:300]),
    ]
    pairs += [(text[:9000], " after too much")]  # loses its beginning
    found, wanted = (
        each.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True) for each in both
    )
    assert [each[0] for each in found] == pytest.approx([each[0] for each in wanted], abs=2e-3)
    assert [each[1] for each in found] == [each[1] for each in wanted]


def test_rolling_log_likelihoods_are_the_back_ends(both: tuple[Any, Any], book: Path) -> None:
    text = book.read_text("utf-8")
    texts = [(text[:50],), (text[:7000],), (text[100:12_000],), ("x",)]
    found, wanted = (
        each.loglikelihood_rolling(instances("loglikelihood_rolling", texts), disable_tqdm=True)
        for each in both
    )
    assert found == pytest.approx(wanted, rel=1e-5)


def test_texts_are_the_back_ends(both: tuple[Any, Any], book: Path) -> None:
    text = book.read_text("utf-8")
    options = [
        {"until": ["\n", "the"], "max_gen_toks": 24},
        {"until": "e", "max_gen_toks": 16, "do_sample": False},
        {"max_gen_toks": 12},
    ]
    asked = [(text[at : at + 120], option) for at in range(0, 1200, 300) for option in options]
    found, wanted = (
        each.generate_until(instances("generate_until", asked), disable_tqdm=True) for each in both
    )
    # newleaf writes no half of a character where a text is cut.
    assert [text.rstrip("\ufffd") for text in found] == [text.rstrip("\ufffd") for text in wanted]


def test_options_that_are_not_known_are_refused(both: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match="generation options penalty_alpha"):
        both[0].generate_until(instances("generate_until", [("a", {"until": [], "penalty_alpha": 0.6})]))


def test_chat_templates_and_their_control_tokens_are_the_back_ends(tmp_path: Path, model: Model) -> None:
    from lm_eval.models.huggingface import HFLM

    from newleaf.evaluation.harness import NewleafLM

    talker = tiny_model(newleaf.load(make_chat_model(tmp_path / "chat")).tokenizer)
    talker.save(tmp_path / "talker")
    ours = NewleafLM(LocalModel(talker.network, talker.tokenizer, "talker", ends=talker.end_ids))
    theirs = HFLM(pretrained=str(tmp_path / "talker"), dtype="float32", device="cpu")
    talk = [{"role": "user", "content": "Hello"}]
    text = ours.apply_chat_template(talk)
    assert text == theirs.apply_chat_template(talk)
    assert ours.tok_encode(text) == theirs.tok_encode(text)
    assert ours.chat_template(True) == theirs.chat_template(True)
    pairs = instances("loglikelihood", [(text, "Hi"), (text, "Go away")])
    assert ours.loglikelihood(pairs)[0][0] == pytest.approx(
        theirs.loglikelihood(pairs, disable_tqdm=True)[0][0], abs=2e-3
    )


def test_a_task_of_the_harness_runs_on_local_files_with_its_own_score(
    model: Model, hub_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    found = newleaf.evaluate(model, ["lm_eval:arc_easy"], hub_dir, out=tmp_path, quiet=True)["tasks"][
        "lm_eval:arc_easy"
    ]
    own = newleaf.evaluate(model, ["arc_easy"], data_dir, quiet=True)["tasks"]["arc_easy"]
    assert (found["n"], found["acc"], found["acc_norm"]) == (12, own["acc"], own["acc_norm"])
    assert found["setting"]["harness"]
    rows = [
        json.loads(line)
        for line in (tmp_path / "answers" / "lm_eval_arc_easy.jsonl").read_text("utf-8").splitlines()
    ]
    assert len(rows) == 12
    assert rows[0]["marks"].keys() == {"acc", "acc_norm"}


def test_data_that_is_not_there_and_tasks_that_do_not_exist_are_named(model: Model, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"allenai/ai2_arc, ARC-Challenge is not under --data-dir; looked for .*ai2_arc"
    ):
        newleaf.evaluate(model, ["lm_eval:arc_challenge"], tmp_path, quiet=True)
    with pytest.raises(InputError, match="did you mean lm_eval:hellaswag"):
        newleaf.evaluate(model, ["lm_eval:helaswag"], tmp_path, quiet=True)
    write_rows(tmp_path / "sst2.jsonl", [{"text": "a", "label": 0}])
    with pytest.raises(InputError, match="lm_eval:sst2 takes one"):
        newleaf.evaluate(str(make_chat_model(tmp_path / "talker")), ["sst2"], tmp_path, chat=True, quiet=True)
