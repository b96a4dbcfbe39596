"""Thoughts and answers told apart, however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newleaf.text.reasoning import reasoning_splitter

TAGS, CHANNELS = "{{ '<think>' }} {{ '</think>' }}", "{{ '<|channel|>' }} {{ '<|message|>' }}"
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
CASES = [
    (TAGS, "", "<think>\nIt is 4.\n</think>\n\nFour.", "It is 4.", "Four."),
    (TAGS, "", "<think>\n\n</think>\n\nFour. \n", "", "Four. \n"),
    (TAGS, "", "Four, in <think> tags </think>.", "", "Four, in <think> tags </think>."),
    (TAGS, "", " <thin ice", "", " <thin ice"),
    (TAGS, "", "<think>never ended </th", "never ended </th", ""),
    (TAGS, "assistant\n<think>\n", "It is 4.\n</think>\nFour.", "It is 4.", "Four."),
    (TAGS, "assistant\n<think>\n\n</think>\n\n", "Four.", "", "Four."),
    (CHANNELS, "", f"<|channel|>analysis<|message|>It is 4.{FINAL}Four.", "It is 4.", "Four."),
    (CHANNELS, "", "<|channel|>final<|message|>Four.", "", "Four."),
    (CHANNELS, "", "Four.", "", "Four."),
    (CHANNELS, "<|channel|>final<|message|>", "Four.", "", "Four."),
    (CHANNELS, "", f"<|channel|>analysis<|message|>a < b{FINAL}<|e", "a < b", "<|e"),
    ("no thoughts", "", "<think>a</think>b", "", "<think>a</think>b"),
]


@pytest.mark.parametrize(("source", "prompt", "text", "reasoning", "content"), CASES)
@given(data=st.data())
def test_thoughts_and_answer_are_told_apart(
    source: str, prompt: str, text: str, reasoning: str, content: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    split = reasoning_splitter(source, prompt)
    parts = [
        part for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) for part in split.push(text[a:b])
    ] + split.finish()
    found = {
        kind: "".join(part.text for part in parts if part.kind == kind) for kind in ("reasoning", "content")
    }
    assert found == {"reasoning": reasoning, "content": content}
