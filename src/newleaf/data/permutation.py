"""A shuffled order without a list: a keyed permutation of 0..n-1, computed where it is needed."""

import hashlib

import numpy as np
import numpy.typing as npt

ROUNDS = 8
MIN_BITS = 6  # a smaller domain leaves the rounds too few values to mix


def permutation_index(positions: npt.ArrayLike, n: int, seed: int) -> npt.NDArray[np.int64]:
    """Where each position of 0..n-1 goes under the permutation that `seed` names, an int64 array of the same
    shape.

    A Feistel network over the next power of two (Luby and Rackoff 1988), walked until it falls below n (Black
    and Rogaway 2002): a bijection for every n and seed, in the memory of `positions`.
    """
    positions_in_range = np.asarray(positions, dtype=np.int64)
    if n < 1 or (positions_in_range.size and (positions_in_range.min() < 0 or positions_in_range.max() >= n)):
        raise ValueError(f"positions must lie in 0..{n - 1}")
    bits = max(MIN_BITS, (n - 1).bit_length())
    keys = _round_keys(seed)
    values = _feistel(positions_in_range.ravel().astype(np.uint64), bits, keys)
    while (outside := np.flatnonzero(values >= n)).size:
        values[outside] = _feistel(values[outside], bits, keys)
    return values.astype(np.int64).reshape(positions_in_range.shape)


def _feistel(
    values: npt.NDArray[np.uint64], bits: int, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Each round changes one half by a hash of the other, so that it can be undone whatever the hash."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    high, low = values >> low_bits, values & low_mask
    for key in range(0, ROUNDS, 2):
        high = high ^ (_mix(low + keys[key]) & high_mask)
        low = low ^ (_mix(high + keys[key + 1]) & low_mask)
    return (high << low_bits) | low


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014); products wrap at 64 bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _round_keys(seed: int) -> npt.NDArray[np.uint64]:
    return np.frombuffer(
        hashlib.blake2b(str(seed).encode(), digest_size=8 * ROUNDS).digest(), dtype="<u8"
    ).astype(np.uint64)
