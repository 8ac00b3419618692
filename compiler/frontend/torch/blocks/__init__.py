"""Blocks of a module as torch computes them, so that what is learned of their layers has gradients."""

from nomul.frontend.torch.blocks.gradients import TorchBlock

__all__ = ["TorchBlock"]
