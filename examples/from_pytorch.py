"""A PyTorch model with dynamic batch and length: compile it, call it with torch tensors, compare with PyTorch.

Run it with `python examples/from_pytorch.py` where torch is installed (`pip install 'nomul[torch]'`).
"""

from __future__ import annotations

import torch

import nomul


class Block(torch.nn.Module):
    """A transformer layer with grouped attention heads and a gated feed-forward part."""

    def __init__(self, width: int = 128, heads: int = 8, groups: int = 2) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.query = torch.nn.Linear(width, heads * self.size)
        self.key = torch.nn.Linear(width, groups * self.size)
        self.value = torch.nn.Linear(width, groups * self.size)
        self.output = torch.nn.Linear(heads * self.size, width)
        self.gate, self.up = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, 3 * width)
        self.down = torch.nn.Linear(3 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        hidden = self.norm1(x)
        query = self.query(hidden).view(batch, length, self.heads, self.size).transpose(1, 2)
        key = self.key(hidden).view(batch, length, self.groups, self.size).transpose(1, 2)
        value = self.value(hidden).view(batch, length, self.groups, self.size).transpose(1, 2)
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, -1))
        hidden = self.norm2(x)
        return x + self.down(torch.nn.functional.silu(self.gate(hidden)) * self.up(hidden))


def main() -> None:
    torch.manual_seed(0)
    model = Block().eval()
    artifact = nomul.compile(
        model,
        (torch.randn(2, 7, 128),),
        dynamic_shapes={"x": {0: "B", 1: "S"}},
        dims={"B": (1, 4), "S": (1, 256)},
    )
    print(artifact)
    for batch, length in ((1, 1), (2, 33), (4, 256)):
        x = torch.randn(batch, length, 128)
        with torch.no_grad():
            expected = model(x)
        (given,) = artifact(x)
        print(f"B={batch} S={length}: largest difference {(torch.from_numpy(given) - expected).abs().max():.1e}")


if __name__ == "__main__":
    main()
