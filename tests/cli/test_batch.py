"""`takeoff batch` as a process with the real default model: whole, torn, killed, resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from tests.cli.test_serve import LIMIT_S, are_gone, serving

from takeoff.batch.files import OutputFile, check_requests
from takeoff.errors import BatchError

SMALL = ("--max-slots", "4", "--context", "256", "--prefix-cache-mb", "0", "--threads", "1")


def start(*arguments: str) -> subprocess.Popen[str]:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("TAKEOFF_")}
    return subprocess.Popen(
        [sys.executable, "-c", "from takeoff.cli.main import main; main()", "batch", *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environ | {"COLUMNS": "200", "NO_COLOR": "1", "TAKEOFF_API_KEY": "not-asked-for"},
    )


def run(*arguments: str) -> tuple[int, str]:
    """The exit code, and what was said on stderr."""
    with start(*arguments) as process:
        _, said = process.communicate(timeout=LIMIT_S)
        return process.returncode, said


def request(
    custom_id: str, url: str = "/v1/completions", method: str = "POST", **body: Any
) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": method, "url": url, "body": body}


def greedy(custom_id: str, prompt: str, max_tokens: int = 8) -> dict[str, Any]:
    return request(custom_id, prompt=prompt, max_tokens=max_tokens, temperature=0)


def write(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def answers(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of an output file by their custom_id; each is there once."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    by_id = {line["custom_id"]: line for line in lines}
    assert len(by_id) == len(lines)
    return by_id


def text(answer: dict[str, Any]) -> str:
    assert answer["error"] is None
    assert answer["response"]["status_code"] == 200
    return str(answer["response"]["body"]["choices"][0]["text"])


def test_answers_are_the_doors_own_and_errors_stand_on_their_lines(
    smollm2_path: Path, tmp_path: Path
) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "n": 2}
    lines = [
        request("good", **body),
        request("ids", prompt=[504, 260], max_tokens=2),
        request("unknown field", prompt="Hi", max_tokns=3),
        request("no such place", url="/v1/images"),
        request("a look", url="/v1/completions", method="GET"),
        request("streamed", prompt="Hi", stream=True),
        request("no list", prompt=7),
        request("too long", prompt="word " * 300),
        request("no encoder", url="/v1/embeddings", input="Hi"),
    ]
    given, answered = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    model = ("--model", str(smollm2_path), *SMALL)
    code, said = run(given, str(answered), *model)
    assert (code, said.splitlines()[-1]) == (3, f"{answered}: 9 answers, 7 of them with an error")
    by_id = answers(answered)
    assert by_id.keys() == {line["custom_id"] for line in lines}
    with serving(*model, "--port", "0") as server:
        url = server.wait_ready()
        for custom_id in ("good", "unknown field", "no list", "too long", "no encoder"):
            line = next(line for line in lines if line["custom_id"] == custom_id)
            from_door = requests.post(url + line["url"], json=line["body"], timeout=LIMIT_S)
            response = by_id[custom_id]["response"]
            assert response["status_code"] == from_door.status_code
            assert response["request_id"].startswith("req_")
            told, wanted = response["body"], from_door.json()
            for name in ("id", "created"):
                assert type(told.pop(name, None)) is type(wanted.pop(name, None))
            assert told == wanted
    assert len(by_id["good"]["response"]["body"]["choices"]) == 2
    assert by_id["ids"]["response"]["body"]["usage"]["prompt_tokens"] == 2
    assert "did you mean 'max_tokens'?" in str(by_id["unknown field"]["response"]["body"])
    errors = {"no such place": "invalid_url", "a look": "invalid_method", "streamed": "stream"}
    for custom_id, error in errors.items():
        assert by_id[custom_id]["response"] is None
        assert by_id[custom_id]["error"]["code"] == error
    assert all(line["id"].startswith("batch_req_") for line in by_id.values())


def test_what_was_killed_is_resumed_and_computed_once(smollm2_path: Path, tmp_path: Path) -> None:
    lines = [greedy(f"number {number}", f"After {number} comes", 16) for number in range(24)]
    given, answered = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    model = ("--model", str(smollm2_path), *SMALL)
    with start(given, str(answered), *model) as process:
        deadline = time.monotonic() + LIMIT_S
        while not answered.exists() or answered.read_bytes().count(b"\n") < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 2
        process.kill()
    assert are_gone(children)
    before = answers(answered)
    assert 5 <= len(before) < 24
    with answered.open("ab") as file:  # as if the kill had come in the middle of a write
        file.write(b'{"id":"batch_req_0","custom_id":"number 3')
    code, said = run(given, str(answered), *model)
    assert code == 0
    assert f"{len(before)} of 24 are answered already" in said
    after = answers(answered)
    assert after.keys() == {line["custom_id"] for line in lines}
    assert {custom_id: after[custom_id] for custom_id in before} == before
    assert all(text(answer) for answer in after.values())
    whole = answered.read_bytes()
    code, said = run(given, str(answered), "--model", "/there/is/no/model.gguf")  # nothing is left to do
    assert code == 0
    assert "24 of 24 are answered already" in said
    assert answered.read_bytes() == whole


def test_embeddings_are_answered_too(minilm_path: Path, tmp_path: Path) -> None:
    lines = [request(f"{number}", url="/v1/embeddings", input=[f"text {number}", "b"]) for number in range(8)]
    given, answered = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    assert run(given, str(answered), "--model", "minilm")[0] == 0
    for answer in answers(answered).values():
        data = answer["response"]["body"]["data"]
        assert [len(each["embedding"]) for each in data] == [384, 384]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "has no requests"),
        ("not JSON\n", "line 1: "),
        (
            json.dumps(greedy("a", "b")) + "\n\n" + json.dumps(greedy("a", "c")),
            "line 3: another line has the custom_id 'a'",
        ),
        (json.dumps({**greedy("a", "b"), "metod": "POST"}), "line 1: Object contains unknown field `metod`"),
        (
            json.dumps({"custom_id": "a", "url": "/v1/completions", "method": "POST"}),
            "line 1: Object missing required field `body`",
        ),
    ],
)
def test_a_file_that_is_no_batch_is_refused_before_anything_is_done(
    given: str, told: str, tmp_path: Path
) -> None:
    path, answered = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text(given)
    code, said = run(str(path), str(answered), "--model", "/there/is/no/model.gguf")
    assert code == 1
    assert told in said.replace("\n", " ")
    assert not answered.exists()


def test_a_file_of_something_else_is_not_written_to(tmp_path: Path) -> None:
    given, answered = Path(write(tmp_path / "in.jsonl", [greedy("a", "b")])), tmp_path / "out.jsonl"
    asked = check_requests(given)
    other = write(tmp_path / "other.jsonl", [])
    for content in ("my notes", "my notes\n", given.read_text()):
        answered.write_text(content)
        with pytest.raises(BatchError, match="line 1, is no answer of a batch"):
            OutputFile(answered, asked)
        assert answered.read_text() == content
    line = '{"id":"batch_req_1","custom_id":"z","response":null,"error":{"code":"c","message":"m"}}'
    answered.write_text(line)
    with pytest.raises(BatchError, match="line 1, answers 'z', which is not asked"):
        OutputFile(answered, asked)
    with OutputFile(Path(other), asked), pytest.raises(BatchError, match="another batch writes"):
        OutputFile(Path(other), asked)
    with pytest.raises(BatchError, match="can't be written: No such file or directory"):
        OutputFile(tmp_path / "no" / "folder.jsonl", asked)


@pytest.mark.parametrize("cut", range(1, 90, 7))
def test_a_line_torn_anywhere_is_mended(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    first = '{"id":"batch_req_1","custom_id":"a","response":null,"error":{"code":"c","message":"m"}}'
    second = first.replace('"a"', '"b"')
    path.write_text(f"{first}\n{second[:cut]}")
    with OutputFile(path, {"a", "b"}) as output:
        assert output.done.custom_ids == ({"a", "b"} if cut >= len(second) else {"a"})
        assert output.done.num_failed == len(output.done.custom_ids)
    assert path.read_text() == (f"{first}\n{second}\n" if cut >= len(second) else f"{first}\n")
