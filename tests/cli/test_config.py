import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from takeoff.cli.config import config_app
from takeoff.cli.reference import reference_page
from takeoff.settings.fields import settable
from takeoff.settings.names import READER_NAMES, SERVER_NAMES

GOOD = """
takeoff:
  server_config: {port: 4000, openai_port: off, vertex_port: 3002}
  readers_config:
    chat: {model_name: smollm2, device: cpu, consumer_group: , quant_type: auto}
    embed: {model_name: minilm, device: , consumer_group: vectors}
"""
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TAKEOFF_")}
    return subprocess.run(
        [sys.executable, "-c", "from takeoff.cli.main import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean | {"COLUMNS": "200", "NO_COLOR": "1"} | variables,
    )


def test_check_prints_what_a_manifest_amounts_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text(GOOD)
    monkeypatch.setenv("TAKEOFF_PORT", "9000")  # plays no part
    done = CliRunner().invoke(config_app, ["check", str(tmp_path / "config.yaml")])
    assert done.exit_code == 0
    assert done.stdout == (
        "reader\tmodel\tgroup\tdevice\n"
        "chat\tsmollm2\tprimary\tcpu\n"
        "embed\tminilm\tvectors\tauto\n"
        "door\tport\n"
        "front\t8000\n"
        "takeoff\t4000\n"
        "management\t3001\n"
        "openai\toff\n"
        "without effect here\n"
        "vertex_port\n"
        "quant_type\n"
    )


def test_check_prints_every_error_on_stderr_and_exits_with_1(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD.replace("4000", '"4000"').replace("device: cpu", "device: tpu"))
    done = run("config", "check", str(path), TAKEOFF_LOG_LEVEL="INFO")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: takeoff.server_config.port: Input should be a valid integer, got '4000' "
        "(config.yaml, line 3, column 25)\n"
        "takeoff.readers_config.chat.device: Input should be 'auto', 'cpu' or 'cuda', got 'tpu' "
        "(config.yaml, line 5, column 41)\n"
    )


def test_serve_refuses_a_wrong_manifest_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("takeoff: {server_config: {port: true}, readers_config: }")
    done = run("serve", "--manifest", str(tmp_path / "config.yaml"))
    assert done.returncode == 1
    assert done.stderr == (
        "error: takeoff.server_config.port: Input should be a valid integer, got True "
        "(config.yaml, line 1, column 33)\n"
    )


def test_the_reference_is_up_to_date() -> None:
    assert PAGE.read_text() == reference_page(), "takeoff config reference > docs/reference/settings.md"


def test_the_reference_has_every_setting_and_every_name() -> None:
    page = reference_page()
    for name in (*settable(), *READER_NAMES, *SERVER_NAMES):
        assert f"`{name}`" in page
    assert "| `max_slots` | number from 1 to 256 |  | `max_batch_size` |" in page
    assert "| `device` | auto or cpu or cuda | `auto` |" in page
    assert "| `takeoff_port` | number from 0 to 65,535 | `3000` | `port` |" in page


def test_the_reference_is_printed() -> None:
    assert CliRunner().invoke(config_app, ["reference"]).stdout == reference_page()
