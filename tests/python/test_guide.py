"""The guide's code runs as it stands, block after block."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.cli.test_serve import LIMIT_S

SMALL = {"TAKEOFF_THREADS": "1", "TAKEOFF_MAX_SLOTS": "2", "TAKEOFF_CONTEXT": "512"}
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "python.md"


def test_the_code_of_the_guide_runs(smollm2_path: Path, minilm_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == 7
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, "print('done')"])],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={"PYTHONPATH": ":".join(sys.path), "HOME": str(Path.home()), **SMALL},
    )
    assert ran.stderr == ""
    assert ran.returncode == 0
    assert ran.stdout.splitlines()[-1] == "done"
    assert "but a sequence holds 256" in ran.stdout
