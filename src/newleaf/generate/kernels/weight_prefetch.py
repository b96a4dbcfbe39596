"""How tiles of weights are read: how many inputs share one reading, and what is prefetched."""

from __future__ import annotations

from typing import Any

from newleaf.kernels.compiler import kernel
from newleaf.kernels.load_store import prefetch

BATCH = 4  # inputs that share one reading of a tile from the cache; rows of float weights taken together
PREFETCH_DISTANCE = 4096  # bytes: the machine's own prefetching stops at the end of a memory page


@kernel
def prefetch_ahead(address: Any) -> None:
    """Prefetch the 256 bytes that will be read 4 KiB from here."""
    prefetch(address + PREFETCH_DISTANCE)
    prefetch(address + PREFETCH_DISTANCE + 64)
    prefetch(address + PREFETCH_DISTANCE + 128)
    prefetch(address + PREFETCH_DISTANCE + 192)
