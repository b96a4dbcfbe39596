"""How a conversation is sampled where nobody says."""

from __future__ import annotations

from newleaf.generate.chat.sampling_defaults import chat_sampling, named_sampling


def test_a_generation_config_decides_and_where_it_names_nothing_there_is_a_cutoff() -> None:
    assert chat_sampling({}) == {"temperature": 0.7, "min_p": 0.05}
    assert chat_sampling({"eos_token_id": 2, "do_sample": True}) == {"temperature": 0.7, "min_p": 0.05}
    qwen = {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "repetition_penalty": 1.05,
        "do_sample": True,
        "bos_token_id": 1,
    }
    assert chat_sampling(qwen) == {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}


def test_values_that_cannot_be_are_left_out() -> None:
    assert (
        named_sampling(
            {"temperature": "hot", "top_p": 7, "top_k": True, "min_p": None, "typical_p": float("nan")}
        )
        == {}
    )
    assert chat_sampling({"temperature": -1}) == {"temperature": 0.7, "min_p": 0.05}
