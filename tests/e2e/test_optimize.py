"""`takeoff optimize` on a model in a slow format: what it finds is measured, near, kept, and served then."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.test_serve import SMALL, serving
from tests.e2e.processes import completion
from tests.e2e.slow_model import make_slow_store

from takeoff.models.optimize.goal import parse_goal
from takeoff.models.optimize.trials import FILE

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "optimize.md"
PROGRAM = [sys.executable, "-c", "from takeoff.cli.main import main; main()"]
LIMIT_S = 240  # far beyond --time-limit, which a busy machine may overrun by one trial


@pytest.fixture(scope="module")
def home(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    make_slow_store(smollm2_path, home)
    return home


def guide_commands() -> list[list[str]]:
    """What the guide says to type, without the program's name."""
    blocks = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def optimise(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The guide's first command, with more behind it."""
    return run(home, *guide_commands()[0], *arguments)


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *arguments, "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_a_faster_format_is_found_kept_and_served(home: Path) -> None:
    done = optimise(home, "--goal", "latency", "--time-limit", "20", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    weights = Path(found["weights"])
    assert weights.parent == home / "models" / "smollm2" / "variants"
    assert found["gain"] > 1.1  # Q5_1 has no fast kernels
    assert 0 < found["kl"] <= 0.01
    assert found["perplexity_ratio"] == pytest.approx(1, abs=0.02)
    assert found["after"]["tokens_s"]["1"] > 0
    tried = {row["setting"]: row for row in found["tried"]}
    assert tried["Q8_0"]["verdict"] == "kept"
    assert tried["Q8_0"]["kl"] <= 0.01
    assert tried["confirmed"]["gain"] == found["gain"]
    assert found["prediction"].startswith("latency: predicted for 1 user, answer_s ")
    assert "GB/s" in found["limits"]
    assert "GFLOP/s" in found["limits"]
    assert "KL" in done.stderr  # the table
    assert [path.name for path in weights.parent.glob("*.gguf")] == [weights.name]  # the losers are gone
    assert not (weights.parent.parent / FILE).exists()

    with serving("--home", str(home), *SMALL) as server:
        text = completion(server.wait_ready(), "The capital of France is", 8)
        assert f"smollm2 runs as its profile says: {found['sentence']}" in server.said
    assert "Paris" in text

    assert run(home, *guide_commands()[1]).returncode == 0
    assert not weights.exists()
    assert not (weights.parent.parent / "profile.json").exists()


def test_what_the_guide_says_of_goals_is_understood(home: Path) -> None:
    goals = re.findall(r"^\| `\"?([^-`\"][^`\"]*)\"?` \|", GUIDE.read_text(), re.MULTILINE)
    assert goals == ["throughput", "latency", "memory", "ttft_p95<1s, users=max"]
    for goal in goals:
        assert parse_goal(goal).text == goal
    first, forget, *others = guide_commands()
    assert (first, forget) == (["optimize", "smollm2"], ["optimize", "smollm2", "--forget"])
    assert len(others) == 2
    for command in others:  # whole, but for the search
        assert run(home, *command, "--forget").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--goal", "speed"], "error: --goal: 'speed' is not understood"),
        (["--goal", "ttft_p95<1s"], "error: --goal: 'ttft_p95<1s' has 0 figures to make as large"),
        (["--time-limit", "1"], "20"),
    ],
)
def test_a_goal_that_is_not_understood_is_told_before_anything_is_measured(
    home: Path, arguments: list[str], told: str
) -> None:
    done = optimise(home, *arguments)
    assert done.returncode != 0
    assert told in done.stderr
    assert done.stdout == ""
