"""What text cannot say: broken use lists, names, data. The rest is in tests/filetests/verifier."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from test_ir_graph import chain

from nomul.ir.builder import Builder
from nomul.ir.encodings import get_encoding
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Constant, Func, Module, Value, Weight
from nomul.ir.parser import parse_module
from nomul.ir.text import print_module
from nomul.ir.types import DType, Tensor
from nomul.ir.verifier import MOST_PROBLEMS, verify


def _lost_user(module: Module) -> None:
    module.main.nodes[0].result.users.clear()


def _double_user(module: Module) -> None:
    module.weights["w"].users *= 2


def _stale_user(module: Module) -> None:
    node = module.main.nodes[2]
    module.main.nodes.remove(node)
    module.main.returns = [module.main.nodes[1].result]


def _args_behind_the_back(module: Module) -> None:
    node = module.main.nodes[2]
    node.args = (module.main.params[0], node.args[1])


def _literal_of_two_nodes(module: Module) -> None:
    literal = module.main.nodes[2].args[1]
    module.main.nodes[1].args = (module.main.nodes[1].args[0], literal)


def _renamed_directly(module: Module) -> None:
    module.main.nodes[0].result.name = "z"


def _same_name(module: Module) -> None:
    module.main.nodes[0].result.name = "b"


def _no_name(module: Module) -> None:
    module.main.nodes[0].result.name = ""


def _wrong_producer(module: Module) -> None:
    module.main.nodes[0].result.producer = module.main.nodes[1]


def _wrong_index(module: Module) -> None:
    module.main.nodes[0].result.index = 1


def _order(module: Module) -> None:
    module.main.nodes.reverse()


def _foreign_weight(module: Module) -> None:
    node = module.main.nodes[1]
    module.main.set_args(node, (node.args[0], Weight.dense("w", np.zeros(4, np.float32))))


def _foreign_value(module: Module) -> None:
    other = module.add_func(Func("other", [Value("p", Tensor.of("f32", "S", 4))]))
    other.returns = [module.main.nodes[0].result]


def _data_shape(module: Module) -> None:
    module.weights["w"].fields = {"data": np.zeros(5, np.float32)}


def _data_dtype(module: Module) -> None:
    module.weights["w"].fields = {"data": np.zeros(4, np.float64)}


def _data_fields(module: Module) -> None:
    module.weights["w"].fields = {"data": np.zeros(4, np.float32), "scale": np.zeros(1, np.float32)}


def _func_key(module: Module) -> None:
    module.main.name = "start"


def _weight_key(module: Module) -> None:
    module.weights["w"].name = "v"


def _attribute_value(module: Module) -> None:
    node = Builder(module.main).node("view.transpose", module.main.params[0], perm=(1, 0))
    node.attrs["perm"] = [1, 0]


def _attribute_missing(module: Module) -> None:
    node = Builder(module.main).node("view.transpose", module.main.params[0], perm=(1, 0))
    del node.attrs["perm"]


def _result_names(module: Module) -> None:
    module.main.result_names = ("a", "b")


def _negative_range(module: Module) -> None:
    module.dims["S"] = (4, 2)


FAULTS = [
    (_lost_user, "NM310"),
    (_double_user, "NM310"),
    (_stale_user, "NM310"),
    (_args_behind_the_back, "NM310"),
    (_literal_of_two_nodes, "NM310"),
    (_renamed_directly, "NM310"),
    (_same_name, "NM301"),
    (_no_name, "NM301"),
    (_wrong_producer, "NM310"),
    (_wrong_index, "NM310"),
    (_order, "NM302"),
    (_foreign_weight, "NM307"),
    (_foreign_value, "NM302"),
    (_data_shape, "NM308"),
    (_data_dtype, "NM308"),
    (_data_fields, "NM308"),
    (_func_key, "NM301"),
    (_weight_key, "NM301"),
    (_attribute_value, "NM305"),
    (_attribute_missing, "NM305"),
    (_result_names, "NM300"),
    (_negative_range, "NM306"),
]


@pytest.mark.parametrize(("damage", "code"), FAULTS, ids=[damage.__name__[1:] for damage, _ in FAULTS])
def test_damage_is_found(damage: Callable[[Module], None], code: str) -> None:
    module = chain()
    verify(module)
    damage(module)
    with pytest.raises(NomulError) as caught:
        verify(module)
    assert code in {problem.code for problem in caught.value.problems}
    assert str(caught.value)
    print_module(module)  # whatever is wrong, it can be shown


def test_encoded_data() -> None:
    module = chain()
    encoding = get_encoding("f16")
    weight = Weight("h", Tensor(DType.F32, Tensor.of("f32", 4).shape, encoding), encoding.pack(np.ones(4, np.float32)))
    module.add_weight(weight)
    verify(module)
    weight.fields = {"data": np.ones(4, np.float32)}
    with pytest.raises(NomulError, match=r"float32\[4\] as its field 'data', not float16\[4\]"):
        verify(module)


@pytest.mark.parametrize("shape", [(4, 48), (64,), (4, 0)])
def test_weights_that_cannot_have_their_encoding(shape: tuple[int, ...]) -> None:
    module = chain()
    encoding = get_encoding("int4", group=32)
    module.add_weight(Weight("h", Tensor(DType.F32, Tensor.of("f32", *shape).shape, encoding)))
    with pytest.raises(NomulError, match="weight @h cannot be stored as int4<group=32>") as caught:
        verify(module)
    assert caught.value.code == "NM307"


def test_the_message_stands_under_the_guilty_op() -> None:
    module = chain()
    node = module.main.nodes[1]
    node.loc = "layers.3.attention"
    module.main.set_args(node, (node.args[0], Constant(1, DType.I64)))
    with pytest.raises(NomulError) as caught:
        verify(module, context=1)
    assert str(caught.value) == "\n".join(
        [
            "error[NM304]: operand 'y' of ew.add must be f32 like the operands before it, but is i64[]",
            "  at: layers.3.attention",
            "     5 |   %a = ew.neg %x : f32[S, 4]",
            f'     6 |   {"%b = ew.add %a, 1 : f32[S, 4]":69} loc("layers.3.attention")',
            "       |                   ^ operand 'y' of ew.add must be f32 like the operands before it, but is i64[]",
            "     7 |   %c = ew.mul %b, 2.0 : f32[S, 4]",
        ]
    )


def test_all_faults_are_collected_up_to_a_limit() -> None:
    module = Module()
    func = module.add_func(Func("main", [Value("x", Tensor.of("f32", 4))]))
    b = Builder(func)
    for _ in range(2 * MOST_PROBLEMS):
        b.ew.neg(func.params[0]).type = Tensor.of("f32", 5)
    func.returns = [func.params[0]]
    with pytest.raises(NomulError) as caught:
        verify(module)
    assert len(caught.value.problems) == MOST_PROBLEMS


def test_problem_rendering() -> None:
    assert Problem("NM1", "bad").render() == "error[NM1]: bad"
    shown = Problem("NM1", "bad", "a\nb", "try", "text", None, 1).render()
    assert shown == "error[NM1]: bad\n  at: a b\n       | text\n       |  ^\n  help: try"
    error = NomulError("NM1", "bad", loc="layer", help="try")
    assert str(error) == "error[NM1]: bad\n  at: layer\n  help: try" and error.args == ("bad",)


def big_module(nodes: int) -> Module:
    module = Module({"B": (1, 8), "S": (1, 512)})
    func = module.add_func(Func("main", [Value("x", Tensor.of("f32", "B", "S", 64))]))
    weight = module.add_weight(Weight("w", Tensor.of("f32", 64, 64)))
    x, b = func.params[0], Builder(func)
    for layer in range(nodes // 4):
        b.loc = f"layers.{layer}.mlp"
        h = b.ew.mul(b.ew.add(b.nn.linear(x, weight), x), 0.125)
        x = b.view.reshape(h, shape=x.shape)
    func.returns = [x]
    return module


def _seconds(work: Callable[[], object]) -> float:
    """Processor time, the best of three: the machine may be busy."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def test_large_modules_are_quick() -> None:
    """`python benchmarks/looking.py` measures; here the limits are generous, for busy machines."""
    module = big_module(5000)
    text = print_module(module)
    assert _seconds(lambda: verify(module)) < 0.5
    assert _seconds(lambda: print_module(module)) < 0.4
    assert _seconds(lambda: parse_module(text)) < 3.0
