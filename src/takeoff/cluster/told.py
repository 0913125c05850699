"""What the processes of a cluster are told of the settings: JSON, without secrets. Knows no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from takeoff.cluster.names import reader_app
from takeoff.settings import ReaderSettings, Settings
from takeoff.settings.cluster import ReplicaSettings

# Of a server's settings, those that its readers' processes go by.
_OF_REPLICAS = frozenset({"home", "repository_path", "memory_limit_gb", "sandbox", "replay", "log_level"})
# Those that its doors don't: where they were written, and the readers, which doors find.
_NOT_OF_DOORS = {"manifest", "without_effect", "readers"}

# Of the processes that Ray starts for us.
VARIABLES = MappingProxyType(
    {
        # One event loop for everything in a process of ours: a thread in between costs two switches a token.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "GRPC_ENABLE_FORK_SUPPORT": "0",  # our children are other programs, which have no part in its calls
    }
)


@dataclass(frozen=True, slots=True)
class ToldReader:
    """What a reader's replicas are told, and what Ray Serve calls their application."""

    reader_id: str
    app: str
    settings_json: str  # with this one reader


def told_reader(
    settings: Settings, reader_id: str, reader: ReaderSettings, replicas: ReplicaSettings, nonce: str = ""
) -> ToldReader:
    """Of one reader, which is none of `settings` perhaps. `nonce` makes the application another one."""
    own = {name: getattr(settings, name) for name in settings.named & _OF_REPLICAS}
    told = Settings(**own, readers={reader_id: reader}).model_dump_json(exclude_unset=True)
    app = reader_app(reader_id, told + replicas.model_dump_json() + nonce)
    return ToldReader(reader_id, app, told)


def told_doors(settings: Settings) -> str:
    """What the doors are told."""
    return settings.model_dump_json(exclude_unset=True, exclude=_NOT_OF_DOORS)
