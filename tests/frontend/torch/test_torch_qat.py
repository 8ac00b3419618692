"""Training with fake encodings: forward is what is stored, gradients arrive, the compiled model is the trained one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

import nomul
from nomul.api import lower
from nomul.frontend.common import NomulWarning
from nomul.ir import interpreter
from nomul.ir.errors import NomulError
from nomul.ir.syntax import parse_encoding

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from nomul.frontend.torch.qat.fakes.nm import DECAY  # noqa: E402 - needs torch
from nomul.frontend.torch.qat.schedule import Schedule  # noqa: E402

ENCODINGS = (
    "int4<group=16>",
    "ternary<group=32>",
    "ternary<planes=2, group=32>",
    "ternary<group=32, pack=3of4>",
    "shift<group=32>",
    "shift<group=32, pack=5bit>",
    "shift<terms=2, group=32>",
    "nm<n=2, m=4>",
    "nm<n=2, m=4, value=int8>",
    "bitplane<bits=3, group=32>",
    "bitplane<bits=2, group=32, tied=1>",
    "codebook<grid=nf4, group=32>",
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def net() -> torch.nn.Module:
    """Convolution, linear, linear; input [B, 4, 8, 8], output [B, 8]."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, 4, stride=4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 64),
        torch.nn.GELU(), torch.nn.Linear(64, 8),
    )  # fmt: skip


def train(module: torch.nn.Module, steps: int = 30, seed: int = 1) -> list[float]:
    """Losses of fitting random labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(32, 4, 8, 8, generator=generator)
    y = torch.randint(0, 8, (32,), generator=generator)
    optimiser = torch.optim.Adam(module.parameters(), 0.02)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x), y)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def close(given: np.ndarray, module: torch.nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_training_helps_and_the_import_is_the_trained_module(encoding: str) -> None:
    module = nomul.qat.prepare(net(), {"*": encoding}, steps=30)
    losses = train(module.train())
    assert losses[-1] < 0.7 * losses[0]
    x = torch.randn(5, 4, 8, 8)
    stored = lower(module, (x,), until="encode")
    found = {w.name: str(w.type.encoding) for w in stored.weights.values() if w.type.encoding is not None}
    assert set(found) == {"0.weight", "3.weight", "5.weight"}
    for path in ("0", "3", "5"):
        trained = module.eval().get_submodule(path).weight.detach().numpy()
        np.testing.assert_array_equal(stored.weights[f"{path}.weight"].array().reshape(trained.shape), trained)
    close(interpreter.run(stored, x.numpy())[0], module, x)


def test_the_artifact_is_the_trained_module() -> None:
    module = nomul.qat.prepare(net(), {"*": "ternary<group=32>"})
    train(module.train(), 5)
    x = torch.randn(5, 4, 8, 8)
    close(nomul.compile(module, (x,))(x.numpy())[0], module, x)
    assert type(module).__name__ == "Sequential" and module[3].parametrizations  # it can be trained further


def test_eight_bit_activations_are_those_of_the_definition() -> None:
    module = nomul.qat.prepare(net(), "ternary2").eval()
    x = torch.randn(5, 4, 8, 8)
    stored = lower(module, (x,), until="encode")
    assert {node.attrs["act"] for node in stored.main.nodes if "act" in node.attrs} == {"i8"}
    close(interpreter.run(stored, x.numpy())[0], module, x)


def test_roles_and_fallbacks() -> None:
    module = nomul.qat.prepare(net(), "ternary2")
    encodings = [str(module[at].parametrizations.weight[0].encoding) for at in (0, 3, 5)]
    assert encodings == ["ternary<planes=2, group=64>", "ternary<planes=2, group=32>", "int8"]  # 128 does not fit; head


class Words(torch.nn.Module):
    """Two tables of embeddings, a layer, and a head that shares its weights with one of them where it is tied."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.words, self.kinds = torch.nn.Embedding(20, 32), torch.nn.Embedding(3, 32)
        self.layer, self.head = torch.nn.Linear(32, 32), torch.nn.Linear(32, 20, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.layer(self.words(ids) + self.kinds(kinds))))


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_train_as_they_will_be_stored(tied: bool) -> None:
    ids, kinds = torch.arange(12).reshape(2, 6), torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
    module = nomul.qat.prepare(Words(tied), {"kinds": "f32", "*": "ternary<group=16>", "embeddings": "int4<group=16>"})
    optimiser = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(3):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module.train()(ids, kinds).flatten(0, 1), ids.flatten()).backward()
        optimiser.step()
    stored = lower(module.eval(), (ids, kinds), until="encode")
    found = {w.name: str(w.type.encoding) for w in stored.weights.values() if w.type.encoding is not None}
    table, head = ("ternary", None) if tied else ("int4", "ternary")
    others = {f"{name}.weight": f"{kind}<group=16>" for name, kind in (("words", table), ("head", head)) if kind}
    assert found == {"layer.weight": "ternary<group=16>", **others}
    with torch.no_grad():
        expected = module(ids, kinds).numpy()
    np.testing.assert_allclose(interpreter.run(stored, ids.numpy(), kinds.numpy())[0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(stored.weights["words.weight"].array(), module.words.weight.detach().numpy())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_table_that_is_the_head_too_trains_as_one(encoding: str) -> None:
    ids, kinds = torch.arange(12).reshape(2, 6), torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
    rules = [{"role": "head", "weights": encoding, "act": "i8"}, {"weights": "ternary<group=16>"}]
    module = nomul.qat.prepare(Words(tied=True), {"layers": rules, "embeddings": "f32"}).train()
    assert module.head.parametrizations.weight is module.words.parametrizations.weight
    before = module.words.weight.detach().clone()
    optimiser = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(3):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(ids, kinds).flatten(0, 1), ids.flatten()).backward()
        optimiser.step()
    stored = lower(module.eval(), (ids, kinds), until="encode")
    found = {w.name: str(w.type.encoding) for w in stored.weights.values() if w.type.encoding is not None}
    assert found == {"layer.weight": "ternary<group=16>", "words.weight": str(parse_encoding(encoding))}
    table = stored.weights["words.weight"]
    assert {node.op: node.attrs.get("act") for node, _ in table.users} == {"index.gather": None, "nn.linear": "i8"}
    trained = module.words.weight.detach()
    assert not torch.equal(before, trained) and torch.equal(trained, module.head.weight)
    np.testing.assert_array_equal(table.array(), trained.numpy())
    with torch.no_grad():
        expected = module(ids, kinds).numpy()
    np.testing.assert_allclose(interpreter.run(stored, ids.numpy(), kinds.numpy())[0], expected, rtol=1e-4, atol=1e-4)


def test_ternary_weights_have_a_residual_that_fades() -> None:
    schedule = Schedule(100)
    seen = []
    module = torch.nn.Identity().train()
    for _ in range(100):
        schedule(module, ())
        seen.append(schedule.residual)
    assert seen[9] == pytest.approx(1) and seen[-1] == 0
    assert seen[:10] == sorted(seen[:10]) and seen[9:] == sorted(seen[9:], reverse=True)
    layer = nomul.qat.prepare(torch.nn.Sequential(torch.nn.Linear(8, 4)), {"*": "ternary"}, steps=100)
    x = torch.ones(1, 8)
    first = layer.train()(x)
    assert not torch.equal(first, layer.eval()(x))
    assert len(layer[0].weight.unique()) <= 3 * 4


def test_weights_that_are_not_kept_decay() -> None:
    layer = nomul.qat.prepare(torch.nn.Sequential(torch.nn.Linear(8, 4)), {"*": "nm<n=2, m=4>"})
    latent = layer[0].parametrizations.weight.original
    (layer(torch.zeros(1, 8)).sum() * 0).backward()
    kept = layer[0].weight != 0
    assert torch.equal(latent.grad[kept], torch.zeros(16))
    torch.testing.assert_close(latent.grad[~kept], DECAY * latent.detach()[~kept])


def test_shifts_train_exponents_and_signs() -> None:
    layer = nomul.qat.prepare(torch.nn.Sequential(torch.nn.Linear(4, 1, bias=False)), {"*": "shift"})
    held = layer[0].parametrizations.weight
    scale = float(held[0].scale)
    layer(torch.tensor([[1.0, 0, 0, 0]])).backward()
    exponent, sign = held.original0.detach()[0, 0], held.original1.detach()[0, 0]
    assert float(held.original1.grad[0, 0]) == pytest.approx(scale)
    slope = float(sign) * 2.0 ** round(float(exponent)) * np.log(2) * scale
    assert held.original0.grad[0, 0].item() == pytest.approx(slope, rel=1e-4)


def test_scales_of_bit_planes_are_trained() -> None:
    layer = nomul.qat.prepare(torch.nn.Sequential(torch.nn.Linear(8, 2, bias=False)), {"*": "bitplane<bits=2>"})
    held = layer[0].parametrizations.weight
    layer(torch.ones(1, 8)).sum().backward()
    bits = held[0].encoding.parts(held[0].packed(held.original0, held.original1, held.original2), (2, 8))["bits"]
    np.testing.assert_allclose(held.original1.grad[..., 0], bits.sum(-1))
    np.testing.assert_allclose(held.original2.grad[..., 0], [8, 8])


def test_planes_of_negative_scales_are_turned_round() -> None:
    """Where planes are tied: their zeros add the scale then, and their ones nothing."""
    torch.manual_seed(0)
    layer = nomul.qat.prepare(torch.nn.Sequential(torch.nn.Linear(8, 2, bias=False)), {"*": "bitplane<tied=1>"})
    held = layer[0].parametrizations.weight
    with torch.no_grad():
        held.original1[0] *= -1
    layer(torch.ones(1, 8)).sum().backward()
    latent = (held.original0, held.original1, held.original2)
    bits = held[0].encoding.parts(held[0].packed(*latent), (2, 8))["bits"].astype(np.int64)
    np.testing.assert_allclose(held.original1.grad[..., 0], np.stack([1 - bits[0], bits[1]]).sum(-1))
    stored = layer[0].weight.detach()
    smooth = held[0].smooth(stored, *latent).detach()
    np.testing.assert_allclose(smooth, stored, atol=1.5 * float(stored.abs().max()) / 127)


@pytest.mark.parametrize(
    ("rule", "encoding", "act"),
    [
        ({"weights": "ternary<group=16>", "act": "i8"}, "int8", "f32"),
        ({"weights": "int4", "role": "depthwise", "act": "i8"}, "int4", "i8"),
    ],
)
def test_depthwise_convolutions_train_as_recipes_store_them(rule: dict[str, str], encoding: str, act: str) -> None:
    depthwise = torch.nn.Conv2d(8, 8, 3, groups=8, padding=1)
    whole = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 1), depthwise, torch.nn.Flatten(), torch.nn.Linear(512, 8))
    module = nomul.qat.prepare(whole, {"layers": [rule]})
    train(module.train(), 3)
    x = torch.randn(3, 4, 8, 8)
    stored = lower(module.eval(), (x,), until="encode")
    assert str(stored.weights["1.weight"].type.encoding) == encoding
    assert stored.weights["1.weight"].users[0][0].attrs["act"] == act
    np.testing.assert_array_equal(stored.weights["1.weight"].array(), depthwise.weight.detach().numpy())
    close(interpreter.run(stored, x.numpy())[0], module, x)


def test_weights_that_other_modules_share_and_grouped_convolutions_stay() -> None:
    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.middle = torch.nn.Linear(8, 16, bias=False), torch.nn.Linear(8, 8)
            self.table = torch.nn.Embedding(16, 8, max_norm=1.0)
            self.head.weight = self.table.weight

    module = nomul.qat.prepare(Shared(), {"*": "int8"})
    assert not hasattr(module.head, "parametrizations") and hasattr(module.middle, "parametrizations")
    grouped = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, groups=2), torch.nn.Linear(2, 2))
    assert not hasattr(nomul.qat.prepare(grouped, {"*": "int8"})[0], "parametrizations")


def test_what_cannot_be_prepared() -> None:
    with pytest.raises(NomulError, match="NM458"):
        nomul.qat.prepare(net(), {"absent*": "int8"})
    with pytest.raises(NomulError, match="prepared already"):
        nomul.qat.prepare(nomul.qat.prepare(net(), {"*": "int8"}), {"*": "int8"})


def test_a_weight_that_the_graph_changed_stays_and_is_named() -> None:
    class Halved(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + self.inner.weight.sum()

    module, x = nomul.qat.prepare(Halved(), {"*": "ternary"}).eval(), torch.randn(2, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NomulWarning)
        with pytest.raises(NomulWarning, match=r"inner.weight stays f32"):
            lower(module, (x,), until="encode")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(interpreter.run(lower(module, (x,), until="encode"), x.numpy())[0], module, x)
