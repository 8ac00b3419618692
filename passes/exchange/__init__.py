"""Forms that may take the place of softmax attention where a recipe asks for it. One file each, found by themselves.

A form is a frozen dataclass; its fields are the options that a rule of the recipe may give. It says what of softmax
attention it can express (masks, order, biases), and builds its own op in the place of `nn.attention`.
"""

from nomul.passes.exchange.base import AttentionLayer, AttentionRule, Form, all_forms, attention_layers, read_form
from nomul.passes.exchange.latent import show_latent

__all__ = ["AttentionLayer", "AttentionRule", "Form", "all_forms", "attention_layers", "read_form", "show_latent"]
