"""A small WordPiece tokenizer for uncased BERT models (Devlin et al. 2018): the examples need no further package.

`data/bert-base-uncased-vocab.txt` is the vocabulary that Google published with BERT (Apache-2.0): one token a line.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

VOCABULARY = Path(__file__).parent / "data" / "bert-base-uncased-vocab.txt"
LONGEST_WORD = 100


class WordPiece:
    """Text -> token numbers, with [CLS] in front and [SEP] behind."""

    def __init__(self, vocabulary: Path = VOCABULARY) -> None:
        tokens = vocabulary.read_text(encoding="utf-8").splitlines()
        self.numbers = {token: number for number, token in enumerate(tokens)}

    def encode(self, text: str, longest: int = 512) -> list[int]:
        """Token numbers of one text, cut to `longest`."""
        pieces = [piece for word in _words(text) for piece in self._pieces(word)]
        return [self.numbers[token] for token in ("[CLS]", *pieces[: longest - 2], "[SEP]")]

    def batch(self, texts: Sequence[str], longest: int = 512) -> tuple[np.ndarray, np.ndarray]:
        """input_ids and attention_mask, i64 [texts, longest text], padded with [PAD] and 0."""
        rows = [self.encode(text, longest) for text in texts]
        width = max(map(len, rows))
        ids = np.array([row + [self.numbers["[PAD]"]] * (width - len(row)) for row in rows], np.int64)
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int64)
        return ids, mask

    def _pieces(self, word: str) -> list[str]:
        """The longest known piece from the left, again and again."""
        pieces: list[str] = []
        start = 0
        while start < len(word):
            piece, end = self._longest_piece(word, start)
            if piece is None or len(word) > LONGEST_WORD:
                return ["[UNK]"]
            pieces.append(piece)
            start = end
        return pieces

    def _longest_piece(self, word: str, start: int) -> tuple[str | None, int]:
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in self.numbers:
                return piece, end
        return None, start


def _words(text: str) -> Iterator[str]:
    """Lower case without accents, split at spaces; every punctuation mark and Chinese character is a word."""
    word = ""
    for character in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(character)
        if category == "Mn" or (category[0] == "C" and character not in "\t\n\r"):
            continue
        alone = _is_punctuation(character, category) or "\u4e00" <= character <= "\u9fff"
        if alone or character.isspace():
            if word:
                yield word
            word = ""
            if alone:
                yield character
        else:
            word += character
    if word:
        yield word


def _is_punctuation(character: str, category: str) -> bool:
    """As BERT has it: Unicode punctuation, and every ASCII sign that is neither letter, digit nor space."""
    return category.startswith("P") or (character.isascii() and category.startswith("S"))
