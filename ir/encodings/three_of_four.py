"""Four trits of which exactly one is zero, in five bits: the code of Sherry (arXiv 2601.07892).

Bits 2-3 of a code say which trit is zero, bit 0 that the second non-zero trit has not the sign of the first, bit 1 that
the third has not, bit 4 that the first is negative.
"""

from __future__ import annotations

import numpy as np

WIDTH = 5


def encode(trits: np.ndarray) -> np.ndarray:
    """Codes u8 [..., K / 4] of trits i8 [..., K]. Raises ValueError where four trits have not exactly one zero."""
    fours = trits.reshape(*trits.shape[:-1], -1, 4)
    zero = fours == 0
    wrong = np.count_nonzero(zero, axis=-1) != 1
    if wrong.any():
        raise ValueError(f"{np.count_nonzero(wrong)} fours of trits have not exactly one zero, which pack=3of4 needs")
    place = zero.argmax(-1)
    negative = np.take_along_axis(fours, _KEPT[place], axis=-1) < 0
    relative = negative[..., 1:] ^ negative[..., :1]
    slot = place << 2 | relative[..., 0] | relative[..., 1] << 1
    return (slot | negative[..., 0] << 4).astype(np.uint8)


def decode(codes: np.ndarray) -> np.ndarray:
    """Trits i8 [..., K] of codes [..., K / 4]."""
    return TRITS[codes].reshape(*codes.shape[:-1], -1)


def keep_three(matrix: np.ndarray) -> np.ndarray:
    """A mask of the three largest magnitudes in each four columns; of equal ones the first is left out."""
    fours = np.abs(matrix).reshape(*matrix.shape[:-1], -1, 4)
    return (np.arange(4) != fours.argmin(-1)[..., None]).reshape(matrix.shape)


_KEPT = np.array([[lane for lane in range(4) if lane != zero] for zero in range(4)])


def _table() -> np.ndarray:
    table = np.zeros((32, 4), np.int8)
    for code in range(32):
        first = -1 if code >> 4 else 1
        signs = [first, -first if code & 1 else first, -first if code & 2 else first]
        table[code, _KEPT[code >> 2 & 3]] = signs
    return table


TRITS = _table()  # [code, lane]
