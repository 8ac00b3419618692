"""Puts other forms into the place of softmax attention where a recipe asks for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from nomul.ir import interpreter
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module, Node, Value
from nomul.passes.base import Pass, Report, note_for_user
from nomul.passes.calibrate import Batch
from nomul.passes.choice import ANY, Recipe, no_match
from nomul.passes.dead_code import erase_dead
from nomul.passes.exchange.base import AttentionLayer, AttentionRule, Form, Operands, attention_layers, read_form
from nomul.passes.exchange.latent import show_latent
from nomul.passes.rule import Rewriter

MOST_BATCHES = 4  # of the calibration data that forms learn from
_HELP = 'a rule in front of it with form = "softmax" exempts a layer'


class ExchangeAttention(Pass):
    """The first attention rule of the recipe that takes a layer decides its form.

    batches: calibration data, for forms that learn from it.  only: names of the layers to change; None: all.
    The facts of the module get the list `exchanged`: name, loc, value and form of each.
    Raises NomulError for all layers at once: NM458 a rule that matches nothing, NM464 a form that cannot express what
    a layer has, NM465 a file of maps that cannot be read."""

    name = "exchange_attention"
    exact = False

    def __init__(
        self, recipe: Recipe | None = None, batches: Sequence[Batch] = (), only: Collection[str] | None = None
    ) -> None:
        self.recipe = recipe or Recipe()
        self.bound = self.recipe.max_error
        self.batches = batches[:MOST_BATCHES]
        self.only = only

    @classmethod
    def of(cls, *, form: str = "softmax", options: str = "", match: str = ANY) -> ExchangeAttention:
        """With a recipe of one rule; options as `window=64`, by commas. Raises ValueError for wrong words."""
        given = dict(_option(part) for part in options.split(",") if part.strip())
        return cls(Recipe(attention=(AttentionRule(match, read_form(form, given)),)))

    def run(self, module: Module, report: Report) -> None:
        if not self.recipe.attention:
            return
        show_latent(module)
        chosen = self._chosen(module)
        samples = operands_of(module, [layer.node for layer, form in chosen if form.learns], self.batches)
        facts = []
        for layer, form in chosen:
            value = layer.node.result.name
            facts.append({"name": layer.name, "loc": layer.node.loc, "value": value, "form": str(form)})
            report.note(f"{layer.name}: softmax attention becomes {form}")
            report.fire(form.name)
            operands = samples.get(layer.node, ())
            if told := form.prepare(module, layer, operands):
                note_for_user(module, report, f"{layer.name}: {told}")
            _exchange(module, layer, form, operands)
        if facts and module.source:
            module.source = {**module.source, "exchanged": facts}

    def _chosen(self, module: Module) -> list[tuple[AttentionLayer, Form]]:
        """The layers to change, with their forms. Raises NomulError with all problems."""
        layers = attention_layers(module)
        names = list(dict.fromkeys(name for layer in layers for name in layer.names))
        problems = [no_match(rule.match, names, "no softmax attention") for rule in self.recipe.attention]
        found = [problem for problem in problems if problem]
        chosen = []
        for layer in layers:
            rule = next((rule for rule in self.recipe.attention if rule.takes(layer)), None)
            if rule is None or not rule.form.is_change or (self.only is not None and layer.name not in self.only):
                continue
            if reason := rule.form.refusal(layer):
                message = f"{layer.name} cannot become {rule.form}: {reason}"
                found.append(Problem("NM464", message, layer.node.loc, _HELP))
            chosen.append((layer, rule.form))
        if found:
            raise NomulError.many(found)
        return chosen


def _option(text: str) -> tuple[str, int | float | str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise ValueError(f"'{text.strip()}' is not NAME=VALUE")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _exchange(module: Module, layer: AttentionLayer, form: Form, samples: Sequence[Operands]) -> None:
    """Put the form in the place of the layer, under the same name of its result."""
    func, node = module.main, layer.node
    g, name = Rewriter(module, func, node), node.result.name
    new = form.build(g, layer, samples)
    func.replace_all(node.result, new)
    erase_dead(func, [node, *reversed(g.created)])
    func.rename(new, name)
    g.finish()


def operands_of(module: Module, nodes: Sequence[Node], batches: Sequence[Batch]) -> dict[Node, list[Operands]]:
    """The operands of nodes of @main in a run over each batch. Raises NomulError (NM101) for a batch that does not
    fit."""
    wanted = {arg for node in nodes for arg in node.args if arg is not None}
    found: dict[Node, list[Operands]] = {node: [] for node in nodes}
    for batch in batches if nodes else ():
        values: dict[Value, np.ndarray] = dict(zip(module.main.params, batch, strict=True))

        def observe(node: Node, results: Sequence[np.ndarray], values: dict[Value, np.ndarray] = values) -> None:
            values.update((value, array) for value, array in zip(node.results, results, strict=True) if value in wanted)

        interpreter.run(module, *batch, observer=observe)
        for node in nodes:
            operands = (None if arg is None else interpreter.read_value(arg, values) for arg in node.args)
            found[node].append([None if operand is None else interpreter.decoded(operand) for operand in operands])
    return found
