"""Starts a module of ours inside the sandbox: `python -m takeoff.sandbox.launch MODULE ARGUMENTS`.

The sandbox is closed before the module is imported: there is one thread yet, no library of others is
loaded, no byte of a model was read.
"""

from __future__ import annotations

import sys
from importlib import import_module

from takeoff.sandbox.confine import confine
from takeoff.sandbox.policy import taken_policy


def command(module: str) -> tuple[str, ...]:
    """The command that runs `main` of a module of ours; -P: never one from the current folder."""
    return (sys.executable, "-P", "-m", "takeoff.sandbox.launch", module)


def main() -> None:
    """Entry point of every child that opens a model's file."""
    policy = taken_policy()
    module, *arguments = sys.argv[1:]
    if policy.mode != "off":
        missing = confine(policy)
        if missing and policy.mode == "require":
            sys.exit(f"{module} does not run without its sandbox: {'; '.join(missing.values())}")
    sys.argv = [module, *arguments]
    import_module(module).main()


if __name__ == "__main__":
    main()
