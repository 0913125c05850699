"""What is known of a GPU before an engine opens it: a driver's answer, a build's files, a model's sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from takeoff.models import gpu
from takeoff.models.gpu import CONTEXT_BYTES, Gpu, find_gpu, most_that_fits, placed, why_unusable
from takeoff.models.machine import read_machine

GB = 10**9


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `nvidia-smi` that knows two GPUs, and notes what it was asked."""
    script = tmp_path / "nvidia-smi"
    script.write_text(
        f"""#!/bin/sh
echo "$*" >>{tmp_path}/asked
case "$*" in
  *"-i 1"*) echo "NVIDIA H200, 143000" ;;
  *"-i 7"*) echo "No devices were found"; exit 6 ;;
  *) echo "NVIDIA H100 80GB HBM3, 81000"; echo "NVIDIA H200, 143000" ;;
esac
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_the_first_gpu_is_found_and_of_hidden_ones_the_first_that_is_visible(driver: Path) -> None:
    assert find_gpu({}) == Gpu("NVIDIA H100 80GB HBM3", 81_000 << 20)
    assert find_gpu({"CUDA_VISIBLE_DEVICES": "1,0"}) == Gpu("NVIDIA H200", 143_000 << 20)
    assert find_gpu({"CUDA_VISIBLE_DEVICES": "7"}) is None


def test_a_gpu_that_is_hidden_from_us_is_not_asked_for(driver: Path) -> None:
    assert find_gpu({"CUDA_VISIBLE_DEVICES": ""}) is None
    assert not (driver / "asked").exists()


def test_a_build_without_cuda_uses_no_gpu(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    build = tmp_path / "llama_cpp"
    (build / "lib").mkdir(parents=True)
    assert why_unusable(build) == "this llama.cpp was built without CUDA"
    monkeypatch.setattr(gpu, "find_build", lambda: build)
    without = read_machine()
    assert (without.gpu_free_bytes, without.gpu_missing) == (None, "this llama.cpp was built without CUDA")
    (build / "lib" / "libggml-cuda.so").touch()
    assert why_unusable(build) is None
    assert read_machine().gpu_free_bytes == 81_000 << 20


def test_layers_are_placed_with_their_part_of_the_cache() -> None:
    half = placed(6, 11, 11 * GB, 10 * GB, GB, 80 * GB)
    assert (half.weights_bytes, half.kv_bytes) == (6 * GB, 5 * GB)  # the first is what makes logits
    assert half.total_bytes == 12 * GB + CONTEXT_BYTES
    assert placed(1, 11, 11 * GB, 10 * GB, GB, 80 * GB).kv_bytes == 0
    assert placed(11, 11, 11 * GB, 10 * GB, GB, 80 * GB).kv_bytes == 10 * GB


def test_as_many_layers_go_there_as_fit_with_the_cache() -> None:
    def most(free: int) -> int:
        place = most_that_fits(11, 11 * GB, 10 * GB, GB, free)
        return 0 if place is None else place.num_layers

    assert most(80 * GB) == 11
    assert most(16 * GB) == 7  # 7 + 6 + 1 GB and the driver's
    assert most(3 * GB) == 1
    assert most(2 * GB) == 0
