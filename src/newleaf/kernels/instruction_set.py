"""Which vector instructions kernels may use: those of this processor, or fewer of them where NEWLEAF_CPU says
so.

| NEWLEAF_CPU | as on |
|---|---|
| avx512 | the first AVX-512 machines: neither VNNI nor BF16 |
| avx-vnni | AVX2 with the 8-bit products of AVX-VNNI |
| avx2 | AVX2 alone, with FMA and F16C |
| none | machines without kernels: PyTorch does it all |
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import sys

from newleaf.errors import InputError

CPU_VARIABLE = "NEWLEAF_CPU"
REQUIRED_FEATURES = {"avx2", "fma", "f16c"}
FIRST_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# Of each name, what LLVM calls such a processor, and the features that it must have besides AVX2; newer ones
# are not used.
TIERS: dict[str, tuple[str, set[str]]] = {
    "avx512": ("skylake-avx512", FIRST_AVX512),
    "avx-vnni": ("x86-64-v3", {"avxvnni"}),
    "avx2": ("x86-64-v3", set()),
}


def cpu_setting() -> str:
    """The value of NEWLEAF_CPU, empty for all that the processor has. Raises InputError for what is none."""
    chosen = os.environ.get(CPU_VARIABLE, "")
    if chosen in ("", "none"):
        return chosen
    if chosen not in TIERS:
        raise InputError(f"{CPU_VARIABLE}: there is no {chosen!r}; it is one of {', '.join(TIERS)} and none")
    lacking = (REQUIRED_FEATURES | TIERS[chosen][1]) - _host_features()
    if lacking:
        raise InputError(
            f"{CPU_VARIABLE}={chosen}: this processor has no {', '.join(sorted(lacking))}; leave the "
            f"variable out"
        )
    return chosen


@functools.cache
def why_unsupported() -> str | None:
    """Why kernels cannot run here; None where they can."""
    if cpu_setting() == "none":
        return f"{CPU_VARIABLE} is none"
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed; pip install numba"
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64") or (
        machine in ("x86_64", "amd64") and _host_features() >= REQUIRED_FEATURES
    ):
        return None
    return "this processor has neither AVX2 nor NEON"


def limit_instructions() -> None:
    """Numba compiles for the machine that NEWLEAF_CPU names; to be called before it compiles anything."""
    chosen = cpu_setting()
    if chosen in TIERS:
        name, more = TIERS[chosen]
        newer = {
            feature
            for feature in _host_features()
            if feature.startswith(("avx512", "avx10", "avxvnni", "amx"))
        } - more
        kept = [f"+{feature}" for feature in sorted(_host_features() - newer)]
        os.environ["NUMBA_CPU_NAME"], os.environ["NUMBA_CPU_FEATURES"] = (
            name,
            ",".join([*kept, *(f"-{each}" for each in sorted(newer))]),
        )
        if "numba" in sys.modules:
            from newleaf.kernels.numba_internals import reload_environment

            reload_environment()


def _host_features() -> set[str]:
    """What LLVM finds the processor to have."""
    from llvmlite.binding import get_host_cpu_features

    return {name for name, there in get_host_cpu_features().items() if there}
