"""The five mutators and use lists, cloning, calls and outlining, the builder, the networkx view."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nomul.ir.builder import Builder
from nomul.ir.errors import NomulError
from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight, clone_func
from nomul.ir.interpreter import run
from nomul.ir.networkx_view import to_networkx
from nomul.ir.op import TypeFault, get_op
from nomul.ir.structure import inline_call, insert_call, outline
from nomul.ir.text import print_module
from nomul.ir.types import DType, Tensor
from nomul.ir.verifier import find_faults, verify


def chain() -> Module:
    """%a = neg x; %b = a + w; %c = b * 2; return c"""
    module = Module({"S": (1, 8)})
    func = module.add_func(Func("main", [Value("x", Tensor.of("f32", "S", 4))]))
    weight = module.add_weight(Weight.dense("w", np.arange(4, dtype=np.float32)))
    b = Builder(func)
    a = b.ew.neg(func.params[0], name="a")
    total = b.ew.add(a, weight, name="b")
    func.returns = [b.ew.mul(total, 2, name="c")]
    return module


# -- mutators ----------------------------------------------------------------------------------------------------
def test_insert_makes_names_unique() -> None:
    module = chain()
    b = Builder(module.main, before=module.main.nodes[0])
    first, second = b.ew.neg(module.main.params[0], name="a"), b.ew.neg(module.main.params[0], name="x")
    assert (first.name, second.name) == ("a.1", "x.1")
    assert [node.results[0].name for node in module.main.nodes] == ["a.1", "x.1", "a", "b", "c"]
    assert module.main.lookup("a.1") is first and module.main.lookup("zz") is None
    verify(module)


def test_replace_all_reaches_nodes_and_returns() -> None:
    module = chain()
    func = module.main
    a, c = func.lookup("a"), func.lookup("c")
    assert a and c
    func.replace_all(a, func.params[0])
    assert a.users == [] and func.nodes[1].args[0] is func.params[0]
    func.replace_all(c, func.nodes[1].result)
    assert func.returns == [func.nodes[1].result]
    verify(module)


def test_erase_refuses_what_is_used() -> None:
    module = chain()
    func = module.main
    for node in (func.nodes[0], func.nodes[2]):
        with pytest.raises(ValueError, match="is still used"):
            func.erase(node)
    func.returns = [func.nodes[1].result]
    func.erase(func.nodes[2])
    assert len(func.nodes) == 2 and func.lookup("c") is None
    verify(module)


def test_rename() -> None:
    module = chain()
    b = module.main.lookup("b")
    assert b
    module.main.rename(b, "a")
    assert b.name == "a.1" and module.main.lookup("b") is None
    module.main.rename(b, "b")
    assert b.name == "b"
    verify(module)


def test_weights() -> None:
    module = chain()
    other = module.add_weight(Weight.dense("w", np.zeros(2, np.float32)))
    assert other.name == "w.1" and list(module.weights) == ["w", "w.1"]
    module.remove_weight(other)
    with pytest.raises(ValueError, match="still used"):
        module.remove_weight(module.weights["w"])


class Mutations(RuleBasedStateMachine):
    """Any order of mutators keeps what the verifier checks."""

    def __init__(self) -> None:
        super().__init__()
        self.module = chain()

    @property
    def func(self) -> Func:
        return self.module.main

    def _value(self, data: st.DataObject, before: int) -> Value:
        values = [*self.func.params, *(r for node in self.func.nodes[:before] for r in node.results)]
        return data.draw(st.sampled_from(values))

    @rule(data=st.data())
    def insert(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.func.nodes)))
        before = self.func.nodes[at] if at < len(self.func.nodes) else None
        Builder(self.func, before).ew.add(self._value(data, at), self._value(data, at), name="n")

    @precondition(lambda self: self.func.nodes)
    @rule(data=st.data())
    def set_args(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.func.nodes) - 1))
        node = self.func.nodes[at]
        self.func.set_args(node, tuple(self._value(data, at) for _ in node.args))

    @precondition(lambda self: self.func.nodes)
    @rule(data=st.data())
    def replace_all(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.func.nodes) - 1))
        self.func.replace_all(self.func.nodes[at].result, self._value(data, at))

    @rule()
    def erase_unused(self) -> None:
        for node in reversed(list(self.func.nodes)):
            if not node.result.users and node.result not in self.func.returns:
                self.func.erase(node)

    @rule(data=st.data(), name=st.sampled_from(["x", "n", "a", "new"]))
    def rename(self, data: st.DataObject, name: str) -> None:
        self.func.rename(self._value(data, len(self.func.nodes)), name)

    @precondition(lambda self: len(self.func.nodes) > 1)
    @rule()
    def clone(self) -> None:
        self.module = self.module.clone()

    @invariant()
    def is_valid(self) -> None:
        assert find_faults(self.module) == []


TestMutations = Mutations.TestCase
TestMutations.settings = settings(max_examples=40, stateful_step_count=20, deadline=None, derandomize=True)


# -- copies, calls -----------------------------------------------------------------------------------------------
def test_clone_shares_only_weight_data() -> None:
    module = chain()
    copy = module.clone()
    assert print_module(copy) == print_module(module)
    originals = {*module.main.values(), *module.weights.values(), *module.main.nodes}
    assert not originals & {*copy.main.values(), *copy.weights.values(), *copy.main.nodes}
    assert copy.weights["w"].fields["data"] is module.weights["w"].fields["data"]
    literal = copy.main.nodes[2].args[1]
    assert isinstance(literal, Constant) and literal is not module.main.nodes[2].args[1]
    verify(copy)
    verify(module)


def test_clone_func_under_another_name() -> None:
    module = chain()
    copy = module.add_func(clone_func(module.main, name="twin"))
    assert copy.name == "twin" and copy.nodes[1].args[1] is module.weights["w"]
    verify(module)


def test_outline_keeps_names_and_results() -> None:
    module = chain()
    x = np.ones((3, 4), np.float32)
    expected = run(module, x)
    call = outline(module, module.main, module.main.nodes[:2], "fused")
    verify(module)
    private = module.funcs["fused.0"]
    assert call.attrs == {"func": "fused.0"} and [str(a) for a in call.args] == ["%x", "@w"]
    assert [p.name for p in private.params] == ["x", "w"] and [n.result.name for n in private.nodes] == ["a", "b"]
    assert [n.results[0].name for n in module.main.nodes] == ["b", "c"]
    np.testing.assert_array_equal(run(module, x)[0], expected[0])


def test_outline_with_several_results_and_equal_names() -> None:
    module = Module()
    func = module.add_func(Func("main", [Value("w", Tensor.of("f32", 4))]))
    weight = module.add_weight(Weight.dense("w", np.ones(4, np.float32)))
    b = Builder(func)
    total = b.ew.add(func.params[0], weight)
    func.returns = [b.ew.neg(total), total]
    outline(module, func, list(func.nodes), "both")
    verify(module)
    assert [p.name for p in module.funcs["both.0"].params] == ["w", "w.p2"]
    assert len(func.nodes) == 1 and func.returns == [func.nodes[0].results[1], func.nodes[0].results[0]]
    np.testing.assert_array_equal(run(module, np.ones(4, np.float32))[1], [2, 2, 2, 2])


def test_inline_undoes_outline() -> None:
    module = chain()
    before, x = print_module(module), np.ones((3, 4), np.float32)
    expected = run(module, x)
    call = outline(module, module.main, module.main.nodes[:2], "fused")
    inline_call(module, module.main, call)
    assert call not in module.main.nodes
    verify(module)
    np.testing.assert_array_equal(run(module, x)[0], expected[0])
    del module.funcs["fused.0"]
    assert print_module(module) == before


def test_inline_a_function_that_returns_its_parameter_and_a_literal() -> None:
    module = chain()
    same = module.add_func(Func("same", [Value("v", Tensor.of("f32", "S", 4))]))
    same.returns = [same.params[0], Constant(2.0, DType.F32)]
    a, b, _ = module.main.nodes
    call = insert_call(module.main, same, [a.result], before=b, names=["kept", "two"])
    module.main.set_args(b, (call.results[0], call.results[1]))
    inline_call(module, module.main, call)
    verify(module)
    assert "  %b = ew.add %a, 2.0 : f32[S, 4]" in print_module(module)


def test_insert_call() -> None:
    module = chain()
    b = module.main.lookup("b")
    assert b
    square = module.add_func(Func(module.fresh_func("square"), [Value("v", b.type)]))
    square.returns = [Builder(square).ew.mul(square.params[0], square.params[0])]
    call = insert_call(module.main, square, [b], names=["squared"])
    module.main.returns = call.results
    verify(module)
    assert call.result.name == "squared" and module.fresh_func("square") == "square.1"


# -- builder -----------------------------------------------------------------------------------------------------
def test_builder_makes_literals_of_the_operands_dtype() -> None:
    func = Func(
        "main", [Value("x", Tensor.of("f16", 4)), Value("i", Tensor.of("i32", 4)), Value("b", Tensor.of("bool", 4))]
    )
    x, i, condition = func.params
    b = Builder(func)
    assert b.ew.add(x, 1).dtype is DType.F16
    assert b.ew.mul(2, i).dtype is DType.I32
    assert b.ew.where(condition, 1.5, 0.0).dtype is DType.F32
    assert b.ew.where(condition, 1, x).dtype is DType.F16
    assert b.ew.and_(condition, True).dtype is DType.BOOL
    with pytest.raises(TypeFault, match=r"1\.5 is not of type i32"):
        b.ew.add(i, 1.5)
    with pytest.raises(KeyError):
        b.ew.nothing(x)
    with pytest.raises(AttributeError):
        b._family  # noqa: B018


def test_builder_places_and_locs() -> None:
    module = chain()
    b = Builder(module.main, loc="outer")
    x = module.main.params[0]
    with b.at("inner"):
        inner = b.ew.neg(x)
    assert inner.producer and inner.producer.loc == "inner"
    assert b.node("ew.neg", x).loc == "outer"
    assert b.nn.layer_norm(x, None, None).producer.args == (x,)


def test_constants_are_stored_as_their_dtype_keeps_them() -> None:
    assert Constant(0.1, DType.F32).value == float(np.float32(0.1))
    assert Constant(2, DType.F32).value == 2.0 and isinstance(Constant(2, DType.F32).value, float)
    assert Constant(True, DType.BOOL).value is True
    assert str(Constant(7, DType.I64)) == "7"


def test_reprs() -> None:
    module = chain()
    node = module.main.nodes[1]
    assert repr(node) == "<Node %b = ew.add>" and repr(node.result) == "<Value %b : f32[S, 4]>"
    assert repr(module.weights["w"]) == "<Weight @w : f32[4]>"
    two = Node(get_op("index.top_k"), (), {}, [Tensor.of("f32"), Tensor.of("i64")], ["v", "i"])
    with pytest.raises(ValueError, match="too many values"):
        _ = two.result


# -- interpreter, networkx ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "takes 1 inputs, not 0"),
        ([np.zeros((2, 4))], "float64"),
        ([np.zeros(4, np.float32)], "must be f32"),
        ([np.zeros((2, 5), np.float32)], "has shape"),
        ([np.zeros((9, 4), np.float32)], "outside its range"),
    ],
)
def test_interpreter_refuses_wrong_inputs(inputs: list[np.ndarray], message: str) -> None:
    with pytest.raises(NomulError, match=message) as caught:
        run(chain(), *inputs)
    assert caught.value.code == "NM101"


def test_interpreter_shows_each_node_to_the_observer() -> None:
    seen = []
    run(
        chain(),
        np.ones((1, 4), np.float32),
        observer=lambda node, results: seen.append((node.op, float(results[0][0, 0]))),
    )
    assert seen == [("ew.neg", -1.0), ("ew.add", -1.0), ("ew.mul", -2.0)]


def test_networkx_view() -> None:
    module = chain()
    a, b, c = module.main.nodes
    module.main.set_args(c, (b.result, b.result))
    graph = to_networkx(module.main)
    assert list(graph.nodes) == [a, b, c] and nx.is_directed_acyclic_graph(graph)
    assert [graph.nodes[node]["position"] for node in graph] == [0, 1, 2]
    assert sorted((u.op, v.op, d["operand"]) for u, v, d in graph.edges(data=True)) == [
        ("ew.add", "ew.mul", 0),
        ("ew.add", "ew.mul", 1),
        ("ew.neg", "ew.add", 0),
    ]
    assert nx.ancestors(graph, c) == {a, b}
