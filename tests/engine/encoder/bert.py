"""BERT written as ONNX and as GGUF from one set of weights, so that numbers can be held against numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Weights = Mapping[str, NDArray[np.float32]]
EPSILON = 1e-12


def read_safetensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """The float32 tensors of a file, without the library."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    found: dict[str, NDArray[np.float32]] = {}
    for name, facts in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__" and facts["dtype"] == "F32":
            start, end = (8 + length + offset for offset in facts["data_offsets"])
            found[name] = np.frombuffer(data[start:end], "<f4").reshape(facts["shape"])
    return found


def random_weights(
    *, vocab: int = 32, width: int = 16, layers: int = 2, classes: int = 0, seed: int = 7
) -> Weights:
    """A BERT of this shape, under transformers' names."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return (0.5 * rng.standard_normal(shape)).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": normal(vocab, width),
        "embeddings.position_embeddings.weight": normal(64, width),
        "embeddings.token_type_embeddings.weight": normal(2, width),
        "embeddings.LayerNorm.weight": 1 + normal(width),
        "embeddings.LayerNorm.bias": normal(width),
    }
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}"
        for name, (rows, columns) in {
            "attention.self.query": (width, width),
            "attention.self.key": (width, width),
            "attention.self.value": (width, width),
            "attention.output.dense": (width, width),
            "intermediate.dense": (2 * width, width),
            "output.dense": (width, 2 * width),
        }.items():
            weights[f"{prefix}.{name}.weight"] = normal(rows, columns)
            weights[f"{prefix}.{name}.bias"] = normal(rows)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            weights[f"{prefix}.{name}.weight"] = 1 + normal(width)
            weights[f"{prefix}.{name}.bias"] = normal(width)
    if classes:
        weights["classifier.weight"], weights["classifier.bias"] = normal(classes, width), normal(classes)
    return weights


class _Graph:
    """Nodes and weights, one after the other."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        value = self.weights[name].T if transposed else self.weights[name]
        return self.constant(np.ascontiguousarray(value), name)

    def constant(self, value: NDArray[Any], name: str | None = None) -> str:
        name = name or f"constant_{len(self.constants)}"
        self.constants.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def linear(self, x: str, name: str) -> str:
        product = self.op("MatMul", x, self.weight(f"{name}.weight", transposed=True))
        return self.op("Add", product, self.weight(f"{name}.bias"))

    def norm(self, x: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=EPSILON)

    def heads(self, x: str, name: str, heads: int, width: int, axes: list[int]) -> str:
        shape = self.constant(np.array([0, 0, heads, width // heads], np.int64), f"split_{heads}")
        return self.op("Transpose", self.op("Reshape", self.linear(x, name), shape), perm=axes)


def bert_onnx(weights: Weights, *, heads: int) -> onnx.ModelProto:
    """The network with the outputs of its weights: logits if there is a classifier, else hidden states.

    Source: Devlin et al. 2018, arXiv:1810.04805; BertModel of transformers.
    """
    graph = _Graph(weights)
    width = weights["embeddings.LayerNorm.bias"].shape[0]
    one = graph.constant(np.array([1], np.int64), "one")
    length = graph.op("Shape", "input_ids", start=1, end=2)
    positions = graph.op(
        "Range", graph.constant(np.array(0, np.int64)), graph.op("Squeeze", length), graph.op("Squeeze", one)
    )
    x = graph.op("Gather", graph.weight("embeddings.word_embeddings.weight"), "input_ids")
    types = graph.op("Gather", graph.weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
    places = graph.op("Gather", graph.weight("embeddings.position_embeddings.weight"), positions)
    x = graph.norm(graph.op("Add", graph.op("Add", x, types), places), "embeddings.LayerNorm")
    mask = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = graph.op("Sub", graph.constant(np.array(1, np.float32)), mask)
    hidden = graph.op("Mul", hidden, graph.constant(np.array(-1e9, np.float32)))
    hidden = graph.op("Unsqueeze", hidden, graph.constant(np.array([1, 2], np.int64)))
    for layer in range(sum(name.endswith("intermediate.dense.weight") for name in weights)):
        prefix = f"encoder.layer.{layer}"
        attention = f"{prefix}.attention.self"
        query = graph.heads(x, f"{attention}.query", heads, width, [0, 2, 1, 3])
        key = graph.heads(x, f"{attention}.key", heads, width, [0, 2, 3, 1])
        value = graph.heads(x, f"{attention}.value", heads, width, [0, 2, 1, 3])
        scale = graph.constant(np.array((width // heads) ** -0.5, np.float32), "scale")
        scores = graph.op("Add", graph.op("Mul", graph.op("MatMul", query, key), scale), hidden)
        mixed = graph.op(
            "Transpose", graph.op("MatMul", graph.op("Softmax", scores), value), perm=[0, 2, 1, 3]
        )
        mixed = graph.op("Reshape", mixed, graph.constant(np.array([0, 0, width], np.int64), "join"))
        mixed = graph.linear(mixed, f"{prefix}.attention.output.dense")
        x = graph.norm(graph.op("Add", x, mixed), f"{prefix}.attention.output.LayerNorm")
        inner = graph.linear(x, f"{prefix}.intermediate.dense")
        root = graph.op("Div", inner, graph.constant(np.array(2**0.5, np.float32), "root"))
        inner = graph.op(
            "Mul", inner, graph.op("Add", graph.op("Erf", root), graph.constant(np.array(1, np.float32), "1"))
        )
        inner = graph.op("Mul", inner, graph.constant(np.array(0.5, np.float32), "half"))
        x = graph.norm(
            graph.op("Add", x, graph.linear(inner, f"{prefix}.output.dense")), f"{prefix}.output.LayerNorm"
        )
    output, shape = "last_hidden_state", ["batch", "sequence", width]
    if "classifier.weight" in weights:
        first = graph.op("Gather", x, graph.constant(np.array(0, np.int64), "first"), axis=1)
        x, output, shape = (
            graph.linear(first, "classifier"),
            "logits",
            ["batch", len(weights["classifier.bias"])],
        )
    graph.nodes.append(helper.make_node("Identity", [x], [output]))
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    proto = helper.make_graph(
        graph.nodes,
        "bert",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        list(graph.constants.values()),
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


_GGUF_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def write_bert_gguf(path: Path, weights: Weights, vocab: Mapping[str, int], *, heads: int) -> None:
    """The same network for llama.cpp, pooled by the mean, as its converter writes it.

    A WordPiece vocabulary is written the other way round: what begins a word gets a phantom space,
    what goes on with one loses its "##".

    Source: BertModel.set_vocab of convert_hf_to_gguf.py.
    """
    writer = gguf.GGUFWriter(str(path), "bert")
    width = weights["embeddings.LayerNorm.bias"].shape[0]
    inner = [value for name, value in weights.items() if name.endswith("intermediate.dense.bias")]
    writer.add_name("bert")
    writer.add_context_length(len(weights["embeddings.position_embeddings.weight"]))
    writer.add_embedding_length(width)
    writer.add_block_count(len(inner))
    writer.add_feed_forward_length(len(inner[0]))
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(EPSILON)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_token_type_count(2)
    tokens = sorted(vocab, key=lambda token: vocab[token])
    special = [token for token in tokens if token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_phantom(token, token in special) for token in tokens])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
    )
    writer.add_unk_token_id(vocab["[UNK]"])
    writer.add_sep_token_id(vocab["[SEP]"])
    writer.add_pad_token_id(vocab["[PAD]"])
    writer.add_bos_token_id(vocab["[CLS]"])
    writer.add_mask_token_id(vocab["[MASK]"])
    for name, value in weights.items():
        layer = name.split(".")[2] if name.startswith("encoder.layer.") else None
        inside, _, kind = name.removeprefix(f"encoder.layer.{layer}.").rpartition(".")
        if inside in _GGUF_NAMES:
            target = _GGUF_NAMES[inside] if layer is None else f"blk.{layer}.{_GGUF_NAMES[inside]}"
            writer.add_tensor(f"{target}.{kind}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _phantom(token: str, is_special: bool) -> str:
    if is_special:
        return token
    return token[2:] if token.startswith("##") else "\u2581" + token
