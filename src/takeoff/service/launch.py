"""What a reader needs to run, and what it goes on with when its weights are lost while it runs.

A variant is made of the model's own file and may be deleted or made anew at any time, by `takeoff optimize`
among others. A running engine has it open and needs no other; the next engine would not find it, or find
something else. That one is given the file that the variant was made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from takeoff.ipc.messages import Load, LoadEncoder
from takeoff.request import Task

FileState = tuple[int, int]  # length, time of the last change


@dataclass(frozen=True, slots=True)
class Launch:
    """What a reader needs to run, decided by the store and the memory plan."""

    model_name: str
    model_path: Path
    task: Task
    load: Load | LoadEncoder
    config: dict[str, Any]  # what the model's file says of the model
    num_bytes: int = 0  # that the memory plan counts with
    spare: Spare | None = None  # only where `model_path` is a variant

    @property
    def vocabulary_path(self) -> Path:
        """Where its vocabulary is read from: a variant has the same as the file that it was made of."""
        return self.model_path if self.spare is None else self.spare.launch.model_path


@dataclass(frozen=True, slots=True)
class Spare:
    """The launch of a model's own file, for when the variant of it is lost."""

    launch: Launch
    variant: Path
    state: FileState | None  # of the variant, when it was planned

    @classmethod
    def of(cls, launch: Launch, variant: Path) -> Spare:
        return cls(launch, variant, file_state(variant))

    def loss(self, *, was_loaded: bool) -> str | None:
        """What happened to the variant and what to do; None: it is as it was.

        `was_loaded`: whether the last engine could load it.
        """
        state = file_state(self.variant)
        if state is None:
            what = "is gone"
        elif state != self.state:
            what = "was changed"
        elif not was_loaded:
            what = "can't be loaded any more"
        else:
            return None
        name = self.launch.model_name
        return (
            f"{self.variant} {what}: {name} goes on with {self.launch.model_path}. "
            f"`takeoff optimize {name}` makes it again; then restart the server"
        )


def file_state(path: Path) -> FileState | None:
    """What changes whenever a file is written; None: there is no such file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
