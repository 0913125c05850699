"""Which doors open: a default port that is taken is done without, a named one is an error."""

from __future__ import annotations

import resource
import socket
from typing import Any

import pytest

from takeoff.errors import StartError
from takeoff.http.doors import Doors
from takeoff.settings import Settings

FREE = {"port": 0, "takeoff_port": 0, "management_port": 0, "openai_port": 0}


def settings(named: set[str], **ports: Any) -> Settings:
    """Settings of which only `named` were given, the rest being defaults."""
    values = Settings(**FREE).model_copy(update=ports)
    return Settings.model_construct(named, **dict(values))


def close(doors: Doors) -> None:
    for sock in doors._sockets.values():
        sock.close()


def test_every_door_has_a_port_of_its_own_and_off_leaves_one_out() -> None:
    doors = Doors(settings(set(), openai_port=None))
    assert list(doors.ports) == ["port", "takeoff_port", "management_port"]
    assert len(set(doors.ports.values())) == 3
    assert doors.notes == []
    close(doors)


def test_a_default_port_that_is_taken_is_done_without_and_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        doors = Doors(settings(set(), takeoff_port=port))
        assert "takeoff_port" not in doors.ports
        assert doors.notes == [
            f"no Takeoff API: can't listen on 127.0.0.1 port {port}: Address already in use"
        ]
        close(doors)


@pytest.mark.parametrize("name", ["port", "takeoff_port"])
def test_a_named_port_and_the_front_doors_must_be_free(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"can't listen on 127.0.0.1 port {port}") as refused:
            Doors(settings({"takeoff_port"}, **{name: port}))
        assert f"--{name.replace('_', '-')}" in (refused.value.hint or "")


def test_this_process_may_open_as_many_files_as_its_connections_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that follow dead ones need some, too."""
    limits = [512, 100_000]
    monkeypatch.setattr(resource, "getrlimit", lambda _which: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _which, given: limits.__setitem__(slice(2), given))
    doors = Doors(settings(set(), max_connections=1_024))
    assert limits == [4 * 1_024 + 256, 100_000]
    assert doors.notes == []
    close(doors)
    close(Doors(settings(set(), max_connections=10)))
    assert limits == [4 * 1_024 + 256, 100_000], "never fewer than before"
    limits[:] = [512, 2_048]
    doors = Doors(settings(set(), max_connections=1_024))
    assert limits == [2_048, 2_048]
    assert doors.notes == [
        "the system allows 2048 open files, and connections may take 4352: raise its limit, or set a smaller "
        "--max-connections"
    ]
    close(doors)
