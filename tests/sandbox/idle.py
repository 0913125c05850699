"""A child that does nothing, for the probe to run beside."""

from __future__ import annotations

import signal


def main() -> None:
    signal.pause()
