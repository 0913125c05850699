"""What Ray Serve calls the parts of a cluster of ours."""

from __future__ import annotations

import hashlib
import re

DOORS = "takeoff-doors"
READERS = "takeoff-reader-"


def reader_app(reader_id: str, settings_json: str) -> str:
    """The application of a reader's replicas; with other settings it is another one."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", reader_id)[:64]
    digest = hashlib.sha256(f"{reader_id}\0{settings_json}".encode()).hexdigest()
    return f"{READERS}{name}-{digest[:8]}"


def settings_digest(settings_json: str) -> str:
    """The same for the same settings."""
    return hashlib.sha256(settings_json.encode()).hexdigest()[:16]
