"""What v1's clients do, word for word, against the real server and the default model."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from tests.e2e.test_optimize import guide_commands as optimize_commands

ROOT = Path(__file__).parents[2]
LIMIT_S = 120
PROGRAM = "from takeoff.cli.main import main; main()"

STREAMING_SNIPPET = """
import requests

if __name__ == "__main__":

    input_text = 'List 3 things to do in London.'

    url = "http://localhost:8000/generate_stream"
    json = {"text":input_text}

    response = requests.post(url, json=json, stream=True)
    response.encoding = 'utf-8'

    for text in response.iter_content(chunk_size=1, decode_unicode=True):
        if text:
            print(text, end="", flush=True)
"""

NORMAL_SNIPPET = """
import requests

if __name__ == "__main__":

    input_text = 'List 3 things to do in London.'

    url = "http://localhost:8000/generate"
    json = {"text":input_text}

    response = requests.post(url, json=json)

    if "message" in response.json():
        print(response.json()["message"])
"""


def run_snippet(snippet: str, url: str) -> str:
    code = snippet.replace("http://localhost:8000", url)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True).stdout


def run_command(command: str, url: str) -> str:
    words = [word.replace("http://localhost:8000", url) for word in shlex.split(command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=True).stdout


def test_the_four_snippets_of_the_first_documentation_answer_alike(server_url: str) -> None:
    streamed = run_snippet(STREAMING_SNIPPET, server_url)
    normal = run_snippet(NORMAL_SNIPPET, server_url)
    assert streamed == normal.removesuffix("\n")
    assert "London" in streamed or "Museum" in streamed, "the model answers the question"
    curl = "curl -X POST http://localhost:8000/{} -H 'Content-Type: application/json' -d '{}'"
    data = '{"text":"List 3 things to do in London"}'
    raw = run_command(curl.format("generate_stream", data) + " -N", server_url)
    message = json.loads(run_command(curl.format("generate", data), server_url))
    assert message == {"status": "success", "message": raw}


def test_every_command_of_the_readme_works(server_url: str) -> None:
    """`make serve` itself is what the fixture's server stands for; its flags are tested there."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert commands[0] == "make serve"
    assert len(commands) >= 2
    for command in commands[1:]:
        if " optimize " in command:  # takes minutes, and keeps what it found: run on a store of its own there
            assert shlex.split(command)[1:] == optimize_commands()[0]
            continue
        assert command.startswith(("curl ", ".venv/bin/takeoff ")), (
            "a new kind needs a new way to run it here"
        )
        here = command.replace(".venv/bin/takeoff", f"{sys.executable} -c '{PROGRAM}'")
        assert len(run_command(here, server_url)) > 20
    plan = subprocess.run(["make", "-n", "serve"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "./setup.sh serve" in plan.stdout


def test_a_list_is_answered_in_its_order_and_one_element_as_a_string(server_url: str) -> None:
    texts = ["The capital of France is", "Count: 1 2 3", "Say hello"]
    body = {"generate_max_length": 8}
    alone = [post(server_url, "generate", text=text, **body).json()["message"] for text in texts]
    assert post(server_url, "generate", text=texts, **body).json()["message"] == alone
    assert post(server_url, "generate", text=texts[:1], **body).json()["message"] == alone[0]
    assert post(server_url, "generate", text=[], **body).json()["message"] == []
    assert post(server_url, "generate_stream", text=texts).status_code == 422


def post(url: str, route: str, **body: object) -> requests.Response:
    return requests.post(f"{url}/{route}", json=body, timeout=LIMIT_S)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"text": ""}', 422, "empty"),
        (b'{"text": 5}', 422, "text"),
        (b'{"txt": "a"}', 422, "text"),
        (b'{"text": "a"', 422, "JSON"),
        (b'{"text": "a", "sampling_temperature": NaN}', 422, "NaN"),
        (b'{"text": "a", "sampling_temperature": Infinity}', 422, "Infinity"),
        (b'{"text": "a", "generate_max_length": 0}', 422, "generate_max_length"),
        (b'{"text": "a", "sampling_topp": 1.5}', 422, "sampling_topp"),
        (b'{"text": "\\ud800"}', 422, "surrogate"),
        (json.dumps({"text": "many words " * 2000}).encode(), 422, "1024"),
        (b"x" * 3_000_000, 413, "2097152"),
    ],
)
def test_bad_input_is_told_what_is_wrong(server_url: str, body: bytes, status: int, words: str) -> None:
    answer = requests.post(
        f"{server_url}/generate", data=body, headers={"content-type": "application/json"}, timeout=LIMIT_S
    )
    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert requests.get(f"{server_url}/healthz", timeout=LIMIT_S).status_code == 200


def test_unknown_paths_and_wrong_methods_are_told(server_url: str) -> None:
    assert requests.get(f"{server_url}/nothing", timeout=LIMIT_S).status_code == 404
    wrong = requests.get(f"{server_url}/generate", timeout=LIMIT_S)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def test_strangers_names_and_origins_are_refused(server_url: str) -> None:
    health = f"{server_url}/healthz"
    assert requests.get(health, headers={"host": "evil.example"}, timeout=LIMIT_S).status_code == 403
    headers = {"origin": "https://evil.example"}
    refused = requests.post(f"{server_url}/generate", json={"text": "a"}, headers=headers, timeout=LIMIT_S)
    assert refused.status_code == 403


def test_a_header_without_end_is_refused(server_url: str) -> None:
    host, _, port = server_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 431 ")


def test_a_client_that_leaves_frees_its_slot(server_url: str) -> None:
    cancelled = number_of(server_url, 'takeoff_requests_ended_total{reason="cancelled"}')
    body = {"text": "Tell me a long story.", "generate_max_length": 900}
    with requests.post(f"{server_url}/generate_stream", json=body, stream=True, timeout=LIMIT_S) as stream:
        next(stream.iter_content(chunk_size=None))
    deadline = time.monotonic() + 20
    while number_of(server_url, 'takeoff_requests_ended_total{reason="cancelled"}') == cancelled:
        assert time.monotonic() < deadline, "it was never cancelled"
        time.sleep(0.05)


def number_of(url: str, name: str) -> float:
    for line in requests.get(f"{url}/metrics", timeout=LIMIT_S).text.splitlines():
        if line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def test_characters_of_several_tokens_arrive_whole(server_url: str) -> None:
    body = {"text": "Repeat exactly: 🙂 naïve café 東京 😢", "generate_max_length": 40}
    whole = post(server_url, "generate", **body).json()["message"]
    with requests.post(f"{server_url}/generate_stream", json=body, stream=True, timeout=LIMIT_S) as stream:
        stream.encoding = "utf-8"
        text = "".join(stream.iter_content(chunk_size=1, decode_unicode=True))
    assert text == whole
    assert "\ufffd" not in text
