"""Element-wise ops against Python's own math, number by number."""

from __future__ import annotations

import math

import numpy as np
from cases import Case, each, numbers

X = numbers(3, 4)
WIDE = np.array([-30.0, -3.5, -0.5, -0.0, 0.0, 1e-6, 0.3, 1.0, 2.5, 9.0, 40.0], np.float32)
POSITIVE = numbers(3, 4, low=0.01)
TIES = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4, -2.6], np.float32)
A, B = numbers(2, 3, seed=1), numbers(3, seed=2)
INTS, OTHERS = numbers(4, 5, low=-9, high=10, dtype=np.int64), numbers(4, 5, low=-3, high=4, dtype=np.int64, seed=5)
SMALL = np.array([-128, -128, -7, 7, 127, 5], np.int8)
DIVISOR = np.array([3, 1, 2, -2, 7, 0], np.int8)
T, F = np.array([True, True, False, False]), np.array([True, False, True, False])
ODD = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0], np.float32)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def _toward_zero(x: int, y: int) -> int:
    return 0 if y == 0 else int(math.copysign(abs(x) // abs(y), x * y)) if x * y else 0


UNARY = {
    "exp": (X, math.exp),
    "log": (POSITIVE, math.log),
    "log1p": (numbers(6, low=-0.9, high=0.001), math.log1p),
    "sin": (X, math.sin),
    "cos": (X, math.cos),
    "tanh": (WIDE, math.tanh),
    "erf": (WIDE, math.erf),
    "sigmoid": (WIDE, _sigmoid),
    "relu": (X, lambda x: max(x, 0.0)),
    "silu": (WIDE, lambda x: x * _sigmoid(x)),
    "mish": (WIDE, lambda x: x * math.tanh(_softplus(x))),
    "softplus": (WIDE, _softplus),
    "hard_swish": (numbers(40, low=-5, high=5), lambda x: x * min(max(x / 6 + 0.5, 0), 1)),
    "neg": (X, lambda x: -x),
    "abs": (X, abs),
    "sign": (TIES, lambda x: (x > 0) - (x < 0)),
    "sqrt": (POSITIVE, math.sqrt),
    "rsqrt": (POSITIVE, lambda x: 1 / math.sqrt(x)),
    "reciprocal": (POSITIVE, lambda x: 1 / x),
    "floor": (TIES, math.floor),
    "ceil": (TIES, math.ceil),
    "round": (TIES, round),
    "trunc": (TIES, math.trunc),
}
BINARY = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "floor_div": lambda x, y: math.floor(x / y),
    "mod": lambda x, y: x - math.floor(x / y) * y,
    "fmod": math.fmod,
    "max": max,
    "min": min,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}
INTEGER = {
    "add": lambda x, y: x + y,
    "div": _toward_zero,
    "floor_div": lambda x, y: x // y if y else 0,
    "mod": lambda x, y: x % y if y else 0,
    "fmod": lambda x, y: x - _toward_zero(x, y) * y if y else 0,
    "eq": lambda x, y: x == y,
    "max": max,
}

CASES = [Case(f"ew.{name}", [x], each(function)) for name, (x, function) in UNARY.items()]
CASES += [Case(f"ew.{name}", [A, B], each(function), tolerance=1e-5) for name, function in BINARY.items()]
CASES += [Case(f"ew.{name}", [INTS, OTHERS], each(function)) for name, function in INTEGER.items()]
CASES += [
    Case("ew.pow", [POSITIVE, X], each(math.pow)),
    Case("ew.pow", [X, np.array(2.0, np.float32)], each(math.pow)),
    Case("ew.div", [SMALL, DIVISOR], np.array([-42, -128, -3, -3, 18, 0], np.int8)),
    Case("ew.relu", [INTS], each(lambda x: max(x, 0))),
    Case("ew.leaky_relu", [X], each(lambda x: x if x > 0 else 0.2 * x), {"slope": 0.2}),
    Case("ew.elu", [WIDE], each(lambda x: x if x > 0 else 0.7 * math.expm1(x)), {"alpha": 0.7}),
    Case("ew.gelu", [WIDE], each(lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2))), tolerance=2e-6),
    Case(
        "ew.gelu",
        [WIDE],
        each(lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        {"approximate": "tanh"},
    ),
    Case("ew.hard_sigmoid", [WIDE], each(lambda x: min(max(0.2 * x + 0.4, 0), 1)), {"alpha": 0.2, "beta": 0.4}),
    Case("ew.clip", [X], each(lambda x: min(max(x, -0.5), 1.25)), {"low": -0.5, "high": 1.25}),
    Case("ew.clip", [ODD], np.array([np.nan, np.inf, 0, 0, 1], np.float32), {"low": 0.0}),
    Case("ew.clip", [ODD[2:]], np.array([np.finfo(np.float32).min, 0, 1], np.float32), {"low": -3.4028234663852886e38}),
    Case("ew.clip", [SMALL], np.array([-100, -100, -7, 7, 127, 5], np.int8), {"low": -100.0, "high": 1e9}),
    Case("ew.and", [T, F], np.array([True, False, False, False])),
    Case("ew.or", [T, F], np.array([True, True, True, False])),
    Case("ew.xor", [T, F], np.array([False, True, True, False])),
    Case("ew.not", [T], np.array([False, False, True, True])),
    Case("ew.is_nan", [ODD], np.array([True, False, False, False, False])),
    Case("ew.is_inf", [ODD], np.array([False, True, True, False, False])),
    Case("ew.max", [ODD, np.zeros(5, np.float32)], np.array([np.nan, np.inf, 0, 0, 1], np.float32)),
    Case("ew.where", [T, B[:1], np.arange(4, dtype=np.float32)], np.array([B[0], B[0], 2, 3], np.float32)),
    Case("ew.cast", [np.array([-1.7, 1.7, 300.2], np.float32)], np.array([-1, 1, 300], np.int64), {"dtype": "i64"}),
    Case("ew.cast", [np.array([0.0, -0.5], np.float32)], np.array([False, True]), {"dtype": "bool"}),
    Case("ew.cast", [T], np.array([1, 1, 0, 0], np.float32), {"dtype": "f32"}),
]
