"""A recogniser of printed text on rendered lines: how often the decoded string is that of the fp32 model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import real_models
from accuracy_store import Store
from accuracy_subject import Loaded, Scores, Subject

from nomul.compare import Implementation
from tasks.sentences import lee_texts

MODEL = "PP-OCRv6_rec_small"
LINES, CALIBRATION = 500, 8
HEIGHT, WIDTH, BATCH = 48, 320, 8
WORDS = 4  # of a line
FONTS = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf", "DejaVuSans-Bold.ttf")
DIMS = {"x_0": (1, BATCH), "x_3": (32, WIDTH)}


def subjects() -> list[Subject]:
    """The small recogniser: convolutions, and two blocks of attention."""
    return [Subject("pp-ocrv6-rec", "ocr", _load, "same strings %")]


def _load() -> Loaded:
    path = real_models.ocr_model(MODEL)
    images = np.stack([_image(text, number) for number, text in enumerate(_texts(LINES + CALIBRATION))])
    batches = [[images[at : at + 4]] for at in range(LINES, LINES + CALIBRATION, 4)]
    store = Store(path, batches=batches, dims=DIMS)
    return Loaded(store, partial(_strings, images[:LINES]), _judge, partial(_file, path))


def _file(path: Path, folder: Path) -> Path:
    return path


def _texts(count: int) -> list[str]:
    """Lines of a few words each."""
    words = " ".join(lee_texts("lee.cor")).split()
    return [" ".join(words[at : at + WORDS]) for at in range(0, count * WORDS, WORDS)]


def _image(text: str, number: int) -> np.ndarray:
    """f32 [3, 48, 320] of -1..1: dark on light or light on dark, in one of four fonts, with noise."""
    from PIL import Image, ImageDraw, ImageFont

    generator = np.random.default_rng(number)
    font = ImageFont.truetype(str(_font(number)), int(generator.integers(18, 26)))
    back, fore = (int(generator.integers(200, 256)), int(generator.integers(0, 90)))[:: 1 if number % 3 else -1]
    image = Image.new("L", (WIDTH, HEIGHT), back)
    ImageDraw.Draw(image).text((int(generator.integers(2, 12)), int(generator.integers(4, 14))), text, fore, font)
    noisy = np.asarray(image, np.float32) + generator.normal(0, 12, (HEIGHT, WIDTH)).astype(np.float32)
    return np.repeat((noisy.clip(0, 255) / 127.5 - 1)[None], 3, axis=0)


def _font(number: int) -> Path:
    return real_models.package_file("matplotlib", f"fonts/ttf/{FONTS[number % len(FONTS)]}")


def _strings(images: np.ndarray, run: Implementation) -> list[tuple[int, ...]]:
    """The most likely class at each place, without repeats and blanks (0)."""
    found = []
    for at in range(0, len(images), BATCH):
        for row in np.asarray(run([images[at : at + BATCH]])[0]).argmax(axis=-1):
            fresh = np.append(True, row[1:] != row[:-1])
            found.append(tuple(int(label) for label in row[fresh & (row != 0)]))
    return found


def _judge(strings: Sequence[tuple[int, ...]], plain: Sequence[tuple[int, ...]]) -> Scores:
    same = sum(left == right for left, right in zip(strings, plain, strict=True))
    return {"same strings %": 100 * same / len(plain)}
