"""A key for a server that others can reach and nobody gave one: made anew at each start, and shown."""

from __future__ import annotations

import secrets

from takeoff.settings import Settings

KEY_BYTES = 24  # of randomness; 32 characters


def with_key(settings: Settings) -> Settings:
    """`settings` with a new key, printed, if one is to be made: asked for, none given, none refused."""
    if not settings.make_key or settings.asks_for_keys or settings.insecure:
        return settings
    from takeoff.cli.console import talk

    key = secrets.token_urlsafe(KEY_BYTES)
    talk().print(f"API key: {key}", markup=False, highlight=False, soft_wrap=True)
    talk().print("  made for this run; TAKEOFF_API_KEY sets one, TAKEOFF_INSECURE=true does without")
    return settings.model_copy(update={"api_key": key})
