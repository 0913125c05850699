"""/v1/rerank and /v1/classify: documents in order, classes by name, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from tests.http.door import Answer, FakeService, ask, make_door, post

from takeoff.errors import InvalidRequest
from takeoff.http.openai.classify import ClassifyBody
from takeoff.http.openai.fields import OpenAIBody
from takeoff.http.openai.reference import openai_page
from takeoff.http.openai.rerank import RerankBody
from takeoff.request import EncodeRequest, Encoding, Task

DOCUMENTS = ["ab", "abcd", "", "abc"]
RERANK_PATHS = ["/v1/rerank", "/v2/rerank", "/rerank"]


class Ranker(FakeService):
    """A service whose model has one class: a pair's score is the length of its document."""

    async def encode(self, request: EncodeRequest) -> Encoding:
        encoding = await super().encode(request)
        scores = [[float(len(document))] for _, document in request.texts]
        return Encoding(vectors=scores, num_tokens=encoding.num_tokens, labels=("LABEL_0",))


def rerank(**body: Any) -> Answer:
    return post(Ranker(), "/v1/rerank", **({"query": "q", "documents": DOCUMENTS} | body))


@pytest.mark.parametrize("door", ["front", "openai"])
@pytest.mark.parametrize("path", RERANK_PATHS)
def test_documents_come_back_the_best_first_with_their_places(path: str, door: str) -> None:
    service = Ranker()
    body = {"model": "primary", "query": "q", "documents": DOCUMENTS}
    answer = ask(make_door(service, door), "POST", path, body).json
    assert answer.pop("id").startswith("rerank-")
    assert answer == {
        "object": "list",
        "model": "primary",
        "usage": {"prompt_tokens": 28, "total_tokens": 28},
        "results": [
            {"index": 1, "relevance_score": 4.0, "document": {"text": "abcd"}},
            {"index": 3, "relevance_score": 3.0, "document": {"text": "abc"}},
            {"index": 0, "relevance_score": 2.0, "document": {"text": "ab"}},
            {"index": 2, "relevance_score": 0.0, "document": {"text": ""}},
        ],
    }
    pairs = tuple(("q", document) for document in DOCUMENTS)
    assert service.encodings == [EncodeRequest(task=Task.CLASSIFY, texts=pairs)]


@pytest.mark.parametrize(
    ("top_n", "indices"),
    [(None, [1, 3, 0, 2]), (0, [1, 3, 0, 2]), (1, [1]), (2, [1, 3]), (9, [1, 3, 0, 2])],
)
def test_top_n_are_the_best(top_n: int | None, indices: list[int]) -> None:
    answer = rerank(top_n=top_n).json
    assert [result["index"] for result in answer["results"]] == indices
    assert answer["usage"]["total_tokens"] == 28  # all were computed


def test_documents_of_equal_scores_keep_their_order() -> None:
    results = rerank(documents=["b", "aa", "a", "c"]).json["results"]
    assert [result["index"] for result in results] == [1, 0, 2, 3]


def test_documents_may_be_objects_and_need_not_be_told_again() -> None:
    results = rerank(documents=[{"text": "a"}, "bc"], return_documents=False, rank_fields=["text"])
    assert results.json["results"] == [
        {"index": 1, "relevance_score": 2.0},
        {"index": 0, "relevance_score": 1.0},
    ]
    told = rerank(documents=[{"text": "a"}], return_documents=None).json["results"]
    assert told[0]["document"] == {"text": "a"}


def test_an_unknown_field_of_a_document_is_refused_by_its_path_or_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    documents = ["a", {"text": "b", "txt": "c"}]
    error = rerank(documents=documents).json["error"]
    assert error["message"] == "unknown field 'documents[1].txt'; did you mean 'text'?"
    assert error["param"] == "documents[1].txt"
    app = make_door(Ranker(), lenient=True)
    with caplog.at_level(logging.WARNING):
        assert ask(app, "POST", "/v1/rerank", {"query": "q", "documents": documents}).status == 200
    assert caplog.messages == ["ignored the unknown field 'documents[1].txt'"]


@pytest.mark.parametrize("path", RERANK_PATHS)
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": [1]}, "documents"),
        ({"documents": [{"image": "a"}]}, "documents"),
        ({"documents": ["a"] * 1_001}, "documents"),
        ({"query": None}, "query"),
        ({"query": ["a"]}, "query"),
        ({"top_n": -1}, "top_n"),
        ({"top_n": 2**31}, "top_n"),
        ({"return_documents": "perhaps"}, "return_documents"),
        ({"rank_fields": ["title"]}, "rank_fields"),
        ({"max_tokens_per_doc": 4096}, "max_tokens_per_doc"),
        ({"texts": ["a"]}, "texts"),
        ({"model": 5}, "model"),
    ],
)
def test_what_is_not_served_is_refused_in_openais_shape(path: str, body: dict[str, Any], param: str) -> None:
    service = Ranker()
    answer = post(service, path, **({"query": "q", "documents": ["a"]} | body))
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert service.encodings == []


def test_of_a_pair_both_texts_count() -> None:
    app = make_door(Ranker(), max_prompt_string_bytes=4)
    assert ask(app, "POST", "/rerank", {"query": "ab", "documents": ["cd"]}).status == 200
    answer = ask(app, "POST", "/rerank", {"query": "ab", "documents": ["cde"]})
    assert (answer.status, answer.json["error"]["param"]) == (413, "documents")


def test_a_model_that_can_not_rank_is_told_by_name() -> None:
    error = post(FakeService(), "/v1/rerank", query="q", documents=["a"]).json["error"]
    assert error["param"] == "model"
    assert "has one class, and this one has 3: 'good', 'bad', 'odd'" in error["message"]
    service = FakeService()
    service.refusal = InvalidRequest("the model minilm of 'embed' embeds", param="group")
    error = post(service, "/v1/rerank", query="q", documents=["a"], model="embed").json["error"]
    assert (error["param"], error["message"]) == ("model", "the model minilm of 'embed' embeds")
    answer = post(FakeService(), "/v2/rerank", query="q", documents=["a"], model="gpt-9")
    assert (answer.status, answer.json["error"]["param"]) == (404, "model")


@pytest.mark.parametrize("door", ["front", "openai"])
def test_a_text_has_the_class_that_scores_most_by_name(door: str) -> None:
    service = FakeService()
    body = {"model": "primary", "input": ["abc", ""], "user": "ann", "use_activation": True}
    answer = ask(make_door(service, door), "POST", "/v1/classify", body).json
    assert answer.pop("id").startswith("classify-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "list",
        "model": "primary",
        "data": [
            {"index": 0, "label": "bad", "probs": [1.0, 3.0, 0.1], "num_classes": 3},
            {"index": 1, "label": "good", "probs": [1.0, 0.0, 0.1], "num_classes": 3},
        ],
        "usage": {"prompt_tokens": 14, "total_tokens": 14, "completion_tokens": 0},
    }
    assert service.encodings == [EncodeRequest(task=Task.CLASSIFY, texts=("abc", ""))]
    assert len(post(FakeService(), "/v1/classify", input="a").json["data"]) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", None),
        ("input", []),
        ("input", [["a", "b"]]),
        ("use_activation", False),
        ("truncate_prompt_tokens", 128),
        ("priority", 1),
        ("text", "a"),
    ],
)
def test_what_classify_does_not_serve_is_refused_by_name(field: str, value: object) -> None:
    service = FakeService()
    answer = post(service, "/v1/classify", **({"input": "a"} | {field: value}))
    assert (answer.status, answer.json["error"]["param"]) == (400, field)
    assert service.encodings == []


@pytest.mark.parametrize(("path", "body"), [("/v1/classify", ClassifyBody), ("/v1/rerank", RerankBody)])
def test_the_reference_has_a_line_for_every_field(path: str, body: type[OpenAIBody]) -> None:
    assert all(field.description for field in body.model_fields.values())
    assert not body.unserved.keys() & body.model_fields.keys()
    section = openai_page().partition(f"## {path}")[2].partition("\n## ")[0]
    for name in (*body.model_fields, *body.unserved):
        assert f"| `{name}` | " in section
