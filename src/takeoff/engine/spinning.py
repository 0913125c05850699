"""How long OpenMP threads that have nothing to do spin before they sleep.

Shorter slows a single stream, whose threads wait for each other after every operation; longer
starves the service, and other engines, on a machine of few cores.
"""

from __future__ import annotations

import os

SPIN_COUNT = "100000"


def bound_spinning() -> None:
    """Set it, unless the user did; before the kernels' library is loaded."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
