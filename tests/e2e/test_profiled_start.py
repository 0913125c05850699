"""A model is made fast at the first start, and is so from then on; unless that is not wanted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
import requests
from tests.cli.test_serve import LIMIT_S, SMALL, serving
from tests.e2e.processes import completion
from tests.e2e.slow_model import make_slow_store

from takeoff.engine.llama.backends import load_backends
from takeoff.models.cpu_features import read_cpu_features
from takeoff.models.own_kernels import own_types

PROMPT = "Three things to see in Paris are"
NUM_TOKENS = 16
MAX_TRIES = 8  # on a machine that others keep busy
PROGRAM = [sys.executable, "-c", "from takeoff.cli.main import main; main()"]


@pytest.fixture(scope="module")
def home(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    make_slow_store(smollm2_path, home)
    return home


def llama_cpps_own(path: Path) -> str:
    """What llama-cpp-python's own loop makes of the prompt, with our kernels."""
    load_backends()
    llm = llama_cpp.Llama(str(path), n_ctx=256, n_threads=2, flash_attn=True, verbose=False)
    prompt = llm.tokenize(PROMPT.encode(), add_bos=True)
    loop = zip(range(NUM_TOKENS), llm.generate(prompt, temp=0.0, repeat_penalty=1.0), strict=False)
    text = llm.detokenize([token_id for _, token_id in loop]).decode()
    llm.close()
    return text


def served(home: Path, *flags: str) -> tuple[str, str, dict[str, Any]]:
    """(the text of the prompt, what was said at the start, the model as clients see it) of a start."""
    with serving("--home", str(home), *SMALL, *flags) as server:
        url = server.wait_ready()
        model = requests.get(f"{url}/v1/models/smollm2", timeout=LIMIT_S).json()
        return completion(url, PROMPT, NUM_TOKENS), server.said, model


def test_the_first_start_makes_the_faster_format_and_the_next_ones_use_it(home: Path) -> None:
    shipped = next((home / "models" / "smollm2").glob("*.gguf"))
    variant = shipped.parent / "variants" / f"{shipped.stem}.Q8_0.gguf"

    text, said, model = served(home)
    assert "making Q8_0 of smollm2 (112 MB)" in said
    for _ in range(MAX_TRIES):
        if "stays in Q5_1: the machine is too busy for a trial; the next start tries again" in said:
            assert model["quantization"] == "Q5_1"
            text, said, model = served(home)
    (line,) = (line for line in said.splitlines() if "as its profile says" in line)
    assert line.startswith("smollm2 runs as its profile says: Q8_0 made of its Q5_1: ")
    assert " × the tokens/s with 8 streams, " in line
    assert ", for 33 MB more memory (KL 0.00" in line
    assert line.endswith("; --no-optimize does without")
    assert "smollm2: llama Q8_0, 145 MB" in said
    assert model["quantization"] == "Q8_0"
    assert text == llama_cpps_own(variant)
    made = variant.stat().st_mtime_ns

    again, said, model = served(home)
    assert "making" not in said
    assert line in said
    assert model["quantization"] == "Q8_0"
    assert again == text
    assert variant.stat().st_mtime_ns == made

    plain, said, model = served(home, "--no-optimize")
    assert "profile" not in said
    assert "smollm2: llama Q5_1, 112 MB" in said
    assert model["quantization"] == "Q5_1"
    assert plain == llama_cpps_own(shipped)


def test_the_list_of_models_shows_what_was_made(home: Path) -> None:
    list_models = [*PROGRAM, "models", "--home", str(home)]
    done = subprocess.run([*list_models, "--json"], capture_output=True, text=True, check=True)
    (model,) = json.loads(done.stdout)
    (variant,) = model["variants"]
    assert model["quantisation"] == "Q5_1", "the file itself"
    assert (variant["quantisation"], variant["file_bytes"]) == ("Q8_0", 144_811_072)
    assert model["profile"]["weights"] == variant["file"]
    assert model["profile"]["goal"] == "automatic"
    figures = model["profile"]["figures"]
    assert 0 < figures["kl"] < 0.01
    assert [speed["streams"] for speed in figures["speeds"]] == [1, 8]
    assert figures["speeds"][1]["after"] > 1.1 * figures["speeds"][1]["before"]

    done = subprocess.run(
        [*PROGRAM, "models", "--home", str(home)], capture_output=True, text=True, check=True
    )
    heads, first, second = (line.split("\t") for line in done.stdout.splitlines())
    assert dict(zip(heads, first, strict=True))["profile"] == "automatic: Q8_0"
    assert second[:4] == ["smollm2: Q8_0", "145 MB", "llama", "Q8_0"]


def test_the_default_model_stays_as_it_is_where_our_kernels_are_for_it(
    smollm2_path: Path, tmp_path: Path
) -> None:
    made = shutil.ignore_patterns("variants", "profile.json")
    shutil.copytree(smollm2_path.parent, tmp_path / "models" / "smollm2", ignore=made)
    _, said, model = served(tmp_path)
    is_ours = "Q4_1" in own_types(read_cpu_features())
    assert ("making Q8_0" in said) != is_ours
    assert "smollm2: llama Q4_1, 98 MB" in said or not is_ours
    assert model["quantization"] == "Q4_1" or not is_ours
