"""Runs functions of setup.sh on a PATH of our own making."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = [
    "bash",
    "awk",
    "cat",
    "dirname",
    "mktemp",
    "rm",
    "mkdir",
    "tail",
    "grep",
    "cut",
    "sha256sum",
    "sleep",
    "touch",
]


@dataclass
class Machine:
    """A machine with a few tools, programs that we wrote, and nothing else on PATH."""

    folder: Path

    def __post_init__(self) -> None:
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        self.borrow(*TOOLS)
        self.program("id", "echo 1000")

    def borrow(self, *tools: str) -> None:
        """Put these tools of the real machine on PATH too."""
        for tool in tools:
            found = shutil.which(tool)
            assert found is not None, f"the tests of setup.sh need {tool}"
            (self.bin / tool).symlink_to(found)

    def become_root(self) -> None:
        self.program("id", "echo 0")

    def program(self, name: str, script: str) -> Path:
        """A program of this name on PATH; it appends its arguments to the log of calls first."""
        path = self.bin / name
        path.write_text(f'#!{self.bin}/bash\necho "{name} $*" >>"{self.folder}/calls"\n{script}\n')
        path.chmod(0o755)
        return path

    @property
    def calls(self) -> list[str]:
        log = self.folder / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """What `script` prints after the functions of setup.sh are read, with .venv in our folder."""
        preamble = f'source "{ROOT}/setup.sh"; venv="{self.folder}/venv"\n'
        return subprocess.run(
            [str(self.bin / "bash"), "-c", preamble + script],
            env={"PATH": str(self.bin), "HOME": str(self.folder), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
