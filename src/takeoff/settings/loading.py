"""The layers put together: defaults < manifest < TAKEOFF_* variables < flags.

A TAKEOFF_ variable that no option has is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from takeoff.errors import InvalidRequest, SettingsError
from takeoff.settings.entries import Entry, check_entries, problems_of, shown, unique
from takeoff.settings.fields import IDENTITY, ReaderSettings, Settings, has_effect, settable
from takeoff.settings.manifest import CONTAINER_MANIFEST, READER_KEYS, Manifest, read_manifest
from takeoff.settings.names import (
    ENV_PREFIX,
    OTHER_VARIABLES_WITHOUT_EFFECT,
    TENSOR_PARALLEL,
    is_service_link,
    variable,
    variable_names,
    variables_without_effect,
)

Model = TypeVar("Model", bound=ReaderSettings)

# A reader added later brings its own.
NOT_INHERITED = frozenset({"model", "consumer_group", "loras", "mmproj"})


@dataclass(frozen=True, slots=True)
class _Given:
    """Values of fields from variables and flags, and the name by which each was given."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    without_effect: list[str] = field(default_factory=list)

    def take(self, name: str, value: Any, origin: str) -> None:
        self.values[name], self.origins[name] = value, origin
        if not has_effect(name, value):
            self.without_effect.append(origin)


def load_settings(
    flags: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    *,
    container_manifest: Path = CONTAINER_MANIFEST,
) -> Settings:
    """Settings from the manifest, TAKEOFF_* variables and flags; a flag of None was not given.

    Without --manifest and TAKEOFF_MANIFEST `container_manifest` is read where there is such a file.

    Raises:
        SettingsError: a value of the wrong type or out of range, a TAKEOFF_ name that no option has,
            or a manifest that is missing or wrong.
    """
    given = _from_environment(os.environ if environ is None else environ)
    for name, value in flags.items():
        if value is not None:
            given.take(name, value, f"--{name.replace('_', '-')}")
    manifest = _manifest(given, container_manifest)
    readers = _readers(manifest, given)
    values = {**_merged(manifest.server, given.values), "readers": readers}
    if not readers:
        del values["readers"]
    if without_effect := unique([*manifest.without_effect, *given.without_effect]):
        values["without_effect"] = without_effect
    return _built(Settings, values, given, "settings")


def load_reader_settings(body: Mapping[str, Any], defaults: Settings) -> ReaderSettings:
    """What a body of POST /reader asks for; what it leaves out or null is as `defaults` has it.

    Raises:
        InvalidRequest: a value of the wrong type or out of range, or no model; `param` is the body's key.
    """
    entries = {key: Entry.of_json(value) for key, value in body.items()}
    checked = check_entries(ReaderSettings, entries, READER_KEYS)
    if checked.problems:
        key, text = checked.problems[0]
        raise InvalidRequest(f"{key}: {text}" if key else text, param=key or None)
    if "model" not in checked.values:
        raise InvalidRequest("model_name: a reader needs a model", param="model_name")
    inherited = (defaults.named & ReaderSettings.model_fields.keys()) - NOT_INHERITED
    try:
        return ReaderSettings(
            **_merged({name: getattr(defaults, name) for name in inherited}, checked.values)
        )
    except ValidationError as exc:
        raise InvalidRequest(problems_of(exc)[0][1]) from exc


def _from_environment(environ: Mapping[str, str]) -> _Given:
    fields = {variable(name): name for name in settable()} | variable_names()
    without_effect = variables_without_effect()
    given = _Given()
    for name, text in environ.items():
        if text == "":
            continue
        if name in without_effect or name in OTHER_VARIABLES_WITHOUT_EFFECT:
            given.without_effect.append(name)
        elif not name.startswith(ENV_PREFIX) or is_service_link(name, text):
            continue
        elif name == variable(TENSOR_PARALLEL):
            if text != "1":
                raise SettingsError(f"{name}: only 1 is possible here, got {shown(text)}", param=name)
        elif name not in fields:
            near = difflib.get_close_matches(name, [*fields, *without_effect], n=1, cutoff=0.0)[0]
            raise SettingsError(f"{name} is not a setting", param=name, hint=f"did you mean {near}?")
        elif given.values.get(fields[name], text) != text:
            other = given.origins[fields[name]]
            raise SettingsError(f"{other} and {name} set the same, to different values", param=name)
        else:
            given.take(fields[name], text, name)
    return given


def _manifest(given: _Given, container_manifest: Path) -> Manifest:
    if "manifest" in given.values:
        return read_manifest(Path(given.values["manifest"]).expanduser())
    return read_manifest(container_manifest) if container_manifest.is_file() else Manifest()


def _readers(manifest: Manifest, given: _Given) -> dict[str, ReaderSettings]:
    """The manifest's readers; what variables and flags say of a reader goes for every one of them.

    Raises:
        SettingsError: they say what can be true of one reader only, and there are several.
    """
    ours = given.values.keys() & ReaderSettings.model_fields.keys()
    if len(manifest.readers) > 1 and (for_one := sorted(ours & IDENTITY)):
        raise SettingsError(
            f"{given.origins[for_one[0]]} can't go for all of the manifest's {len(manifest.readers)} readers "
            f"({', '.join(manifest.readers)})",
            param=for_one[0],
            hint="set it for each reader in the manifest",
        )
    inherited = {
        name: value for name, value in manifest.server.items() if name in ReaderSettings.model_fields
    }
    overrides = {name: given.values[name] for name in ours}
    return {
        reader_id: _built(ReaderSettings, _merged(inherited, values, overrides), given, f"reader {reader_id}")
        for reader_id, values in manifest.readers.items()
    }


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers win; a device of 'cpu' also wins over the number of GPU layers below it."""
    values: dict[str, Any] = {}
    for layer in layers:
        if layer.get("device") == "cpu":
            values.pop("gpu_layers", None)
        values.update(layer)
    return values


def _built(model: type[Model], values: Mapping[str, Any], given: _Given, whole: str) -> Model:
    try:
        return model(**values)
    except ValidationError as exc:
        problems = problems_of(exc)
    lines = [f"{given.origins.get(name, whole)}: {text}" for name, text in problems]
    raise SettingsError("\n".join(lines), param=problems[0][0] or None)
