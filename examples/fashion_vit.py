"""Trains a small vision transformer on Fashion-MNIST, then on with ternary weights, and compiles it.

`python examples/fashion_vit.py [--data FOLDER] [--epochs 6] [--recipe "ternary<group=64>"]`; the data is that of
Debian's package dataset-fashion-mnist (four .gz files), by default where it puts them.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import nomul

DATA = Path("/usr/share/datasets/fashion-mnist")
BATCH = 256
WIDTH, DEPTH, HEADS, PATCH = 64, 4, 4, 8


class Block(nn.Module):
    """Attention and a two-layer network, each behind a norm and beside a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, tokens, WIDTH))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class FashionViT(nn.Module):
    """Images [B, 1, 28, 28] of 0..1 -> logits [B, 10]; 16 patches of 8 x 8, with a border of two pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.places = nn.Parameter(torch.randn(1, 16, WIDTH) * 0.02)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(functional.pad(images, (2, 2, 2, 2))).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1))


def read_data(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images f32 [N, 1, 28, 28] and labels i64 [N] of the part `train` or `t10k`. Raises FileNotFoundError."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return torch.from_numpy(images.astype(np.float32) / 255), torch.from_numpy(labels.astype(np.int64))


def train(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], epochs: int, rate: float) -> None:
    """AdamW with a warm-up and a cosine; images are mirrored at random."""
    images, labels = data
    steps, model = epochs * (len(images) // BATCH), model.train()
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    start = time.perf_counter()
    for epoch in range(epochs):
        order, total = torch.randperm(len(images)), 0.0
        for at in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[at : at + BATCH]
            batch = images[chosen]
            batch = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, batch, batch.flip(-1))
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(batch), labels[chosen])
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        mean = total / (len(images) // BATCH)
        print(f"epoch {epoch + 1}/{epochs}: loss {mean:.3f}, {time.perf_counter() - start:.0f} s", file=sys.stderr)


def accuracy(answers: np.ndarray, labels: torch.Tensor) -> float:
    """Per cent of right answers."""
    return float((answers == labels.numpy()).mean() * 100)


def classify(model: nn.Module, images: torch.Tensor) -> np.ndarray:
    """The class of each image, by torch."""
    with torch.no_grad():
        return np.concatenate([model.eval()(part).argmax(1).numpy() for part in images.split(1000)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--recipe", default="ternary<group=64>")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    try:
        data, (images, labels) = read_data(arguments.data, "train"), read_data(arguments.data, "t10k")
    except FileNotFoundError as error:
        print(f"{error.filename} is absent: install dataset-fashion-mnist, or give --data", file=sys.stderr)
        return 1
    model = FashionViT()
    train(model, data, arguments.epochs, 2e-3)
    print(f"f32: {accuracy(classify(model, images), labels):.2f} %")
    nomul.qat.prepare(model, {"*": arguments.recipe})
    print(f"{arguments.recipe}, before training: {accuracy(classify(model, images), labels):.2f} %")
    train(model, data, 2, 1e-3)
    artifact = nomul.compile(model, (images[:2],), dynamic_shapes={"images": {0: "B"}}, dims={"B": (1, 1000)})
    answers = np.concatenate([artifact(part.numpy())[0].argmax(1) for part in images.split(1000)])
    print(f"{arguments.recipe}, two epochs later, compiled: {accuracy(answers, labels):.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
