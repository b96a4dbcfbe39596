"""Keywords of the Python interface: typed, checked by name, and the deprecated ways still accepted."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from chat_folders import make_chat_model

import newleaf
from newleaf.api import Model
from newleaf.errors import InputError
from newleaf.generate.chat.answering import gather
from newleaf.generate.options import SamplingConfig, SamplingOptions

HELLO = [{"role": "user", "content": "Hello"}]
# Fields whose keyword takes more than the field holds: `SamplingConfig` converts these.
CONVERTED = {
    "stop": str | Sequence[str],
    "choice": Sequence[str],
    "stop_ids": Sequence[int],
    "banned_tokens": Sequence[int],
    "logit_bias": Mapping[int, float],
    "forced_tokens": Mapping[int, int],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return newleaf.load(make_chat_model(tmp_path_factory.mktemp("chat") / "model", context=512))


def test_sampling_options_have_the_names_and_types_of_the_fields_of_sampling_config() -> None:
    fields = get_type_hints(SamplingConfig)
    assert set(fields) == {field.name for field in dataclasses.fields(SamplingConfig)}
    assert get_type_hints(SamplingOptions) == fields | CONVERTED
    assert not SamplingOptions.__required_keys__


USER_CODE = """
import newleaf
from newleaf import SamplingConfig, SamplingOptions

model = newleaf.load("folder")
text: str = model.generate("Once", max_tokens=5, temperature=0.7, stop=["."])
texts: list[str] = model.generate("Once", n=2, seed=1)
answer: str = model.chat([{"role": "user", "content": "Hi"}], tools=None, draft=model)
talk = model.conversation("Be brief.")
for piece in talk.say("Hello", temperature=0.7):
    print(piece.text)
options: SamplingOptions = {"max_tokens": 20, "n": 2}
with model.engine() as engine:
    engine.submit("Once", max_tokens=20)
    engine.submit("Once", SamplingConfig(max_tokens=20))
    engine.submit("Once", **options)
"""
WRONG = {
    # Of an overloaded method mypy names the method.
    'model.generate("Once", temprature=0.7)': "generate",
    'model.generate("Once", max_tokens="many")': "generate",
    'model.chat([], top_p="high")': "top_p",
    'model.complete("Once", best_off=2)': "best_off",
    'talk.say("Hello", temperatur=1.0)': "temperatur",
    'talk.say("Hello", max_tokens=[5])': "max_tokens",
    'model.conversation("Be brief.", template_variable={})': "template_variable",
    'model.engine().submit("Once", max_token=20)': "max_token",
    'options["max_tokns"] = 3': "max_tokns",
}


def test_mypy_finds_misspelt_options_and_wrong_types_in_users_code(tmp_path: Path) -> None:
    lines = [*textwrap.dedent(USER_CODE).strip().splitlines(), *WRONG]
    (tmp_path / "user.py").write_text("\n".join(lines) + "\n", "utf-8")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--config-file", "", "user.py"]
    command += ["--cache-dir", str(Path(__file__).parents[2] / ".mypy_cache" / "users")]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    errors = {
        int(line.split(":")[1]): line
        for line in found.splitlines()
        if line.startswith("user.py") and ": error:" in line
    }
    first = len(lines) - len(WRONG) + 1
    assert sorted(errors) == list(range(first, len(lines) + 1)), found
    for number, name in enumerate(WRONG.values(), first):
        assert f'"{name}"' in errors[number]


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.generate("a", temprature=0.5),
        lambda model: model.stream("a", temprature=0.5),
        lambda model: model.complete("a", temprature=0.5),
        lambda model: model.pieces("a", temprature=0.5),
        lambda model: model.chat(HELLO, temprature=0.5),
        lambda model: model.conversation().say("Hello", temprature=0.5),
        lambda model: model.engine().submit("a", temprature=0.5),
        lambda model: model.engine().write("a", temprature=0.5),
    ],
)
def test_a_wrong_keyword_is_refused_by_name_with_the_nearest(
    model: Model, call: Callable[[Model], Any]
) -> None:
    with pytest.raises(InputError, match="temprature: no such option; did you mean temperature"):
        call(model)


def test_a_wrong_option_of_the_template_is_refused_by_name(model: Model) -> None:
    with pytest.raises(InputError, match="tool: no such option; did you mean tools"):
        model.conversation(tool=[])  # type: ignore[call-arg]


def test_talk_takes_plain_keywords_and_the_old_form_with_one_warning(model: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = gather(model.conversation().say("Hello", max_tokens=6, temperature=0))
    config = model.chat_options({"max_tokens": 6, "temperature": 0})
    with pytest.warns(DeprecationWarning, match="say.* is deprecated; use say.*temperature=0.7") as told:
        old = gather(model.conversation().say("Hello", config))
    assert old == new
    assert len(told) == 1
    assert told[0].filename == __file__


def test_an_engine_takes_plain_keywords_or_a_sampling_config_and_not_both(model: Model) -> None:
    config = SamplingConfig(max_tokens=6, temperature=0)
    with model.engine() as engine:
        one, other = engine.submit("a", config), engine.submit("a", max_tokens=6, temperature=0)
        assert [piece.text for piece in one] == [piece.text for piece in other]
        with pytest.raises(InputError, match="seed: is given beside a SamplingConfig"):
            engine.submit("a", config, seed=1)


def test_samples_and_judge_work_and_name_what_replaces_them(model: Model) -> None:
    with pytest.warns(DeprecationWarning, match=r"use generate\(prompt, n=n\)") as told:
        old = model.samples("a", 2, max_tokens=4, seed=1)
    assert old == model.generate("a", n=2, max_tokens=4, seed=1)
    assert told[0].filename == __file__
    with (
        pytest.warns(DeprecationWarning, match="use classify_with_probabilities"),
        pytest.raises(InputError, match="gives no labels"),
    ):
        model.judge(["a"])


def test_several_prompts_are_refused_where_one_is_meant(model: Model) -> None:
    with pytest.raises(InputError, match="prompt: must be one text, not list; generate_file"):
        model.generate(["a", "b"])  # type: ignore[call-overload]


def test_sampling_config_is_imported_without_torch() -> None:
    code = "import sys, newleaf; newleaf.SamplingConfig(max_tokens=3); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
