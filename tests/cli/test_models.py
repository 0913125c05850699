import json

import pytest
from tests.models.tiny_gguf import write_tiny_gguf

from takeoff.cli import models as models_command
from takeoff.cli.console import PullProgress
from takeoff.models.catalogue import CATALOGUE
from takeoff.models.store import Store


@pytest.fixture
def home(tmp_path):
    """A store with one model."""
    write_tiny_gguf(tmp_path / "tiny.gguf")
    store = Store(tmp_path / "home")
    store.pull((tmp_path / "tiny.gguf").as_uri())
    return store.root


def test_the_store_is_listed_as_tab_separated_lines(home, capsys):
    models_command.models(home=home)
    header, line = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert header == [
        "name",
        "size",
        "architecture",
        "quantisation",
        "context",
        "parameters",
        "task",
        "profile",
    ]
    assert line[0].startswith("tiny-")
    assert line[1:] == ["0 MB", "llama", "F32", "2,048", "66K", "generate", "-"]


def test_json_holds_exact_numbers_and_the_path(home, capsys):
    models_command.models(json_output=True, home=home)
    (facts,) = json.loads(capsys.readouterr().out)
    (model,) = Store(home).list()
    assert facts["path"] == str(model.path)
    assert facts["file_bytes"] == model.path.stat().st_size
    assert facts["context_length"] == 2048
    assert facts["sha256"] == model.sha256


def test_an_empty_store_says_how_to_fill_it(tmp_path, capsys):
    models_command.models(home=tmp_path)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"no models in {tmp_path}; `takeoff pull` fetches the default one\n"
    models_command.models(json_output=True, home=tmp_path)
    assert json.loads(capsys.readouterr().out) == []


def test_the_catalogue_tells_what_to_expect_of_this_machine(home, capsys):
    models_command.models(available=True, home=home)
    captured = capsys.readouterr()
    lines = [line.split("\t") for line in captured.out.splitlines()]
    assert lines[0][:7] == ["name", "parameters", "quantisation", "size", "memory", "fits", "tokens/s"]
    assert [line[0] for line in lines[1:]] == [model.name for model in CATALOGUE]
    rates = {line[0]: line[6] for line in lines[1:]}
    assert rates.pop("minilm") == "-"
    assert all(rate.startswith("≤ ") for rate in rates.values())
    assert "GB/s, measured just now" in captured.err


def test_the_catalogue_as_json_is_only_json_on_stdout(home, capsys):
    models_command.models(available=True, json_output=True, home=home)
    facts = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    small, large = facts["smollm2"], facts["qwen3-8b"]
    assert small["file_bytes"] == 98_362_432
    assert small["max_tokens_per_s"] > large["max_tokens_per_s"] > 0
    assert large["memory_bytes"] > large["file_bytes"]
    assert large["source"] == "hf:Qwen/Qwen3-8B-GGUF:Qwen3-8B-Q4_K_M.gguf"
    assert small["in_store"] is False
    assert (small["task"], facts["minilm"]["task"]) == ("generate", "embed")
    assert facts["minilm"]["max_tokens_per_s"] is None


def test_progress_is_one_line_a_stage_where_nobody_watches(capsys):
    with PullProgress() as progress:
        progress.stage("downloading [x]", 93_000_000)
        progress.at(10)
        progress.stage("waiting", None)
    assert capsys.readouterr().err == "downloading [x] (93 MB)\nwaiting\n"
