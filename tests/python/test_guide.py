"""The guide's code runs as it stands, block after block."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as Pillow
from tests.cli.test_serve import LIMIT_S
from tests.engine.encoder.test_models import classifier
from tests.models.lora_files import write_lora
from tests.models.vision_files import write_projector

SMALL = {"TAKEOFF_THREADS": "1", "TAKEOFF_MAX_SLOTS": "2", "TAKEOFF_CONTEXT": "512"}
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "python.md"


@pytest.fixture
def folder(tmp_path: Path, smollm2_path: Path) -> Path:
    """Where the guide's reader has files of their own."""
    models = tmp_path / "models"
    models.mkdir()
    write_lora(models / "legal.gguf", smollm2_path, seed=1, rank=1, strength=0.5)
    (models / "vision.gguf").symlink_to(smollm2_path)
    write_projector(models / "mmproj.gguf", n_embd=576)
    Pillow.new("RGB", (64, 48), (250, 10, 10)).save(tmp_path / "photo.jpg")
    for name, classes in (("sentiment", 2), ("reranker", 1)):
        classifier(models / name, classes, max_position_embeddings=512)  # as TAKEOFF_CONTEXT has it
    return tmp_path


def test_the_code_of_the_guide_runs(folder: Path, minilm_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == 10
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, "print('done')"])],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=folder,
        env={"PYTHONPATH": ":".join(sys.path), "HOME": str(Path.home()), **SMALL},
    )
    assert ran.stderr == ""
    assert ran.returncode == 0
    assert ran.stdout.splitlines()[-1] == "done"
    assert "but a sequence holds 256" in ran.stdout
    assert "{'class 0': 0." in ran.stdout
    assert re.search(r"^b'.*' -\d+\.\d+ \[b'.*', b'.*'\]$", ran.stdout, re.MULTILINE)
