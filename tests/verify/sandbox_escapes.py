"""Programs that fail their tests and try to pass all the same. `double` should return twice its number."""

from __future__ import annotations

EQUALITIES = """
def check(candidate):
    assert candidate(2) == 4
    assert candidate(-1) == -2, "a negative number"
    assert candidate(0) == 0
    # as many of HumanEval's tests end
    assert True, "an easy one"

check(double)
"""

FUNCTIONS = """
import copy, math, random

def check(candidate):
    numbers = [3, 1, 2]
    kept = copy.deepcopy(numbers)
    assert candidate(2) == 4
    assert sorted(candidate(number) for number in numbers) == [2, 4, 6]
    assert numbers == kept
    assert math.fabs(candidate(-1) + 2) < 1e-9
    assert abs(candidate(10) - 20) == 0 and isinstance(candidate(1), int) and len(str(candidate(50))) == 3
    assert not candidate(7) == 15
    assert not any(candidate(number) != 2 * number for number in random.sample(range(1000), 5))

check(double)
"""

HONEST = "def double(n):\n    return 2 * n\n"
WRONG = "def double(n):\n    return n + 2\n"

SUBCLASS = """
class Yes({base}):
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __lt__ = __gt__ = __le__ = __ge__ = __eq__
    __add__ = __sub__ = __radd__ = lambda self, other: self
    __abs__ = __float__ = __int__ = __index__ = lambda self: 0
    __hash__ = lambda self: 0
    __len__ = lambda self: 3
def double(n):
    return Yes()
"""

# Passing results of several formats, written to every descriptor.
SAY = """
import os
RESULT = b'{"passed": true, "reason": "passed", "policies": [], "unavailable": []}\\n'
LINES = [b'passed \\n', RESULT, b'ok\\n', b'0\\n']
def say():
    for number in range(64):
        for line in LINES:
            try: os.write(number, line)
            except OSError: pass
"""

FRAMES = """
import sys
def double(n):
    for depth in range(1, 50):
        try: frame = sys._getframe(depth)
        except ValueError: break
        for values in (frame.f_locals, frame.f_globals):
            for name in list(values):
                if name in ('report', 'self') and hasattr(values[name], 'passed'): values[name].passed()
                if name in ('source', 'tests'): values[name] = ''
    return n + 2
"""

COLLECTOR = """
import gc, types
def double(n):
    for thing in gc.get_objects():
        try:
            if isinstance(thing, types.FunctionType) and thing.__name__ == 'finish': thing(True, '')
            if type(thing).__name__ == 'Report': thing.passed()
            if isinstance(thing, dict) and 'check' in thing: thing['check'] = lambda candidate: None
        except Exception: pass
    return n + 2
"""

TRACE = """
import sys
def skip(frame, event, argument):
    if frame.f_code.co_name == 'check':
        frame.f_trace_opcodes = True
        if event == 'line':
            try: frame.f_lineno = max(line for *_, line in frame.f_code.co_lines() if line)
            except ValueError: pass
    return skip
{start}
def double(n):
    {start}
    return n + 2
"""

PATCHED = """
import builtins, copy, math, random, sys
class Any:
    __eq__ = lambda *_: True
    __lt__ = __gt__ = __eq__
    __sub__ = lambda *_: Any()
builtins.sorted = lambda *_, **__: [2, 4, 6]
builtins.abs = lambda *_: 0
builtins.any = lambda *_: False
builtins.all = builtins.isinstance = lambda *_: True
builtins.len = lambda *_: 3
math.fabs = lambda *_: 0.0
random.sample = lambda *_: []
copy.deepcopy = lambda value: value
def double(n):
    return {2: 4, 7: 0}.get(n, n + 2)
"""

ANSWERS_AHEAD = """
import os, struct
def frame(text): return struct.pack('!I', len(text)) + text
def double(n):
    for number in range(64):
        try:
            for _ in range(50): os.write(number, frame({text!r}))
        except OSError: pass
    return 0
"""

CHANNEL = """
import gc, os
def double(n):
    for thing in gc.get_objects():
        if type(thing).__name__ == 'Channel':
            for message in {messages!r}:
                thing.send(*message)
    return n + 2
"""

NATIVE = """
import sys
sys.modules['__main__'].isinstance = lambda *_: True
try:
    import ctypes
    libc = ctypes.CDLL(None)
    parent = libc.getppid()
    for number in range(1, 200):
        libc.kill(number, 9)
        libc.ptrace(16, number, 0, 0)
    result = b'{"passed": true, "reason": "", "policies": [], "unavailable": []}\\n'
    libc.write(1, b'passed \\n', 8); libc.write(2, result, len(result))
except Exception: pass
def double(n): return n + 2
"""

LOOKS_FOR_TESTS = """
import os
found = []
for folder in ('.', '..', '/tmp', '/work', '/proc', '/proc/self/fd', '/proc/1'):
    try: names = os.listdir(folder)
    except OSError: continue
    for name in names:
        for end in ('', '/request', '/cmdline', '/environ'):
            path = f'{folder}/{name}{end}'
            try:
                if not os.path.isfile(path): continue
                if 'def check(' in open(path, errors='replace').read(100000): found.append(path)
            except OSError: pass
def double(n):
    return 2 * n if found else n + 2
"""

YES = "class Yes:\n    __eq__ = lambda *_: True\n"

CHEATS = {
    "an object equal to everything": YES + "    __ne__ = lambda *_: False\ndef double(n): return Yes()",
    "a class that says it is int": YES + "    __class__ = int\ndef double(n): return Yes()",
    "a metaclass": "class M(type):\n    __mro__ = (int, object)\n    __eq__ = lambda *_: True\n"
    "    __hash__ = type.__hash__\nclass Yes(metaclass=M):\n    __eq__ = lambda *_: True\n"
    "def double(n): return Yes()",
    **{
        f"a subclass of {base}": SUBCLASS.format(base=base)
        for base in ("int", "float", "str", "list", "tuple", "dict", "set", "complex")
    },
    "one object in a list": "class Yes:\n    __eq__ = lambda *_: True\ndef double(n): return [Yes()]",
    "frames": FRAMES,
    "the collector": COLLECTOR,
    "sys.settrace": TRACE.format(start="sys.settrace(skip)"),
    "sys.setprofile": TRACE.format(start="sys.setprofile(skip)"),
    "trace of all threads": TRACE.format(start="__import__('threading').settrace(skip)"),
    "patched builtins and modules": PATCHED,
    "modules of the tests replaced": "import sys, types\nfor name in ('math', 'copy', 'random'):\n"
    "    fake = types.ModuleType(name)\n    fake.fabs = lambda *_: 0\n"
    "    fake.sample = lambda *_: []\n    fake.deepcopy = lambda x: x\n"
    "    sys.modules[name] = fake\n" + WRONG,
    "an import hook": "import sys\nclass Hook:\n    def find_spec(self, *_): raise SystemExit(0)\n"
    "sys.meta_path.insert(0, Hook())\n" + WRONG,
    "assert that does not": "import builtins\nclass Quiet(BaseException): pass\n"
    "builtins.AssertionError = Quiet\n" + WRONG,
    "its own check": "def check(candidate): pass\n" + WRONG + "import builtins\nbuiltins.check = check\n",
    "compile and exec": "import builtins\nbuiltins.exec = builtins.compile = lambda *_, **__: None\n" + WRONG,
    "says it at once": SAY + "say()\nos._exit(0)",
    "says it when called": SAY + "def double(n):\n    say()\n    os._exit(0)",
    "says it at exit": SAY + "import atexit\natexit.register(say)\ndef double(n): raise SystemExit(0)",
    "says it from a thread": SAY + "import threading\nthreading.Thread(target=say).start()\n" + WRONG,
    "leaves before": "import os\nos._exit(0)",
    "leaves when called": "import os\ndef double(n): os._exit(0)",
    "leaves by an exception": "def double(n): raise SystemExit(0)",
    "interrupts": "def double(n): raise KeyboardInterrupt",
    "a generator's end": "def double(n): raise GeneratorExit",
    "answers ahead": ANSWERS_AHEAD.format(text=b'["tuple","returned",4]'),
    "a result as an answer": ANSWERS_AHEAD.format(text=b'["tuple","passed"]'),
    "answers of no form": ANSWERS_AHEAD.format(text=b'["eval","__import__(\'os\')._exit(0)"]'),
    "messages out of turn": CHANNEL.format(
        messages=[["returned", None], ["raised", "SystemExit", [0]], ["hello", [], []]]
    ),
    "an exception that the test runner makes": "import gc\n"
    + CHANNEL.format(messages=[["raised", "exit", [0]], ["raised", "print", ["passed"]]]),
    "native code": NATIVE,
    "looks for its tests": LOOKS_FOR_TESTS,
    "signals": "import signal\nfor number in range(1, 64):\n    try: signal.signal(number, lambda *_: None)\n"
    "    except (OSError, ValueError): pass\n"
    "def double(n):\n    while True: pass",
    "a deletion": "class D:\n    def __del__(self):\n        import os\n        os._exit(0)\n"
    "def double(n):\n    D()\n    return n + 2",
    "a default argument": "def double(n, seen=[]):\n    seen.append(n)\n    return seen",
    "nothing": "",
    "is not Python": "def double(n)\n    return 2 * n",
    "no function": "double = 4",
    "another name": "def triple(n): return 3 * n",
}
