"""A program passes only by what its functions return."""

from __future__ import annotations

import pytest
from sandbox_escapes import CHEATS, EQUALITIES, FUNCTIONS, HONEST

from newleaf.verify.sandbox import run_tests


@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes(name: str) -> None:
    for tests in (EQUALITIES, FUNCTIONS):
        found = run_tests(CHEATS[name], tests, ["double"], seconds=1.0)
        assert not found.passed
        assert found.reason


def test_an_honest_program_passes_the_same_tests() -> None:
    for tests in (EQUALITIES, FUNCTIONS):
        found = run_tests(HONEST, tests, ["double"])
        assert found.passed, found.reason


def test_what_a_program_does_to_its_arguments_is_not_seen_by_the_tests() -> None:
    tests = "numbers = [3, 1, 2]\nassert ordered(numbers) == sorted(numbers)\nassert numbers == [3, 1, 2]"
    assert not run_tests("def ordered(x):\n    x.clear()\n    return []", tests, ["ordered"]).passed
    assert run_tests("def ordered(x):\n    x.sort()\n    return x", tests, ["ordered"]).passed


def test_an_unsupported_result_is_no_exception_that_tests_could_expect() -> None:
    tests = "try:\n    f()\nexcept BaseException:\n    pass\nelse:\n    raise ValueError('no error')"
    assert run_tests("def f(): raise TypeError", tests, ["f"]).passed
    for source in (
        "f = lambda: object()",
        "import sys\nf = lambda: sys",
        "f = lambda: f",
        "import itertools\nf = lambda: itertools.count()",
        "def f():\n    x = []\n    x.append(x)\n    return x",
        "f = lambda: 'x' * (5 << 20)",
    ):
        found = run_tests(source, tests, ["f"], seconds=5)
        assert not found.passed
        assert found.reason.startswith("returned "), found.reason
    assert (
        run_tests("f = lambda: object()", tests, ["f"]).reason
        == "returned a value of type object, which is not plain data"
    )
    assert "ended before" in run_tests("import os\nf = lambda: os._exit(0)", tests, ["f"]).reason


def test_forged_messages_are_refused_unless_they_are_plain_data() -> None:
    program = (
        "import os, struct, gc\n"
        "def f():\n"
        "    end = next(each for each in gc.get_objects() if type(each).__name__ == 'Channel')\n"
        "    os.write(end.writing, struct.pack('!I', {size}) + {text!r})\n"
        "    while True: pass\n"
    )
    tests = "try:\n    f()\nexcept BaseException:\n    pass"
    malformed = [b"{}", b"[]", b'["tuple"]', b"[[[[", b'["tuple",1]', b'["tuple","x"]', b"\xff\xfe"]
    for text in [*malformed, b'["tuple","returned",["set",["list"]]]']:
        found = run_tests(program.format(size=len(text), text=text), tests, ["f"], seconds=2)
        assert not found.passed
        assert "of the form agreed on" in found.reason, (text, found.reason)
    assert (
        "more than 4,194,304 bytes"
        in run_tests(program.format(size=1 << 31, text=b""), tests, ["f"], seconds=2).reason
    )
    deep = program.replace(
        "struct.pack('!I', {size}) + {text!r}", "struct.pack('!I', 200000) + b'[' * 100000 + b']' * 100000"
    )
    assert "of the form agreed on" in run_tests(deep, tests, ["f"], seconds=2).reason


def test_exceptions_arrive_as_the_nearest_type_of_pythons_own() -> None:
    program = (
        "class Mine(KeyError):\n    pass\n"
        "class Sly(type(Exception)):\n    __instancecheck__ = lambda *_: True\n"
        "class Any(Exception, metaclass=Sly):\n    __eq__ = lambda *_: True\n"
        "def mine(): raise Mine('lost')\n"
        "def sly(): raise Any('x')\n"
        "def text(): b'\\xff'.decode()\n"
        "def divide(): 1 / 0\n"
        "def deep(): return deep()\n"
        "def group(): raise ExceptionGroup('g', [ValueError(1)])\n"
    )
    tests = """
def raised(function):
    try: function()
    except Exception as error: return error
assert type(raised(mine)) is KeyError and raised(mine).args == ("lost",)
assert type(raised(sly)) is Exception
assert type(raised(text)) is UnicodeDecodeError or isinstance(raised(text), Exception)
assert type(raised(divide)) is ZeroDivisionError and str(raised(divide)) == "division by zero"
assert type(raised(deep)) is RecursionError
assert isinstance(raised(group), Exception)
assert type(raised(absent)) is NameError
"""
    found = run_tests(program, tests, ["mine", "sly", "text", "divide", "deep", "group", "absent"])
    assert found.passed, found.reason


def test_the_tests_own_faults_are_named() -> None:
    crossing = "the tests call the program with a value of type function, which is not plain data"
    assert run_tests("f = len", "assert f(", ["f"]).reason.startswith("the tests are not Python: ")
    assert run_tests("f = len", "f(lambda: 0)", ["f"]).reason == crossing
    assert run_tests("f = len", "assert f([1]) == 2, 'too few'", ["f"]).reason == "AssertionError: too few"


def test_tests_may_call_from_several_threads() -> None:
    tests = (
        "import threading\nfound = []\n"
        "threads = [threading.Thread(target=lambda n=n: found.append(f(n) == 2 * n)) for n in range(8)]\n"
        "for thread in threads: thread.start()\nfor thread in threads: thread.join()\nassert found == "
        "[True] * 8"
    )
    found = run_tests("def f(n): return 2 * n", tests, ["f"])
    assert found.passed, found.reason
