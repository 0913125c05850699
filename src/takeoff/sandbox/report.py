"""What of the sandbox this machine has: a child tries it and tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass

from takeoff.sandbox.confine import InForce, confine, measure
from takeoff.sandbox.policy import Policy, child_environment

_LIMIT_S = 60.0  # against hanging only


@dataclass(frozen=True, slots=True)
class Report:
    """What is in force in a child, and why the rest is not."""

    in_force: InForce
    failures: dict[str, str]  # part: why it could not be had

    @property
    def missing(self) -> dict[str, str]:
        """The parts that are not in force, and why."""
        return {
            part: self.failures.get(part, "the kernel took it and does not do it")
            for part, is_there in self.in_force.parts.items()
            if not is_there
        }


def try_sandbox() -> Report:
    """Start a child that confines itself. Blocks for a tenth of a second.

    Raises:
        OSError, subprocess.SubprocessError: it could not.
    """
    answer = subprocess.run(
        [sys.executable, "-P", "-m", "takeoff.sandbox.report"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=True,
        env=child_environment(os.environ, Policy()),
    )
    told = json.loads(answer.stdout)
    return Report(InForce(**told["in_force"]), told["failures"])


def main() -> None:
    """Entry point of that child."""
    failures = confine(Policy())
    sys.stdout.write(json.dumps({"in_force": asdict(measure()), "failures": failures}))


if __name__ == "__main__":
    main()
