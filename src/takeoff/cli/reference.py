"""docs/reference/settings.md, made from the fields so that it can't say anything else."""

from __future__ import annotations

import typing
from collections.abc import Iterable

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from takeoff.cli.options import values_of
from takeoff.settings.cluster import MOST_REPLICAS, ClusterSettings, ReplicaSettings
from takeoff.settings.fields import ReaderSettings, Settings, flags, settable
from takeoff.settings.manifest import READER_KEYS, SERVER_KEYS
from takeoff.settings.names import (
    OTHER_VARIABLES_WITHOUT_EFFECT,
    READER_WITHOUT_EFFECT,
    SERVER_WITHOUT_EFFECT,
    variables_without_effect,
)

_BOUNDS = (("ge", "from {}"), ("gt", "above {}"), ("le", "to {}"), ("lt", "below {}"))

# Value and default of what is not written as it is kept.
_WRITTEN = {
    "replicas": (f"number from 1 to {MOST_REPLICAS:,}, or two with a dash", "`1`"),
    "readers": ("reader id: settings", ""),
}

_PAGE = """\
# Settings

Made from the source by `takeoff config reference`; don't edit it.

A setting `max_slots` is the flag `--max-slots`, the variable `TAKEOFF_MAX_SLOTS` and the key `max_slots` in
a manifest. Flags win over variables, variables over the manifest, the manifest over the defaults. An empty
variable and a null mean the default. A `TAKEOFF_` variable that is not named on this page is an error.

## The manifest

`--manifest FILE`, or /code/config.yaml where there is one. It has the shape of Titan Takeoff's config.yaml:

```yaml
takeoff:
  server_config:            # or null
    port: 3000              # of the Takeoff API; front_port is the front door's
    max_requests: 64        # any setting of the server
    threads: 4              # any setting of a reader: the default of every reader
  readers_config:           # or null: one reader of the flags and variables
    chat:                   # the reader's id
      model_name: smollm2   # these three must be there; device and consumer_group may be null
      device: cpu
      consumer_group: primary
      max_batch_size: 8
```

Numbers and truth values are strict (`"8"` is not a number, `no` is not false), null is the default, and a key
twice, a tag or a merge key is an error. Names under "also called" are valid keys too and, but for `port` and
`front_port`, make variables (`TAKEOFF_MODEL_NAME`). Unknown keys are ignored and named when the server
starts. `takeoff config check FILE` prints what a file amounts to, or everything that is wrong with it.

A variable or flag about a reader goes for every reader of the manifest; `model`, `device` and
`consumer_group` only where there is a single one.

## Of a reader

{readers}

## Of the server

`launch_management_server: false` and `launch_openai_server: false` in a manifest also leave their door out.
A default port that is taken is left out with a line; one that a manifest, variable or flag names is an error.

{server}

## Of a cluster

What `takeoff cluster` reads beside the others, and `takeoff serve` does not; only a manifest has it
([guide](../guides/cluster.md)):

```yaml
takeoff:
  cluster_config:
    doors: 2
    readers:
      chat: {{replicas: 1-4, cpus: 4}}   # by the reader's id; one that is left out has the defaults
```

{cluster}

Of each reader in `readers`:

{replicas}

## Without effect here

Accepted, because Titan Takeoff's manifests and containers have them, and named once when the server starts.
`tensor_parallel` is accepted where it is 1.

- In `readers_config`: {reader_keys}
- In `server_config`: {server_keys}
- Variables: {variables}
"""


def reference_page() -> str:
    """The page."""
    of_reader = [name for name in settable() if name in ReaderSettings.model_fields]
    of_server = [name for name in settable() if name not in ReaderSettings.model_fields]
    return _PAGE.format(
        readers=_table(of_reader),
        server=_table(of_server),
        cluster=_cluster_table(ClusterSettings),
        replicas=_cluster_table(ReplicaSettings),
        reader_keys=_listed(READER_WITHOUT_EFFECT),
        server_keys=_listed(SERVER_WITHOUT_EFFECT),
        variables=_listed([*sorted(variables_without_effect()), *OTHER_VARIABLES_WITHOUT_EFFECT]),
    )


def _table(names: Iterable[str]) -> str:
    rows = [
        ("setting", "value", "default", "also called", "meaning"),
        ("---", "---", "---", "---", "---"),
        *(
            (f"`{name}`", _value(field), _default(field), _listed(_also(name)), _meaning(name))
            for name, field in ((name, Settings.model_fields[name]) for name in names)
        ),
    ]
    return _lines(rows)


def _cluster_table(model: type[BaseModel]) -> str:
    """Of a section that nothing but a manifest has."""
    rows = [("setting", "value", "default", "meaning"), ("---", "---", "---", "---")]
    for name, field in model.model_fields.items():
        value, default = _WRITTEN.get(name) or (_value(field), _default(field))
        rows.append((f"`{name}`", value, default, str(field.description)))
    return _lines(rows)


def _lines(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def _value(field: FieldInfo) -> str:
    """The kind or the words of a value, with its bounds."""
    constraints = [*field.metadata]
    for part in typing.get_args(field.annotation):  # of a union
        for inner in getattr(part, "__metadata__", ()):
            constraints += getattr(inner, "metadata", ())
    kind, *words = values_of(field.annotation)
    bounds = [
        text.format(f"{getattr(constraint, bound):,}")
        for bound, text in _BOUNDS
        for constraint in constraints
        if getattr(constraint, bound, None) is not None
    ]
    return " or ".join([" ".join([kind, *bounds]), *words])


def _default(field: FieldInfo) -> str:
    default = field.default
    if default in (None, (), {}):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _also(name: str) -> list[str]:
    aliases = {**READER_KEYS.aliases, **SERVER_KEYS.aliases}
    return sorted(alias for alias, field in aliases.items() if field == name)


def _meaning(name: str) -> str:
    text = str(Settings.model_fields[name].description)
    return text if name in flags() else f"{text} (not a flag)"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
