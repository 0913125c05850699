"""A real server with keys: its log tells what each client was told of its request, nothing that it said."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.cli.test_serve import LIMIT_S, serving
from tests.e2e.processes import wait_until
from tests.e2e.test_keys import SMALL, Served

PROMPT = "Once upon a time a whale called Ismene"
PATH = "/v1/completions"


@dataclass(frozen=True)
class Logged:
    """A server, its files, and the secrets of two keys."""

    served: Served
    management: str
    log: Path
    secret: str
    root: str

    @property
    def audit(self) -> Path:
        return self.log.with_name("audit.jsonl")

    def post(self, name: str, **fields: Any) -> requests.Response:
        return self._post(name, PATH, {"prompt": PROMPT, "max_tokens": 8} | fields, {})

    def chat(self, name: str, *, timeout_s: float) -> requests.Response:
        """Without a length, whose end would be predicted: what comes in time is wanted."""
        messages = [{"role": "user", "content": PROMPT}]
        path, timeout = "/v1/chat/completions", {"x-request-timeout": str(timeout_s)}
        return self._post(name, path, {"messages": messages}, timeout)

    def _post(
        self, name: str, path: str, fields: dict[str, Any], headers: dict[str, str]
    ) -> requests.Response:
        headers |= {"authorization": f"Bearer {self.secret}", "x-request-id": name}
        body = {"temperature": 0, "ignore_eos": True} | fields
        return requests.post(self.served.url + path, json=body, headers=headers, stream=True, timeout=LIMIT_S)

    def manage(self, method: str, path: str, **body: Any) -> requests.Response:
        headers = {"x-api-key": self.root}
        return requests.request(
            method, self.management + path, json=body or None, headers=headers, timeout=LIMIT_S
        )

    def lines(self, **wanted: Any) -> list[dict[str, Any]]:
        """Those that have these values."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if wanted.items() <= line.items()]

    def line(self, **wanted: Any) -> dict[str, Any]:
        """The only one that has these values, once it is written."""
        wait_until(lambda: bool(self.lines(**wanted)), f"a line with {wanted}")
        (line,) = self.lines(**wanted)
        return line


@pytest.fixture(scope="module")
def logged(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    folder = tmp_path_factory.mktemp("log")
    path, log = folder / "keys.json", folder / "requests.jsonl"
    secret = Served("", path).keys("create", "alice")
    root = Served("", path).keys("create", "root", "--scope", "admin")
    flags = ("--model", str(smollm2_path), *SMALL, "--keys-file", str(path), "--request-log", str(log))
    with serving(*flags) as server:
        url = server.wait_ready()
        yield Logged(Served(url, path), server.door("management"), log, secret, root)


def test_the_line_of_a_request_has_the_counts_that_its_client_was_told(logged: Logged) -> None:
    ((reader,),) = logged.manage("GET", "/reader_groups").json().values()
    for name in ("first", "again"):
        started = time.monotonic()
        usage = logged.post(name).json()["usage"]
        took_s = time.monotonic() - started
        line = logged.line(id=name)
        assert (line["key"], line["reader"], line["path"]) == ("alice", reader["reader_id"], PATH)
        assert (line["status"], line["state"], line["texts"]) == (200, "length", 1)
        assert line["prompt_tokens"] == usage["prompt_tokens"] > 5
        assert line["completion_tokens"] == usage["completion_tokens"] == 8
        assert line["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
        assert 0 <= line["queue_s"] < line["ttft_s"] < line["total_s"] < took_s
    (key_id,) = {line["key_id"] for line in logged.lines(key="alice")}
    assert len(key_id) == 12


def test_every_end_of_a_request_is_told_once(logged: Logged) -> None:
    assert logged.post("streamed", stream=True).text.endswith("data: [DONE]\n\n")
    assert logged.line(id="streamed")["state"] == "length"

    with logged.post("left", stream=True, max_tokens=900) as answer:
        next(answer.iter_lines())
    left = logged.line(id="left")
    assert left["state"] == "cancelled"
    assert 1 <= left["completion_tokens"] < 900

    (choice,) = logged.chat("late", timeout_s=0.5).json()["choices"]
    late = logged.line(id="late")
    assert choice["finish_reason"] == late["state"] == "deadline"
    assert 0.4 < late["total_s"] < 1.5

    assert logged.post("wrong", prompt=PROMPT * 400).status_code == 400
    assert logged.line(id="wrong")["error"] == "context_length_exceeded"

    assert logged.served.ask(logged.root, PROMPT).status_code == 403
    assert logged.line(key="root", path=PATH)["error"] == "forbidden"
    assert logged.served.ask(logged.secret[:-1], PROMPT).status_code == 401
    assert logged.line(status=401)["client"] == "127.0.0.1"
    for name in ("streamed", "left", "late", "wrong"):
        assert len(logged.lines(id=name)) == 1


def test_changes_of_readers_and_keys_are_audited(logged: Logged, tmp_path: Path) -> None:
    missing = logged.manage("POST", "/reader", model_name=str(tmp_path / "missing.gguf"))
    assert (missing.status_code, "there is no model" in missing.text) == (400, True)
    model = "smollm2"
    reader_id = logged.manage("POST", "/reader", model_name=model).json()["reader_id"]
    assert logged.manage("DELETE", f"/reader/{reader_id}").status_code == 204
    wait_until(lambda: logged.audit.read_text().count("\n") == 4, "all is audited")
    told = [json.loads(line) for line in logged.audit.read_text().splitlines()]
    assert [line["event"] for line in told] == ["key_created"] * 2 + ["reader_added", "reader_removed"]
    assert [line["by"].get("key", "a user") for line in told] == ["a user"] * 2 + ["root"] * 2
    assert told[2]["reader"] == {"id": reader_id, "model": model, "group": "primary"}
    assert logged.line(key="root", path="/reader/:reader_id")["status"] == 204


def test_no_prompt_no_answer_and_no_secret_is_in_any_line(logged: Logged) -> None:
    text = logged.post("last").json()["choices"][0]["text"]
    logged.line(id="last")
    for path in (logged.log, logged.audit):
        written = path.read_text()
        assert written.count("\n") > 3
        for word in ("Ismene", text.strip(), logged.secret[3:-1], logged.root[3:], "sha256"):
            assert word not in written
