"""Folders of the HF layout with a network of a few numbers, for tests that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

POOLING = {"word_embedding_dimension": 4, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def tiny_graph(output: str = "last_hidden_state", weight: onnx.TensorProto | None = None) -> onnx.ModelProto:
    """[batch, sequence] token ids to [batch, sequence, 4]: a table of 8 rows, looked up."""
    table = np.arange(32, dtype=np.float32).reshape(8, 4)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], [output])],
        "tiny",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", "sequence", 4])],
        [weight or numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def external(location: str) -> onnx.TensorProto:
    """A weight whose bytes are elsewhere."""
    tensor = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[8, 4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_folder(folder: Path, graph: onnx.ModelProto | None = None, **config: Any) -> Path:
    """A folder that `read_encoder` takes; `config` goes into its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes((graph or tiny_graph()).SerializeToString())
    write_json(folder / "tokenizer.json", {"version": "1.0", "model": {"type": "WordLevel"}})
    shape = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    write_json(
        folder / "config.json",
        {"model_type": "bert", "architectures": ["BertModel"], "max_position_embeddings": 64}
        | shape
        | config,
    )
    return folder


def write_modules(folder: Path, *kinds: str, pooling: dict[str, Any] | None = None) -> None:
    """modules.json of these modules, and the pooling's settings."""
    modules = [
        {"idx": i, "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling" / "config.json", POOLING if pooling is None else pooling)
