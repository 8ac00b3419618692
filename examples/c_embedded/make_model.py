"""Trains a small network that reads 8 x 8 digits, and writes it as portable C with a few samples to check it against.

    python make_model.py OUT [TARGET]        OUT/model: the sources, OUT/samples.h; TARGET: cortex-m7 (default), ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import nomul
from nomul.ir import interpreter
from nomul.source import read_model

FONT = """\
.###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###.
#...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...#
#..## ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...#
#.#.# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .####
##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#.
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .##.."""


def glyphs() -> np.ndarray:
    """The digits 0 to 9: f32[10, 7, 5], ink is 1."""
    rows = [row.split() for row in FONT.splitlines()]
    return np.array([[[dot == "#" for dot in row[digit]] for row in rows] for digit in range(10)], np.float32)


def draw(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Digits anywhere in the image, thinner or thicker ink, noise: f32[count, 1, 8, 8] and their values."""
    font, digits = glyphs(), generator.integers(0, 10, count)
    images = generator.normal(0, 0.15, (count, 1, 8, 8)).astype(np.float32)
    for image, digit in zip(images, digits, strict=True):
        top, left = generator.integers(0, 2), generator.integers(0, 4)
        image[0, top : top + 7, left : left + 5] += font[digit] * generator.uniform(0.6, 1.0)
    return images.clip(0, 1), digits


def train(generator: np.random.Generator) -> nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a network is slower on several
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        images, digits = draw(128, generator)
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(digits))
        loss.backward()
        optimiser.step()
    return model.eval()


def c_array(declaration: str, array: np.ndarray) -> str:
    rows = (", ".join(f"{value:.9g}" for value in row) for row in array.reshape(len(array), -1).tolist())
    return f"static const {declaration} = {{\n" + "".join(f"  {{{row}}},\n" for row in rows) + "};\n"


def main(output: Path, target: str) -> None:
    generator = np.random.default_rng(0)
    model = train(generator)
    images, digits = draw(1000, generator)
    read = model(torch.from_numpy(images)).argmax(1).numpy()
    print(f"reads {100 * (read == digits).mean():.1f} % of 1000 digits that it has not seen")
    module = read_model(model, (torch.from_numpy(images[:1]),))
    scores = np.concatenate([interpreter.run(module, image[None])[0] for image in images[:10]])
    header = [
        "/* samples.h: digits, and the scores that nomul's interpreter gives them; written by make_model.py. */",
        f"enum {{ SAMPLES = {len(scores)} }};",
        f"static const int sample_digits[SAMPLES] = {{{', '.join(map(str, digits[:10]))}}};",
        c_array("float sample_images[SAMPLES][64]", images[:10]),
        c_array("float sample_scores[SAMPLES][10]", scores),
    ]
    output.mkdir(parents=True, exist_ok=True)
    (output / "samples.h").write_text("\n".join(header))
    nomul.build(module, output=output / "model", emit="c", target=target, name="digits")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "cortex-m7")
