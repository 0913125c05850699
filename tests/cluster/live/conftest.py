"""Ray clusters of this machine. Without Ray nothing here is collected; `make test-cluster` has it."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("ray") else ["test_*.py"]
