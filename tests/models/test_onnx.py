"""Whatever an ONNX file says, reading it ends in facts or in one ModelError, before onnxruntime sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from tests.models.hf_folder import external, tiny_graph

from takeoff.errors import ModelError
from takeoff.models.onnx import MAX_DEPTH, read_onnx

SMALL = tiny_graph().SerializeToString()


def in_initializer(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return tiny_graph(weight=tensor)


def in_attribute(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = tiny_graph()
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    return model


def in_subgraph(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = tiny_graph()
    branch = helper.make_graph([helper.make_node("Identity", ["table"], ["b"])], "branch", [], [], [tensor])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))
    return model


def in_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = tiny_graph()
    body = [helper.make_node("Constant", [], ["c"], value=tensor)]
    model.functions.append(helper.make_function("f", "F", [], ["c"], body, [helper.make_opsetid("", 17)]))
    return model


def in_default_of_a_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = tiny_graph()
    function = helper.make_function("f", "F", [], [], [], [helper.make_opsetid("", 17)])
    function.attribute_proto.append(helper.make_attribute("value", tensor))
    model.functions.append(function)
    return model


def in_sparse_values(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = tiny_graph()
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [8]))
    return model


def in_training(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = tiny_graph()
    model.training_info.add().initialization.initializer.append(tensor)
    return model


PLACES = [
    in_initializer,
    in_attribute,
    in_subgraph,
    in_function,
    in_default_of_a_function,
    in_sparse_values,
    in_training,
]
Place = Callable[[onnx.TensorProto], onnx.ModelProto]


def write(folder: Path, model: onnx.ModelProto | bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def test_the_facts_of_a_small_file(tmp_path: Path) -> None:
    facts = read_onnx(write(tmp_path, SMALL))
    assert (facts.num_params, facts.quantisation, facts.file_bytes) == (32, "F32", len(SMALL))
    assert (facts.outputs, facts.quantises_activations) == (("last_hidden_state",), False)


def test_the_type_of_most_bytes_names_the_quantisation(tmp_path: Path) -> None:
    model = tiny_graph()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1000, np.int8), "w"))
    model.graph.node.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"]))
    facts = read_onnx(write(tmp_path, model))
    assert (facts.num_params, facts.quantisation, facts.quantises_activations) == (1032, "INT8", True)


def test_weights_in_a_file_beside_the_model_are_counted(tmp_path: Path) -> None:
    (tmp_path / "model.onnx_data").write_bytes(bytes(128))
    model = in_initializer(external("model.onnx_data"))
    facts = read_onnx(write(tmp_path, model))
    assert facts.external_files == (tmp_path / "model.onnx_data",)
    assert facts.file_bytes == 128 + len(model.SerializeToString())


@pytest.mark.parametrize("place", PLACES)
def test_weights_outside_the_folder_are_refused_wherever_a_tensor_can_stand(
    tmp_path: Path, place: Place
) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(bytes(128))
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "folder").mkdir()
    for location in (
        str(tmp_path / "secret"),
        "../secret",
        "folder/../../secret",
        "link",
        "folder",
        "missing",
        "",
        "*/_ORT_MEM_ADDR_/*",
        "a\0b",
    ):
        with pytest.raises(ModelError, match="keeps weights in") as refused:
            read_onnx(write(inside, place(external(location))))
        assert repr(location) in refused.value.message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "has no graph"),
        (b"GGUF" + bytes(64), "is not ONNX|it is not ONNX"),
        (SMALL[: len(SMALL) // 2], "is damaged|ends at byte"),
        (b"\x3b" + bytes(8), "wire type 3"),
        (b"\xff" * 11, "more than 64 bits"),
        # Field 7 with a bit above the 32 that a tag has: readers that cut it would see the graph.
        (b"\xba\x80\x80\x80\x80\x01\x02\x0a\x00", "is damaged at byte"),
    ],
)
def test_a_damaged_file_is_told_what_is_wrong_with_it(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_onnx(write(tmp_path, data))


def test_graphs_inside_each_other_end_at_a_depth(tmp_path: Path) -> None:
    graph = helper.make_graph([], "inner", [], [], [])
    for _ in range(MAX_DEPTH):
        graph = helper.make_graph([helper.make_node("Loop", [], ["x"], body=graph)], "outer", [], [])
    model = tiny_graph()
    model.graph.node.append(helper.make_node("Loop", [], ["x"], body=graph))
    with pytest.raises(ModelError, match=f"deeper than {MAX_DEPTH}"):
        read_onnx(write(tmp_path, model))


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", "."):
        with pytest.raises(ModelError, match="can't be read"):
            read_onnx(tmp_path / name)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=9), st.integers(0, len(SMALL)))
def test_any_mutation_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, new: bytes, length: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = write(folder, (SMALL[:at] + new + SMALL[at + len(new) :])[:length])
    try:
        facts = read_onnx(path)
    except ModelError:
        return
    assert facts.num_params >= 0


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PLACES), st.integers(1, 3))
def test_a_tensor_is_found_as_the_onnx_package_finds_it(
    tmp_path_factory: pytest.TempPathFactory, place: Place, copies: int
) -> None:
    """Protocol buffers merge what comes twice: the same graph in pieces is still looked through."""
    folder = tmp_path_factory.getbasetemp()
    data = SMALL * copies + place(external("/etc/passwd")).SerializeToString()
    assert b"/etc/passwd" in onnx.load_model_from_string(data).SerializeToString()
    with pytest.raises(ModelError, match="'/etc/passwd'"):
        read_onnx(write(folder, data))
