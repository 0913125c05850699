"""Numbers: real weights in three forms against each other, and tiny networks against numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.engine.encoder.bert import bert_onnx, random_weights
from tests.models.hf_folder import tiny_graph, write_folder, write_json, write_modules

from takeoff.engine.encoder.model import Model, Tokens
from takeoff.engine.encoder.process import load_model
from takeoff.errors import InvalidRequest, ModelError
from takeoff.ipc.messages import LoadEncoder
from takeoff.request import Task, Text

TEXTS = [
    "A man is eating food.",
    "A man eats something.",
    "Über naïve café, unbelievably tokenised!",
    "",
    "rain " * 120,
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]


def write_tokenizer(folder: Path) -> None:
    """Words of one letter, framed as BERT does, with padding and truncation that must have no effect."""
    special = {
        name: {"id": name, "ids": [WORDS.index(name)], "tokens": [name]} for name in ("[CLS]", "[SEP]")
    }

    def piece(kind: str, name: str, type_id: int) -> dict[str, Any]:
        return {kind: {"id": name, "type_id": type_id}}

    cls, sep = piece("SpecialToken", "[CLS]", 0), piece("SpecialToken", "[SEP]", 0)
    first, second = piece("Sequence", "A", 0), piece("Sequence", "B", 1)
    single = [cls, first, sep]
    pair = [*single, second, piece("SpecialToken", "[SEP]", 1)]
    tokenizer = {
        "version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": special,
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(WORDS)}, "unk_token": "[UNK]"},
    }
    write_json(folder / "tokenizer.json", tokenizer)


def load(path: Path, task: Task = Task.EMBED, max_tokens: int | None = None) -> Model:
    return load_model(LoadEncoder(str(path), task, 2, 8, 0.0, max_tokens))


def compute(model: Model, texts: list[Text]) -> NDArray[np.float32]:
    return model.compute([model.tokenize(text) for text in texts])


def tiny(folder: Path, *, output: str = "last_hidden_state", **config: Any) -> Path:
    """Vectors are rows of a table: token n has (4n, 4n + 1, 4n + 2, 4n + 3)."""
    write_folder(folder, tiny_graph(output), **config)
    write_tokenizer(folder)
    return folder


def row(token: int) -> list[float]:
    return [4 * token + i for i in range(4)]


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", np.mean([row(2), row(4), row(7), row(3)], axis=0)),
        ("cls", row(2)),
        ("lasttoken", row(3)),
        ("max", row(7)),
    ],
)
def test_pooling_by_hand_beside_a_longer_text(tmp_path: Path, pooling: str, expected: list[float]) -> None:
    write_modules(tiny(tmp_path), "Transformer", "Pooling", pooling={"pooling_mode": pooling})
    model = load(tmp_path)
    rows = compute(model, ["a d", "b b b b b b b"])
    np.testing.assert_array_equal(rows[0], np.array(expected, np.float32))
    write_modules(tmp_path, "Transformer", "Pooling", "Normalize", pooling={"pooling_mode": pooling})
    unit = np.array(expected) / np.linalg.norm(expected)
    np.testing.assert_allclose(compute(load(tmp_path), ["a d", "b b b"])[0], unit, atol=1e-6)


def test_the_int8_and_the_f32_minilm_agree_and_say_what_belongs_together(
    minilm_path: Path, minilm_f32: Path
) -> None:
    int8, f32 = compute(load(minilm_path), TEXTS), compute(load(minilm_f32), TEXTS)
    assert (int8 * f32).sum(axis=1).min() > 0.995
    assert 0.85 < f32[0] @ f32[1] < 0.9
    assert f32[0] @ f32[2] < 0.3
    np.testing.assert_allclose(np.linalg.norm(f32, axis=1), 1, atol=1e-6)


def test_a_gguf_model_agrees_with_its_onnx_to_three_nines(minilm_gguf: Path, minilm_f32: Path) -> None:
    gguf, f32 = load(minilm_gguf, max_tokens=256), load(minilm_f32)
    for text in TEXTS:
        assert gguf.tokenize(text).ids == f32.tokenize(text).ids
    assert (compute(gguf, TEXTS) * compute(f32, TEXTS)).sum(axis=1).min() >= 0.999
    ids, tokens = gguf.spell(TEXTS[1], skip_special_tokens=True)
    assert tokens == ["▁a", "▁man", "▁eats", "▁something", "▁."]
    assert gguf.detokenize(ids, skip_special_tokens=True) == "a man eats something."
    assert gguf.detokenize(["[CLS]", *tokens], skip_special_tokens=True) == "a man eats something."
    with pytest.raises(InvalidRequest, match="no token 'xyzzy'"):
        gguf.detokenize(["xyzzy"], skip_special_tokens=True)


@pytest.mark.parametrize("which", ["minilm_path", "minilm_f32", "minilm_gguf"])
def test_a_vector_in_a_batch_equals_the_one_alone(which: str, request: pytest.FixtureRequest) -> None:
    model = load(request.getfixturevalue(which), max_tokens=256)
    together = compute(model, TEXTS)
    alone = np.concatenate([compute(model, [text]) for text in TEXTS])
    assert np.abs(together - alone).max() <= 1e-5


def quantised(folder: Path) -> Path:
    """A network that quantises its activations by the largest of a call, as dynamic int8 models do."""
    graph = tiny_graph("rows")
    weight = np.random.default_rng(1).integers(-100, 100, (4, 4)).astype(np.int8)
    graph.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    graph.graph.initializer.append(numpy_helper.from_array(np.array(0.01, np.float32), "w_scale"))
    for node in (
        helper.make_node("DynamicQuantizeLinear", ["rows"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["product"]),
        helper.make_node("Cast", ["product"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "w_scale"], ["both"]),
        helper.make_node("Mul", ["wide", "both"], ["last_hidden_state"]),
    ):
        graph.graph.node.append(node)
    del graph.graph.output[:]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", 4])
    graph.graph.output.append(output)
    write_folder(folder, graph)
    write_tokenizer(folder)
    return folder


def test_a_network_that_quantises_activations_gives_the_same_bytes_alone_and_in_company(
    tmp_path: Path,
) -> None:
    import onnxruntime

    model = load(quantised(tmp_path))
    texts: list[Text] = ["a", "d d d", "b c"]
    together = compute(model, texts)
    assert together.tobytes() == np.concatenate([compute(model, [text]) for text in texts]).tobytes()
    # In one call they would differ, which is why they are not computed in one.
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    alone = session.run(None, {"input_ids": np.array([[4, 3]])})[0]
    beside = session.run(None, {"input_ids": np.array([[4, 3], [7, 7]])})[0]
    assert np.abs(alone[0] - beside[0]).max() > 1e-3


def classifier(folder: Path, classes: int, **config: Any) -> Path:
    weights = random_weights(classes=classes)
    folder = write_folder(
        folder,
        bert_onnx(weights, heads=2),
        architectures=["BertForSequenceClassification"],
        id2label={str(i): f"class {i}" for i in range(classes)},
        **config,
    )
    write_tokenizer(folder)
    return folder


def logits_of(folder: Path, ids: list[int], types: list[int]) -> NDArray[np.float64]:
    """What onnxruntime says of one text, alone, before any score."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    feed = {"input_ids": [ids], "token_type_ids": [types], "attention_mask": [[1] * len(ids)]}
    return np.array(session.run(None, {k: np.array(v) for k, v in feed.items()})[0][0], np.float64)


def test_classes_of_a_text_are_a_softmax_over_its_logits(tmp_path: Path) -> None:
    model = load(classifier(tmp_path, 3), Task.CLASSIFY)
    assert (model.labels, model.num_dimensions) == (("class 0", "class 1", "class 2"), 3)
    rows = compute(model, ["a b", "c d a b c"])
    powers = np.exp(logits_of(tmp_path, [2, 4, 5, 3], [0, 0, 0, 0]))
    np.testing.assert_allclose(rows[0], powers / powers.sum(), atol=1e-5)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)


def test_a_pair_is_joined_by_the_tokenizers_own_template_and_scored_by_a_sigmoid(tmp_path: Path) -> None:
    model = load(classifier(tmp_path, 1), Task.CLASSIFY)
    assert model.tokenize(("a b", "c")) == Tokens([2, 4, 5, 3, 6, 3], [0, 0, 0, 0, 1, 1])
    rows = compute(model, [("a b", "c"), ("a b", "d d d")])
    logit = logits_of(tmp_path, [2, 4, 5, 3, 6, 3], [0, 0, 0, 0, 1, 1])
    np.testing.assert_allclose(rows[0], 1 / (1 + np.exp(-logit)), atol=1e-5)
    assert rows[0, 0] != rows[1, 0]


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_the_problem_type_decides_the_score(tmp_path: Path, problem: str) -> None:
    model = load(classifier(tmp_path, 2, problem_type=problem), Task.CLASSIFY)
    logits = logits_of(tmp_path, [2, 4, 3], [0, 0, 0])
    expected = logits if problem == "regression" else 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(compute(model, ["a"])[0], expected, atol=1e-5)


def test_tokens_of_a_folder_are_shown_and_joined(tmp_path: Path) -> None:
    model = load(tiny(tmp_path))
    assert model.spell("a b", skip_special_tokens=False) == ([2, 4, 5, 3], ["[CLS]", "a", "b", "[SEP]"])
    assert model.spell("a b", skip_special_tokens=True) == ([4, 5], ["a", "b"])
    assert model.detokenize([4, 5], skip_special_tokens=True) == "a b"
    assert model.detokenize(["a", "d"], skip_special_tokens=True) == "a d"
    for token in (99, -1, 2**40):
        with pytest.raises(InvalidRequest, match=f"no token {token}"):
            model.detokenize([token], skip_special_tokens=True)


def test_a_pair_can_not_be_embedded(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="classified, not embedded"):
        load(tiny(tmp_path)).tokenize(("a", "b"))


def test_a_model_of_another_task_is_refused(tmp_path: Path, smollm2_path: Path) -> None:
    with pytest.raises(ModelError, match="is a model to embed with, not to classify"):
        load(tiny(tmp_path), Task.CLASSIFY)
    with pytest.raises(ModelError, match="is a model to generate with, not to embed"):
        load(smollm2_path)


def test_texts_longer_than_the_positions_can_not_be_asked_for(tmp_path: Path) -> None:
    assert load(tiny(tmp_path), max_tokens=64).max_tokens == 64
    with pytest.raises(ModelError, match="65 tokens were asked for, and this model has 64 positions"):
        load(tmp_path, max_tokens=65)


def renamed(kind: str, name: str) -> onnx.ModelProto:
    graph = tiny_graph("logits" if kind == "output" else "last_hidden_state")
    if kind == "input":
        graph.graph.input[0].name = name
        graph.graph.node[0].input[1] = name
    return graph


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (renamed("input", "pixel_values"), "wants pixel_values"),
        (renamed("output", "logits"), "outputs are logits"),
        (
            tiny_graph(weight=numpy_helper.from_array(np.zeros((2, 4), np.float32), "table")),
            "a trial run failed",
        ),
    ],
)
def test_a_network_of_another_kind_is_refused(tmp_path: Path, graph: onnx.ModelProto, words: str) -> None:
    write_folder(tmp_path, graph)
    write_tokenizer(tmp_path)
    with pytest.raises(ModelError, match=words):
        load(tmp_path)


def test_a_damaged_network_or_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece"}}))
    with pytest.raises(ModelError, match=r"tokenizer\.json can't be read"):
        load(tmp_path)
    write_tokenizer(tmp_path)
    graph = tiny_graph()
    graph.graph.node[0].op_type = "NoSuchOperator"
    graph.graph.node[0].domain = "evil.custom"
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match="onnxruntime can't load"):
        load(tmp_path)


def test_as_many_labels_as_classes_are_needed(tmp_path: Path) -> None:
    classifier(tmp_path, 3)
    config = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", config | {"id2label": {"0": "only"}})
    with pytest.raises(ModelError, match=r"has 3 classes, and config\.json names 1"):
        load(tmp_path, Task.CLASSIFY)
