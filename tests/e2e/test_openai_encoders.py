"""Encoders behind the OpenAI API: real networks ranked, classified and embedded, over every door alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from tests.cli.test_serve import LIMIT_S
from tests.clients.doors import EMBEDDER, HOST, Doors, serving_manifest, write_manifest
from tests.engine.encoder.test_models import classifier

QUERY = "a b"
DOCUMENTS = ["c", "d d d", "a b", "b c d a", "d"]


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory, minilm_path: Path) -> Iterator[Doors]:
    """A cross-encoder, a classifier of three classes, and an embedding model."""
    folder = tmp_path_factory.mktemp("encoders")
    for name, classes in (("ranker", 1), ("judge", 3)):
        classifier(folder / name, classes)
    readers = {
        name: {"model_name": folder / name, "device": "cpu", "consumer_group": name}
        for name in ("ranker", "judge")
    }
    with serving_manifest(write_manifest(folder, {**readers, "minilm": EMBEDDER})) as (server, doors):
        server.wait_ready()
        url = f"{HOST}:{doors.takeoff}/healthz"
        assert requests.get(url, params={"state": "live", "wait": 60}, timeout=LIMIT_S).status_code == 200
        yield doors


def post(port: int, path: str, **body: Any) -> Any:
    answer = requests.post(f"{HOST}:{port}{path}", json=body, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(port: int, path: str, **body: Any) -> Any:
    answer = requests.post(f"{HOST}:{port}{path}", json=body, timeout=LIMIT_S)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def test_documents_are_ranked_by_the_scores_of_their_pairs(doors: Doors) -> None:
    pairs = [[QUERY, document] for document in DOCUMENTS]
    classified = post(doors.takeoff, "/classify", text=pairs, consumer_group="ranker")["result"]
    scores = [score for (score,) in classified]
    assert len(set(scores)) == len(scores)
    for port, path in ((doors.front, "/v1/rerank"), (doors.front, "/rerank"), (doors.openai, "/v2/rerank")):
        ranked = post(port, path, model="ranker", query=QUERY, documents=DOCUMENTS)
        results = ranked["results"]
        assert [result["relevance_score"] for result in results] == sorted(scores, reverse=True)
        for result in results:
            assert scores[result["index"]] == result["relevance_score"]
            assert DOCUMENTS[result["index"]] == result["document"]["text"]
        # [CLS] query [SEP] document [SEP], a token a letter
        letters = sum(len(text.split()) for pair in pairs for text in pair)
        assert ranked["usage"]["total_tokens"] == letters + 3 * len(pairs)
    best = post(doors.front, "/v1/rerank", model="ranker", query=QUERY, documents=DOCUMENTS, top_n=2)
    assert best["results"] == results[:2]


def test_a_model_that_does_not_rank_is_refused_by_name(doors: Doors) -> None:
    error = refused(doors.front, "/v1/rerank", model="judge", query=QUERY, documents=DOCUMENTS)
    assert error["param"] == "model"
    assert "this one has 3: 'class 0', 'class 1', 'class 2'" in error["message"]
    error = refused(doors.front, "/v1/rerank", model="embed", query=QUERY, documents=DOCUMENTS)
    assert error["param"] == "model"
    assert "embeds: it can't be asked for this" in error["message"]
    error = refused(doors.front, "/v1/rerank", model="ranker", query=QUERY, documents=["a", "b " * 600])
    assert (error["param"], error["code"]) == ("documents", "context_length_exceeded")
    assert "text 2 of 2 has 605 tokens" in error["message"]


def test_texts_are_classified_as_the_takeoff_api_does(doors: Doors) -> None:
    texts = ["a b", "c d a", "d"]
    takeoff = post(doors.takeoff, "/classify", text=texts, consumer_group="judge")
    answer = post(doors.front, "/v1/classify", model="judge", input=texts)
    assert [each["probs"] for each in answer["data"]] == takeoff["result"]
    for each in answer["data"]:
        assert each["label"] == f"class {max(range(3), key=each['probs'].__getitem__)}"
        assert sum(each["probs"]) == pytest.approx(1, abs=1e-5)
    assert answer["usage"]["prompt_tokens"] == sum(len(text.split()) + 2 for text in texts)


def test_texts_of_encoders_are_tokenized_with_and_without_their_frame(doors: Doors) -> None:
    told = post(doors.front, "/tokenize", model="judge", prompt="a b", return_token_strs=True)
    assert told["token_strs"] == ["[CLS]", "a", "b", "[SEP]"]
    assert (
        told["count"]
        == post(doors.front, "/v1/classify", model="judge", input="a b")["usage"]["total_tokens"]
    )
    bare = post(doors.openai, "/tokenize", model="judge", prompt="a b", add_special_tokens=False)
    assert bare["tokens"] == told["tokens"][1:3]
    assert post(doors.front, "/detokenize", model="judge", tokens=bare["tokens"]) == {"prompt": "a b"}
    assert told["max_model_len"] == 64
    error = refused(doors.front, "/tokenize", model="judge", messages=[{"role": "user", "content": "a"}])
    assert error["param"] == "model"
    assert "has no chat template" in error["message"]


def test_embeddings_of_texts_are_counted_and_token_ids_are_refused(doors: Doors) -> None:
    client = openai.OpenAI(base_url=f"{HOST}:{doors.front}/v1", api_key="unused", max_retries=0)
    answer = client.embeddings.create(model="embed", input=["A cat sleeps.", "cat"])
    assert [len(each.embedding) for each in answer.data] == [384, 384]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 6 + 3
    with pytest.raises(openai.BadRequestError, match="token ids are not taken"):
        client.embeddings.create(model="embed", input=[[101, 4937, 102]])
    with pytest.raises(openai.BadRequestError, match="dimensions is not supported"):
        client.embeddings.create(model="embed", input="cat", dimensions=64)
    with pytest.raises(openai.BadRequestError, match="classifies"):
        client.embeddings.create(model="ranker", input="cat")
