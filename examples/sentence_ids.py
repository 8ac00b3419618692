"""Token numbers of sentences, for programs in C: `python sentence_ids.py < sentences.txt > sentences.ids`."""

from __future__ import annotations

import sys

from wordpiece import WordPiece


def main() -> int:
    pieces = WordPiece()
    for line in sys.stdin:
        print(*pieces.encode(line.strip()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
