"""A real server with every door open on a free port, started from a manifest."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.test_serve import Server, serving

HOST = "http://127.0.0.1"


@dataclass(frozen=True)
class Doors:
    """The ports of one server."""

    front: int
    takeoff: int
    management: int
    openai: int

    def flags(self) -> tuple[str, ...]:
        """What `takeoff serve` is told to listen there."""
        names = ("--port", "--takeoff-port", "--management-port", "--openai-port")
        ports = (self.front, self.takeoff, self.management, self.openai)
        return tuple(text for name, port in zip(names, ports, strict=True) for text in (name, str(port)))

    def client_settings(self, **more: object) -> dict[str, Any]:
        """The arguments of TakeoffClient, and of LangChain's classes, which take the same."""
        return {"base_url": HOST, "port": self.takeoff, "mgmt_port": self.management, **more}


def free_doors() -> Doors:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        return Doors(*(each.getsockname()[1] for each in sockets))


def write_manifest(folder: Path, readers: dict[str, dict[str, object]]) -> Path:
    """A manifest of these readers, as takeoff-config writes it but for the quotes."""
    lines = ["takeoff:", "  server_config: {}", "  readers_config:"]
    for reader_id, settings in readers.items():
        lines += [f"    {reader_id}:", *(f"      {key}: {value}" for key, value in settings.items())]
    path = folder / "config.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def chat_reader(model: Path, **more: object) -> dict[str, object]:
    """A reader that generates in the group `primary`."""
    return {
        "model_name": model,
        "device": "cpu",
        "consumer_group": "primary",
        "max_batch_size": 8,
        "max_sequence_length": 1024,
        **more,
    }


EMBEDDER: dict[str, object] = {"model_name": "minilm", "device": "cpu", "consumer_group": "embed"}


@contextlib.contextmanager
def serving_manifest(manifest: Path, *flags: str) -> Iterator[tuple[Server, Doors]]:
    """A server of the manifest, started and perhaps still loading."""
    doors = free_doors()
    # Not optimised: a reader added by the model's name serves the file that `chat_reader` does.
    with serving("--manifest", str(manifest), "--no-optimize", *doors.flags(), *flags) as server:
        yield server, doors
