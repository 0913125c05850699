"""A real server with keys: nothing that one key's requests computed is given to another's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.cli.test_serve import LIMIT_S, serving
from typer.testing import CliRunner

from takeoff.cli.main import app

SMALL = ("--port=0", "--max-slots=4", "--context=1024", "--prefix-cache-mb=64", "--standby=off")
KNOWN_WITHIN_S = 1.0


def said(topic: str) -> str:
    """Some hundred tokens that nobody else has sent."""
    return " ".join(f"Chapter {number} tells of {topic} and of the {number}th day." for number in range(25))


@dataclass(frozen=True)
class Served:
    url: str
    path: Path

    def keys(self, *arguments: str) -> str:
        """What `takeoff keys` says on stdout."""
        result = CliRunner().invoke(app, ["keys", *arguments, "--keys-file", str(self.path)])
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    def ask(self, secret: str, prompt: str, **fields: Any) -> requests.Response:
        body = {"prompt": prompt, "max_tokens": 2, "temperature": 0} | fields
        headers = {"authorization": f"Bearer {secret}"}
        return requests.post(f"{self.url}/v1/completions", json=body, headers=headers, timeout=LIMIT_S)

    def usage(self, secret: str, prompt: str) -> tuple[int, int]:
        """Tokens of the prompt, and those of them that were not computed again."""
        answer = self.ask(secret, prompt)
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]

    def wait_status(self, secret: str, status: int) -> None:
        """Until the server knows what was changed."""
        deadline = time.monotonic() + KNOWN_WITHIN_S
        while self.ask(secret, "a").status_code != status:
            assert time.monotonic() < deadline, f"not {status} within {KNOWN_WITHIN_S} s"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def served(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    Served("", path).keys("create", "first")
    with serving("--model", str(smollm2_path), *SMALL, "--keys-file", str(path)) as server:
        yield Served(server.wait_ready(), path)


def test_a_prefix_is_found_again_by_its_key_alone_and_by_a_new_secret_of_it(served: Served) -> None:
    alice, bob = served.keys("create", "alice"), served.keys("create", "bob")
    served.wait_status(bob, 200)
    prompt = said("whales")
    num_tokens, cached = served.usage(alice, prompt)
    assert num_tokens > 250
    assert cached == 0
    assert served.usage(alice, prompt)[1] >= num_tokens - 64
    assert served.usage(bob, prompt) == (num_tokens, 0)
    assert served.usage(bob, prompt)[1] >= num_tokens - 64
    rotated = served.keys("rotate", "alice")
    served.wait_status(rotated, 200)
    assert served.ask(alice, "a").status_code == 401
    assert served.usage(rotated, prompt)[1] >= num_tokens - 64


def test_nor_is_a_prefix_that_is_computed_right_now(served: Served) -> None:
    """One key's requests of a prefix wait for the first of them; others compute it themselves."""
    secrets = [served.keys("create", name) for name in ("carol", "dave")]
    served.wait_status(secrets[1], 200)
    prompt = said("harbours")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(served.usage, secret, prompt) for secret in (*secrets, *secrets)]
        usages = [each.result() for each in asked]
    num_tokens = usages[0][0]
    for mine in (usages[0::2], usages[1::2]):
        cached = sorted(cached for _, cached in mine)
        assert cached[0] == 0, "the first of each key computes all"
        assert cached[1] >= num_tokens - 64


def test_a_revoked_key_is_refused_within_a_second_and_others_go_on(served: Served) -> None:
    eve, frank = served.keys("create", "eve"), served.keys("create", "frank", "--requests-per-minute", "1000")
    served.wait_status(frank, 200)
    served.keys("revoke", "eve")
    served.wait_status(eve, 401)
    assert served.ask(frank, "a").status_code == 200
    assert requests.get(f"{served.url}/healthz", timeout=LIMIT_S).json() == {"status": "live"}
    assert requests.get(f"{served.url}/metrics", timeout=LIMIT_S).status_code == 401


def test_tokens_a_minute_are_those_that_were_computed(served: Served) -> None:
    secret = served.keys("create", "grace", "--tokens-per-minute", "300")
    served.wait_status(secret, 200)
    prompt = said("clocks")
    num_tokens, _ = served.usage(secret, prompt)
    refused = served.ask(secret, prompt)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    asked_before = 2 * 2  # by wait_status: "a", and two tokens of an answer, once or twice
    debt = num_tokens + 2 - 300
    wait_s = int(refused.headers["retry-after"])
    assert 0.2 * (debt - 5) <= wait_s <= 0.2 * (debt + asked_before + 5) + 1


@pytest.mark.parametrize(
    ("mode", "words"),
    [(None, "can't be read: No such file"), (0o644, "others than its owner can use")],
)
def test_a_server_does_not_start_with_keys_that_it_may_not_trust(
    tmp_path: Path, mode: int | None, words: str
) -> None:
    path = tmp_path / "keys.json"
    if mode is not None:
        Served("", path).keys("create", "alice")
        path.chmod(mode)
    with serving("--keys-file", str(path)) as server:
        assert server.wait() == 1
        assert server.said.startswith("error: ")
        assert words in server.said
        assert "hint: " in server.said
        assert "Traceback" not in server.said
