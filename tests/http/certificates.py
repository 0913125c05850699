"""Certificates that are made on the spot, by the program that everyone makes them with."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple


class Files(NamedTuple):
    certificate: Path
    key: Path


def make_certificate(folder: Path, name: str = "localhost") -> Files:
    """One that signs itself, for the loopback."""
    files = Files(folder / f"{name}.pem", folder / f"{name}.key")
    openssl(
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout",
        str(files.key),
        "-out",
        str(files.certificate),
    )
    return files


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
