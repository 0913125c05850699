"""What the machine is said to have, within the limits of a control group."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from takeoff.models import machine
from takeoff.models.machine import expected_decode_rate, measure_bandwidth, read_machine

GROUP = Path("/sys/fs/cgroup")


def in_group(monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """As if the control group's files, with _ for a dot, read so."""
    texts = {GROUP / name.replace("_", ".", 1): text for name, text in files.items()}
    monkeypatch.setattr(machine, "_read_words", lambda path: texts.get(path, "").split())


def test_without_limits_it_is_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    in_group(monkeypatch, memory_max="max", memory_current="5", cpu_max="max 100000")
    found = read_machine()
    assert found.memory_total_bytes == psutil.virtual_memory().total
    assert 0 < found.memory_available_bytes <= found.memory_total_bytes
    assert 1 <= found.cores <= (psutil.cpu_count() or 1)


def test_a_memory_limit_counts_less_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    in_group(monkeypatch, memory_max="300000000", memory_current="100000000")
    found = read_machine()
    assert (found.memory_total_bytes, found.memory_available_bytes) == (300_000_000, 200_000_000)


def test_a_quota_of_processor_time_counts_as_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    in_group(monkeypatch, cpu_max="100000 100000")
    assert read_machine().cores == 1
    in_group(monkeypatch, cpu_max="50000 100000")
    assert read_machine().cores == 1, "half a core is still one thread"


def test_the_measured_bandwidth_gives_a_rate_that_falls_with_the_size_of_the_weights() -> None:
    bandwidth = measure_bandwidth()
    assert 1e8 < bandwidth < 1e12
    assert expected_decode_rate(200, bandwidth) == pytest.approx(expected_decode_rate(100, bandwidth) / 2)
