"""`takeoff demo unbreakable` as a process, with real weights: engines die, and texts don't change."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.cli.test_serve import are_gone

PROGRAM = [sys.executable, "-c", "from takeoff.cli.main import main; main()", "demo", "unbreakable"]
LIMIT_S = 240.0  # against hanging only


def performed(model: Path, *flags: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the figures, and what was said meanwhile."""
    done = subprocess.run(
        [*PROGRAM, "--model", str(model), "--streams", "4", "--json", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def test_engines_are_killed_and_every_text_is_the_undisturbed_one(smollm2_path: Path) -> None:
    flags = ("--tokens", "80", "--every", "0.1", "--kills", "2")
    code, told, said = performed(smollm2_path, *flags)
    assert (code, told["kept"], told["kills"], told["disturbed"]) == (0, True, 2, 4)
    broken = ("client_errors", "lost_characters", "doubled_characters", "wrong_token_counts")
    assert {name: told[name] for name in broken} == dict.fromkeys(broken, 0)
    assert told["equal_texts"] == 4
    for text in told["texts"]:
        assert len(text["undisturbed"]) > 80
        assert text["disturbed"] == text["undisturbed"]
    assert len({text["disturbed"] for text in told["texts"]}) == 4
    assert 0.1 < told["longest_pause_s"] < min(20, told["disturbed_s"])
    assert told["undisturbed_s"] > 0.1
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("kill ")] == [
        "kill 1",
        "kill 2",
    ]


def test_without_replay_it_finds_the_promise_broken(smollm2_path: Path) -> None:
    code, told, _ = performed(smollm2_path, "--tokens", "48", "--every", "0.1", "--no-replay")
    assert (code, told["kept"], told["client_errors"]) == (1, False, 4)
    assert "killed" in told["first_errors"][0]
    assert told["equal_texts"] == 0


def test_ctrl_c_tells_what_was_until_then_and_leaves_no_process(smollm2_path: Path) -> None:
    flags = ["--model", str(smollm2_path), "--streams", "2", "--tokens", "200", "--every", "0.2", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*PROGRAM, *flags], stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        said = ""
        while not said.startswith("the text goes on"):
            said = process.stderr.readline()
            assert said, "it ended before anything was killed"
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        told = json.loads(process.stdout.read())
        assert process.wait(LIMIT_S) == 130
    assert children
    assert are_gone(children)
    assert (told["interrupted"], told["kept"], told["equal_texts"]) == (True, True, 2)
    assert told["kills"] >= 1
    for text in told["texts"]:
        assert text["disturbed"]
        assert text["undisturbed"].startswith(text["disturbed"])


@pytest.mark.parametrize(
    ("flag", "value", "code", "bound"),
    [
        ("--streams", "65", 2, "64"),
        ("--every", "0", 2, "0.1"),
        ("--model", "/nowhere/m.gguf", 1, "/nowhere/m.gguf"),
    ],
)
def test_wrong_words_are_refused(flag: str, value: str, code: int, bound: str) -> None:
    done = subprocess.run([*PROGRAM, flag, value], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert bound in done.stderr
    assert code == 1 or flag in done.stderr
