"""Keys and tokens do not travel through Ray, which keeps what it is told.

Each process has them from the environment of its own machine.
"""

from __future__ import annotations

from collections.abc import Mapping

from takeoff.settings import Settings
from takeoff.settings.fields import SECRETS
from takeoff.settings.names import variable


def with_secrets(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """The settings with what this machine's variables say of keys and tokens, for all its readers."""
    found = {name: environ[variable(name)] for name in SECRETS if environ.get(variable(name))}
    readers = {
        reader_id: reader.model_copy(update={"access_token": found.get("access_token")})
        for reader_id, reader in settings.readers.items()
    }
    return settings.model_copy(update={**found, **({"readers": readers} if readers else {})})
