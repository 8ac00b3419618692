"""Names and ranges of dims, and what happens when a graph demands more of them."""

from __future__ import annotations

import pytest
from onnx_models import check, imported, model, normal, ops

from nomul.frontend import import_onnx
from nomul.frontend.common import NomulWarning
from nomul.ir.dim import Dim
from nomul.ir.errors import NomulError


def relu(inputs: str):
    return model(f"g ({inputs}) => (float[] y) {{ y = Relu (x) }}")


def renamed(proto, *names: str):
    """The model with other names for the axes of its first input; an empty one is nameless."""
    for dim, name in zip(proto.graph.input[0].type.tensor_type.shape.dim, names, strict=True):
        dim.dim_param = name
    return proto


def dims_of(module) -> dict:
    return dict(module.dims)


def test_names_come_from_the_model() -> None:
    module = imported(relu("float[batch, 3, width] x"))
    assert dims_of(module) == {"batch": (1, 4096), "width": (1, 4096)}
    assert str(module.main.params[0].type) == "f32[batch, 3, width]"


@pytest.mark.parametrize("name", ["", "?", "-1", "None", "unk__12", "p2o.DynamicDimension.0", "DynamicDimension.7"])
def test_nameless_axes_are_named_by_input_and_axis(name: str) -> None:
    module = imported(renamed(relu("float[a, b] x"), name, name))
    assert list(module.dims) == ["x_0", "x_1"]


def test_names_become_identifiers() -> None:
    module = imported(renamed(relu("float[a, b] x"), "batch size", "class"))
    assert list(module.dims) == ["batch_size", "d_class"]


def test_expressions_of_known_names_are_computed() -> None:
    text = "g (float[a] x, float[b] y) => (float[] z) { z = Concat <axis = 0> (x, y) }"
    proto = renamed(model(text), "past")
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "past + 1"
    module = imported(proto)
    assert list(module.dims) == ["past"]
    assert module.main.returns[0].shape == (Dim.of("past") * 2 + 1,)


def test_ranges_and_constants_by_name_place_and_original_name() -> None:
    proto = renamed(relu("float[a, b, c] x"), "batch", "", "seq len")
    module = imported(proto, {"batch": 2, "x_1": (3, 9), "seq len": (1, 512)})
    assert dims_of(module) == {"x_1": (3, 9), "seq_len": (1, 512)}
    assert module.main.params[0].shape[0] == 2


@pytest.mark.parametrize(
    ("dims", "message"),
    [({"bach": 1}, "no dynamic dim 'bach'"), ({"batch": (3, 2)}, "empty"), ({"batch": -1}, "negative")],
)
def test_bad_requests(dims: dict, message: str) -> None:
    with pytest.raises(NomulError, match=message) as caught:
        import_onnx(relu("float[batch] x"), dims=dims)
    assert caught.value.code == "NM206"


def test_a_typing_error_is_answered_with_the_right_name() -> None:
    with pytest.raises(NomulError) as caught:
        import_onnx(relu("float[batch] x"), dims={"bacth": 1})
    assert "did you mean batch?" in str(caught.value)


UNET = """g (float[1, 1, H, W] x) => (float[] y) {
  low = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 0> (x)
  lower = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 0> (low)
  scales = Constant <value_floats = [1.0, 1.0, 4.0, 4.0]> ()
  up = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric"> (lower, , scales)
  y = Add (x, up)
}"""


def test_a_demanded_multiple_becomes_the_unit_of_the_dim() -> None:
    with pytest.warns(NomulWarning, match="axis 2 of input 'x' must be a multiple of 4"):
        module = import_onnx(model(UNET))
    assert module.main.params[0].type == module.main.returns[0].type
    assert str(module.main.params[0].type) == "f32[1, 1, 4*H_div4, 4*W_div4]"
    assert dims_of(module) == {"H_div4": (1, 1024), "W_div4": (1, 1024)}
    check(model(UNET), normal(1, 1, 12, 20), module=module)


def test_a_multiple_cuts_the_range_that_the_user_gave() -> None:
    module = imported(model(UNET), {"H": (5, 30), "W": 16})
    assert dims_of(module) == {"H_div4": (2, 7)}
    assert module.main.params[0].shape[3] == 16


def test_a_constant_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(NomulError, match="must be equal") as caught:
        import_onnx(model(UNET), dims={"H": 18})
    assert caught.value.code in ("NM204", "NM206") and caught.value.loc == "Add:y"


def test_axes_that_must_be_equal_become_one_dim() -> None:
    text = "g (float[2, a] x, float[2, b] z) => (float[] y) { y = Add (x, z) }"
    proto = model(text)
    for port in proto.graph.input:
        port.type.tensor_type.shape.dim[1].dim_param = ""
    with pytest.warns(NomulWarning, match="must be as long as"):
        module = import_onnx(proto)
    assert list(module.dims) == ["x_1"]
    assert module.main.params[0].type == module.main.params[1].type


def test_an_upper_bound_narrows_the_default_range() -> None:
    table = normal(1, 512)
    text = """g (float[1, S] x) => (float[] y) {
      shape = Shape (x)
      one = Constant <value_ints = [1]> ()
      two = Constant <value_ints = [2]> ()
      end = Slice (shape, one, two)
      zero = Constant <value_ints = [0]> ()
      part = Slice (table, zero, end, one)
      y = Add (x, part)
    }"""
    proto = model(text, weights={"table": table})
    with pytest.warns(NomulWarning, match=r"the range is \[1, 512\]"):
        module = import_onnx(proto)
    assert dims_of(module) == {"S": (1, 512)}
    check(proto, normal(1, 77), module=module)
    with pytest.raises(NomulError, match="must be at most 512") as caught:
        import_onnx(proto, dims={"S": (1, 600)})
    assert "dims={'S': (1, 512)}" in str(caught.value)


def test_a_kernel_that_does_not_fit_small_images_narrows_the_range() -> None:
    text = "g (float[1, 1, 8, W] x) => (float[] y) { y = Conv <kernel_shape = [3, 5]> (x, w) }"
    module = imported(model(text, weights={"w": normal(1, 1, 3, 5)}))
    assert dims_of(module) == {"W": (5, 4096)}


def test_a_size_that_fits_only_one_value_becomes_constant() -> None:
    text = "g (float[1, S] x) => (float[] y) { shape = Constant <value_ints = [2, 6]> ()\n y = Reshape (x, shape) }"
    with pytest.warns(NomulWarning, match="axis 1 of input 'x' is 12"):
        module = import_onnx(model(text))
    assert ops(module) == ["view.reshape"] and not module.dims
    with pytest.raises(NomulError) as caught:
        import_onnx(model(text), dims={"S": (1, 512)})
    assert caught.value.code == "NM206" and "dims={'S': 12}" in str(caught.value)


def test_a_wrongly_declared_output_is_told() -> None:
    proto = model("g (float[2, 3] x) => (float[2, 4] y) { y = Relu (x) }")
    with pytest.warns(NomulWarning, match="declared as"):
        import_onnx(proto)
