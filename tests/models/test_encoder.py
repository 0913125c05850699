"""A folder of the HF layout, read: task, pooling, limits, labels; and what is refused, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.models.hf_folder import tiny_graph, write_folder, write_json, write_modules

from takeoff.errors import ModelError
from takeoff.models import encoder
from takeoff.models.encoder import Pooling, Scores, read_encoder
from takeoff.request import Task


def test_a_folder_without_modules_pools_by_the_mean_and_scales_to_one(tmp_path: Path) -> None:
    model = read_encoder(write_folder(tmp_path))
    assert (model.task, model.pooling, model.scales_to_unit) == (Task.EMBED, Pooling.MEAN, True)
    assert (model.max_tokens, model.max_positions, model.architecture) == (64, 64, "bert")


def test_the_network_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "model.onnx").rename(tmp_path / "onnx" / "model.onnx")
    assert read_encoder(tmp_path).onnx.path == tmp_path / "onnx" / "model.onnx"


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True}, Pooling.MEAN),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, Pooling.CLS),
        ({"pooling_mode_max_tokens": True}, Pooling.MAX),
        ({"pooling_mode_lasttoken": True}, Pooling.LAST),
        ({"pooling_mode": "lasttoken", "embedding_dimension": 4}, Pooling.LAST),
    ],
)
def test_pooling_is_the_models_own(tmp_path: Path, pooling: dict[str, Any], expected: Pooling) -> None:
    write_modules(write_folder(tmp_path), "Transformer", "Pooling", pooling=pooling)
    model = read_encoder(tmp_path)
    assert (model.pooling, model.scales_to_unit) == (expected, False)


def test_a_normalize_module_scales_to_one(tmp_path: Path) -> None:
    write_modules(write_folder(tmp_path), "Transformer", "Pooling", "Normalize")
    assert read_encoder(tmp_path).scales_to_unit is True


def test_the_settings_bound_a_text_and_the_positions_bound_the_settings(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 48})
    assert read_encoder(tmp_path).max_tokens == 48
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": True})
    model = read_encoder(tmp_path)
    assert (model.max_tokens, model.max_positions, model.lower_case) == (32, 64, True)
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 100})
    assert read_encoder(tmp_path).max_tokens == 64
    write_json(tmp_path / "sentence_bert_config.json", {})
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 1e30})
    assert read_encoder(tmp_path).max_tokens == 64


def test_positions_of_roberta_begin_behind_the_padding(tmp_path: Path) -> None:
    write_folder(tmp_path, model_type="roberta", max_position_embeddings=514, pad_token_id=1)
    assert read_encoder(tmp_path).max_tokens == 512


def test_a_default_prompt_is_put_before_texts(tmp_path: Path) -> None:
    write_folder(tmp_path)
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    write_json(tmp_path / "config_sentence_transformers.json", prompts)
    assert read_encoder(tmp_path).prompt == "query: "
    write_modules(
        tmp_path, "Transformer", "Pooling", pooling={"pooling_mode": "mean", "include_prompt": False}
    )
    with pytest.raises(ModelError, match="pools without its prompt 'query: '"):
        read_encoder(tmp_path)


@pytest.mark.parametrize(
    ("config", "labels", "scores"),
    [
        ({"id2label": {"0": "no", "1": "yes"}}, ("no", "yes"), Scores.SOFTMAX),
        ({}, ("LABEL_0", "LABEL_1"), Scores.SOFTMAX),
        ({"id2label": {"0": "LABEL_0"}}, ("LABEL_0",), Scores.SIGMOID),
        (
            {"id2label": {"1": "b", "0": "a"}, "problem_type": "multi_label_classification"},
            ("a", "b"),
            Scores.SIGMOID,
        ),
        ({"id2label": {"0": "x"}, "problem_type": "regression"}, ("x",), Scores.LOGITS),
    ],
)
def test_a_classifier_names_its_classes_and_scores(
    tmp_path: Path, config: dict[str, Any], labels: tuple[str, ...], scores: Scores
) -> None:
    graph = tiny_graph("logits")
    write_folder(tmp_path, graph, architectures=["BertForSequenceClassification"], **config)
    model = read_encoder(tmp_path)
    assert (model.task, model.labels, model.scores) == (Task.CLASSIFY, labels, scores)


def test_without_architectures_the_outputs_tell_the_task(tmp_path: Path) -> None:
    write_folder(tmp_path, tiny_graph("logits"), architectures=None)
    assert read_encoder(tmp_path).task is Task.CLASSIFY


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.json", "{", "config.json of"),
        ("config.json", "[" * 100_000, "config.json of"),
        ("config.json", '{"max_position_embeddings": "64"}', "Expected `int | null`, got `str`"),
        ("config.json", '{"max_position_embeddings": -5}', "max_position_embeddings = -5"),
        ("config.json", '{"hidden_size": 1e99}', "config.json"),
        ("tokenizer.json", "{}", "tokenizer.json of .*missing required field `model`"),
        ("tokenizer.json", "\xff", "tokenizer.json"),
        (
            "modules.json",
            '[{"type": "x.Transformer"}, {"type": "x.Dense"}]',
            "has the modules Transformer, Dense",
        ),
        ("modules.json", "[]", "has the modules"),
        (
            "modules.json",
            '[{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "../other"}]',
            r"names the folder '\.\./other'",
        ),
        ("1_Pooling/config.json", "{}", "pools by nothing"),
        (
            "1_Pooling/config.json",
            '{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}',
            "pools by cls and mean",
        ),
        ("1_Pooling/config.json", '{"pooling_mode_weightedmean_tokens": true}', "pools by weightedmean"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    write_modules(write_folder(tmp_path), "Transformer", "Pooling")
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match=words):
        read_encoder(tmp_path)


@pytest.mark.parametrize("labels", [{"0": "a", "2": "b"}, {"x": "a"}, {"0": "a", "00": "b"}])
def test_classes_with_odd_numbers_are_refused(tmp_path: Path, labels: dict[str, str]) -> None:
    write_folder(tmp_path, architectures=["BertForSequenceClassification"], id2label=labels)
    with pytest.raises(ModelError, match=r"whose numbers are not 0, 1, 2"):
        read_encoder(tmp_path)


def test_a_file_over_its_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    monkeypatch.setattr(encoder, "MAX_TOKENIZER_BYTES", 10)
    with pytest.raises(ModelError, match=r"tokenizer\.json has more than 10 bytes"):
        read_encoder(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.onnx"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=f"has no {name}"):
        read_encoder(tmp_path)
