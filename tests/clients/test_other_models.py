"""takeoff-client on readers of other kinds: one that classifies, one that reads images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image as Pillow
from tests.cli.test_serve import LIMIT_S
from tests.clients.doors import HOST, Doors, chat_reader, serving_manifest, write_manifest
from tests.clients.environments import Environment
from tests.clients.test_takeoff_client import Client, client_of, data_of
from tests.engine.encoder.test_models import classifier, logits_of
from tests.models.vision_files import write_projector


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge of three classes, a ranker of pairs, a projector, two pictures."""
    folder = tmp_path_factory.mktemp("others")
    classifier(folder / "judge", 3)
    classifier(folder / "ranker", 1)
    write_projector(folder / "mmproj.gguf", n_embd=576)
    for name, colour in (("red", (250, 10, 10)), ("blue", (10, 10, 250))):
        Pillow.new("RGB", (64, 48), colour).save(folder / f"{name}.jpg")
    return folder


@pytest.fixture(scope="module")
def others(folder: Path, smollm2_path: Path) -> Iterator[Doors]:
    readers = {
        "seeing": chat_reader(smollm2_path, mmproj=folder / "mmproj.gguf"),
        "judge": {"model_name": folder / "judge", "device": "cpu", "consumer_group": "classify"},
        "ranker": {"model_name": folder / "ranker", "device": "cpu", "consumer_group": "rerank"},
    }
    with serving_manifest(write_manifest(folder, readers)) as (server, doors):
        server.wait_ready()
        url = f"{HOST}:{doors.takeoff}/healthz"
        answer = requests.get(url, params={"state": "live", "wait": 60}, timeout=LIMIT_S)
        assert answer.status_code == 200, answer.text
        yield doors


@pytest.fixture(params=["0_6_0", "0_7_0"])
def client(
    request: pytest.FixtureRequest, environment: Callable[[str], Environment], others: Doors
) -> Client:
    return client_of(request.param, environment, others)


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(each) for each in logits]
    return [each / sum(powers) for each in powers]


def test_a_text_and_a_list_are_classified(client: Client, folder: Path) -> None:
    expected = softmax(list(logits_of(folder / "judge", [2, 4, 5, 3], [0, 0, 0, 0])))
    assert client("classify", "a b")["result"] == pytest.approx(expected, abs=1e-5)
    both = client("classify", ["a b", "c d a"])["result"]
    assert both[0] == pytest.approx(expected, abs=1e-5)
    assert both[1] != pytest.approx(expected, abs=1e-3)


def test_pairs_are_ranked(client: Client, folder: Path) -> None:
    (logit,) = logits_of(folder / "ranker", [2, 4, 5, 3, 6, 3], [0, 0, 0, 0, 1, 1])
    ranked = client("classify", [["a b", "c"], ["a b", "d d d"]], consumer_group="rerank")["result"]
    assert ranked[0] == pytest.approx([1 / (1 + math.exp(-logit))], abs=1e-5)
    assert ranked[1] != ranked[0]


def test_an_image_goes_with_its_text(client: Client, folder: Path) -> None:
    def ask(method: str, image: str) -> Any:
        path = str(folder / f"{image}.jpg")
        return client(method, "What is this?", image_path=path, max_new_tokens=16)

    red, blue = ask("generate", "red")["text"], ask("generate", "blue")["text"]
    assert red != blue
    assert ask("generate", "red")["text"] == red
    assert "".join(data_of(ask("generate_stream", "red"))) == red
    assert ask("generate_async", "blue")["text"] == blue


def test_a_file_that_is_no_image_is_refused_by_name(client: Client, folder: Path) -> None:
    with pytest.raises(Exception, match="the image can't be read"):
        client("generate", "What is this?", image_path=str(folder / "mmproj.gguf"), max_new_tokens=4)
