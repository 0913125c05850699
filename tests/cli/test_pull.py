import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.models.tiny_gguf import write_tiny_gguf


@pytest.fixture
def takeoff(tmp_path):
    """Runs the command in a process of its own, with a store of its own."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TAKEOFF_")}
        return subprocess.run(
            [sys.executable, "-c", "from takeoff.cli.main import main; main()", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**clean, "TAKEOFF_HOME": str(tmp_path / "home"), **variables},
        )

    return run


@pytest.fixture
def url(tmp_path):
    write_tiny_gguf(tmp_path / "tiny.gguf")
    return (tmp_path / "tiny.gguf").as_uri()


def test_the_path_is_on_stdout_and_the_talk_on_stderr(takeoff, url, tmp_path):
    done = takeoff("pull", url)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.removesuffix("\n"))
    assert path.read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    assert path.is_relative_to(tmp_path / "home")
    assert "checking SHA-256" in done.stderr
    assert "llama F32" in done.stderr


def test_an_error_is_a_line_and_a_hint(takeoff):
    done = takeoff("pull", "smolm2")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "error: no model is called 'smolm2'\nhint: did you mean smollm2?\n"


def test_debug_shows_where_an_error_came_from(takeoff):
    done = takeoff("pull", "smolm2", TAKEOFF_LOG_LEVEL="debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("hint: did you mean smollm2?\n")


def test_wrong_usage_exits_with_2(takeoff):
    done = takeoff("pull", "--nonsense")
    assert done.returncode == 2
    assert "No such option: --nonsense" in done.stderr


def test_a_mistyped_variable_is_an_error_that_suggests_the_right_one(takeoff):
    done = takeoff("pull", "smollm2", TAKEOFF_HOMME="x")
    assert done.returncode == 1
    assert done.stderr == "error: TAKEOFF_HOMME is not a setting\nhint: did you mean TAKEOFF_HOME?\n"


def test_a_wrong_hash_is_an_error(takeoff, url):
    done = takeoff("pull", url, "--sha256", "0" * 64)
    assert done.returncode == 1
    assert f"expected {'0' * 64}" in done.stderr


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from takeoff.cli import main\n"
        "try:\n    main.app(['--help'], prog_name='takeoff')\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'llama_cpp', 'huggingface_hub', 'numpy', 'fastapi', 'uvicorn', 'llguidance'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pull" in done.stdout
    assert "models" in done.stdout
    assert done.stdout.endswith("heavy: []\n"), done.stderr
