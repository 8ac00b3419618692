"""How one encoding trains, where straight-through gradients on rounded weights are not all: one file each."""
