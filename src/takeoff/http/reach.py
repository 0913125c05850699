"""Whether the doors would be open to a network without a key."""

from __future__ import annotations

import contextlib
import ipaddress

from takeoff.errors import SettingsError
from takeoff.settings import Settings


def check_reach(settings: Settings) -> None:
    """Refuse to be open to a network without a key.

    Raises:
        SettingsError: the address is not a loopback one, there is no key, and nobody insisted.
    """
    if not settings.asks_for_keys and not settings.insecure and not is_loopback(settings.host):
        raise SettingsError(
            f"{settings.host} can be reached from other machines, and no key is set",
            param="host",
            hint="`takeoff keys create NAME`, or set TAKEOFF_API_KEY, or --insecure to serve everyone who "
            "can connect",
        )


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` is for this machine alone; of an unknown name we say no."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
