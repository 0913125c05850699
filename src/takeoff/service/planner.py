"""Plans readers that are added while the server runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from takeoff.errors import ModelError
from takeoff.models.machine import read_machine
from takeoff.models.store import Store, StoredModel
from takeoff.service.launch import Launch
from takeoff.service.profiling import plan_profiled
from takeoff.settings import ReaderSettings

logger = logging.getLogger(__name__)


class Planner:
    """Plans readers that are added while the server runs: nothing is fetched for a stranger."""

    def __init__(self, store: Store, folders: Sequence[Path]) -> None:
        """Models come from `store`, or from files below `folders`."""
        self._store = store
        self._folders = [folder.resolve() for folder in folders]

    def __call__(self, settings: ReaderSettings, available_bytes: int) -> Launch:
        """The launch of a reader, by its model's profile, which may take `available_bytes`.

        Its adapters and projector lie below the folders.

        No profile is made: that would take the cores from those who are served.

        Raises:
            ModelError: no such file here, or none that can be served.
            PlanError: it does not fit.
        """
        model = self._find(settings.model)
        loras = {name: str(self._file(path)) for name, path in settings.loras.items()}
        mmproj = None if settings.mmproj is None else self._file(str(settings.mmproj))
        confined = settings.model_copy(update={"loras": loras, "mmproj": mmproj})
        machine = replace(read_machine(), memory_available_bytes=available_bytes)
        return plan_profiled(model, confined, machine, self._store.root, logger.info).planned.launch

    def _find(self, name: str) -> StoredModel:
        stored = self._store.find(name)
        if stored is not None:
            return stored
        path = self._below(name)
        if path is not None:
            return self._store.pull(str(path))
        raise ModelError(
            f"there is no model {name!r} in the store"
            + (f" or below {self._places()}" if self._folders else ""),
            hint="`takeoff pull` it first; `takeoff models` lists what is there",
        )

    def _file(self, name: str) -> Path:
        path = self._below(name)
        if path is None:
            raise ModelError(
                f"there is no file {name!r} below {self._places() or 'any folder: none is configured'}",
                hint="serve with --repository-path, and name a file below it",
            )
        return path

    def _below(self, name: str) -> Path | None:
        """What `name` is below one of the folders, if it is there."""
        for folder in self._folders:
            path = (folder / name).resolve()
            if path.is_relative_to(folder) and path.exists():
                return path
        return None

    def _places(self) -> str:
        return ", ".join(map(str, self._folders))
