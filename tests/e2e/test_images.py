"""Images through the real doors: the default model with a projector of random weights."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image as Pillow
from tests.cli.test_serve import LIMIT_S
from tests.clients.doors import HOST, chat_reader, serving_manifest, write_manifest
from tests.e2e.processes import ended, metric, wait_until
from tests.http.test_sse import parsed
from tests.models.vision_files import NUM_TOKENS, write_projector

from takeoff.service.intake import MAX_OPEN_IMAGES

CONTEXT = 256
QUESTION = "What is in this picture?"


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (80, 60), colour).save(file, "PNG")
    return file.getvalue()


RED, BLUE = png((250, 10, 10)), png((10, 10, 250))


class Door:
    """One server: `seeing` reads images, `primary` does not."""

    def __init__(self, takeoff: str, front: str) -> None:
        self.takeoff, self.front = takeoff, front

    def post(self, path: str, image: bytes, **fields: Any) -> requests.Response:
        body = {"text": QUESTION, "max_new_tokens": 12, "consumer_group": "seeing"} | fields
        parts = {"json_data": (None, json.dumps(body)), "image_data": ("a.png", image)}
        return requests.post(self.takeoff + path, files=parts, timeout=LIMIT_S, stream=True)

    def answer(self, image: bytes, **fields: Any) -> Any:
        answer = self.post("/image_generate", image, **fields)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("images")
    projector = write_projector(folder / "mmproj.gguf", n_embd=576)
    small = {"max_batch_size": 2, "max_sequence_length": CONTEXT}
    readers = {
        "seeing": chat_reader(smollm2_path, mmproj=projector, **small) | {"consumer_group": "seeing"},
        "plain": chat_reader(smollm2_path, **small),
    }
    with serving_manifest(write_manifest(folder, readers)) as (server, doors):
        front = server.wait_ready()
        assert "images   " in server.said
        yield Door(f"{HOST}:{doors.takeoff}", front)


def test_the_answer_depends_on_the_image_and_a_stream_joins_to_it(door: Door) -> None:
    red, blue = door.answer(RED)["text"], door.answer(BLUE)["text"]
    assert red != blue
    for image, text in ((RED, red), (BLUE, blue)):
        assert door.answer(image)["text"] == text
        streamed = door.post("/image_generate_stream", image)
        assert "".join(data for _, data in parsed(streamed.iter_content(5))) == text


def test_an_image_counts_as_tokens_and_is_found_again(door: Door) -> None:
    text = "Describe the weather there."
    words = requests.post(
        f"{door.takeoff}/tokenize/seeing", json={"text": text, "use_chat_template": True}, timeout=LIMIT_S
    ).json()["tokens_count"]
    green = png((10, 250, 10))
    first = door.answer(green, text=text, return_metadata=True)["metadata"]
    assert first["prompt_tokens"] == words + NUM_TOKENS["mlp"]
    again = door.answer(green, text=text, return_metadata=True)["metadata"]
    assert again["cached_tokens"] >= NUM_TOKENS["mlp"]


def test_a_list_of_texts_asks_the_same_image(door: Door) -> None:
    alone = [door.answer(RED, text=text)["text"] for text in (QUESTION, "Which colour?")]
    assert door.answer(RED, text=[QUESTION, "Which colour?"]) == {"text": alone}


def test_a_chat_reads_images_where_they_stand_plain_and_streamed(door: Door) -> None:
    told, chats = [], [[RED, QUESTION], [BLUE, QUESTION], [QUESTION, BLUE], [RED, QUESTION, BLUE]]
    for parts in chats:
        answer = chat(door, parts, logprobs=True)
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        message = choice["message"]["content"]
        sure = round(choice["logprobs"]["content"][0]["logprob"], 3)  # of random images: two may get one text
        lines = chat(door, parts, stream=True).iter_lines()
        chunks = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")]
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == message
        told.append(((message, sure), answer.json()["usage"]["prompt_tokens"]))
    assert len({said for said, _ in told}) == len(chats)
    (_, words), *_, (_, with_another) = told
    assert with_another == words + NUM_TOKENS["mlp"] + 1  # a line of its own
    alone = door.answer(RED, text=QUESTION, return_metadata=True)
    assert alone["metadata"]["prompt_tokens"] == words - 1


def test_a_chat_with_images_that_cannot_be_read_is_refused_by_the_place(door: Door) -> None:
    for parts, model, message in [
        ([RED, QUESTION], "primary", "the reader plain reads no images: its model has no projector"),
        ([b"hello", QUESTION], "seeing", "the image can't be read"),
        ([RED, " ".join(["word"] * CONTEXT)], "seeing", f"but a sequence holds {CONTEXT}"),
    ]:
        answer = chat(door, parts, model=model)
        assert answer.status_code == 400, answer.text
        assert message in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == "messages"


def test_a_response_reads_images_as_a_chat_does(door: Door) -> None:
    for parts in ([RED, QUESTION, BLUE], [BLUE, QUESTION]):
        content = [
            {"type": "input_text", "text": part}
            if isinstance(part, str)
            else {
                "type": "input_image",
                "image_url": f"data:image/png;base64,{base64.b64encode(part).decode()}",
                "detail": "auto",
            }
            for part in parts
        ]
        body = {"model": "seeing", "input": [{"role": "user", "content": content}], "temperature": 0}
        url = f"{door.front}/v1/responses"
        answer = requests.post(url, json={**body, "max_output_tokens": 12}, timeout=LIMIT_S).json()
        wanted = chat(door, parts).json()
        assert answer["output"][0]["content"][0]["text"] == wanted["choices"][0]["message"]["content"]
        assert answer["usage"]["input_tokens"] == wanted["usage"]["prompt_tokens"]
        refused = requests.post(url, json={**body, "model": "primary"}, timeout=LIMIT_S)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "input"


def chat(door: Door, parts: list[bytes | str], **fields: Any) -> requests.Response:
    """An answer to a message of texts and images."""
    content: list[dict[str, Any]] = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{base64.b64encode(part).decode()}"},
        }
        for part in parts
    ]
    body = {"model": "seeing", "messages": [{"role": "user", "content": content}], "max_tokens": 12}
    body |= {"temperature": 0} | fields
    stream = bool(fields.get("stream"))
    return requests.post(f"{door.front}/v1/chat/completions", json=body, timeout=LIMIT_S, stream=stream)


def test_anthropics_messages_read_the_same_images_and_count_their_tokens(door: Door) -> None:
    def image(file: bytes) -> dict[str, Any]:
        data = base64.b64encode(file).decode()
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}

    text = {"type": "text", "text": QUESTION}
    use = {"type": "tool_use", "id": "toolu_abcdefghi", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": [image(BLUE)]}
    called = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result, text]},
    ]
    for messages in ([{"role": "user", "content": [image(RED), text]}], called):
        body: dict[str, Any] = {"model": "seeing", "messages": messages}
        url = f"{door.front}/v1/messages"
        answer = requests.post(url, json=body | {"max_tokens": 12, "temperature": 0}, timeout=LIMIT_S).json()
        (block,) = answer["content"]
        assert block["text"]
        if messages is not called:
            told = chat(door, [RED, QUESTION]).json()
            assert block["text"] == told["choices"][0]["message"]["content"]
        usage = answer["usage"]
        counted = requests.post(f"{url}/count_tokens", json=body, timeout=LIMIT_S).json()["input_tokens"]
        assert counted == usage["input_tokens"] + usage["cache_read_input_tokens"]
        assert counted > NUM_TOKENS["mlp"]
    plain = requests.post(url, json=body | {"model": "primary", "max_tokens": 12}, timeout=LIMIT_S)
    assert plain.status_code == 400
    assert plain.json()["error"]["message"].startswith("messages: the reader plain reads no images")


def test_a_constraint_holds_for_an_answer_to_an_image(door: Door) -> None:
    assert door.answer(BLUE, regex_string="(red|blue)")["text"] in ("red", "blue")


def test_a_model_without_a_projector_says_so(door: Door) -> None:
    for path in ("/image_generate", "/image_generate_stream"):
        answer = door.post(path, RED, consumer_group="primary")
        assert answer.status_code == 400
        assert "the reader plain reads no images: its model has no projector" in answer.text
        assert "--mmproj" in answer.text


def test_bad_images_are_the_clients_fault_and_the_server_goes_on(door: Door) -> None:
    for image, message in [
        (b"hello", "the image can't be read"),
        (RED[: len(RED) // 2], "the image can't be read"),
    ]:
        for path in ("/image_generate", "/image_generate_stream"):
            answer = door.post(path, image)
            assert (answer.status_code, message in answer.text) == (400, True), answer.text
    long = " ".join(["word"] * (CONTEXT - NUM_TOKENS["mlp"] - 10))
    for path in ("/image_generate", "/image_generate_stream"):
        answer = door.post(path, RED, text=long)
        assert answer.status_code == 400
        assert f"but a sequence holds {CONTEXT}" in answer.text
    assert door.post("/image_generate", RED, prompt_max_tokens=20).status_code == 400
    assert door.answer(RED)["text"] == door.answer(RED)["text"]


def test_whoever_leaves_frees_the_slot(door: Door) -> None:
    before = ended(door.front)["cancelled"]
    answer = door.post("/image_generate_stream", RED, max_new_tokens=150, text="Tell a long story.")
    next(answer.iter_content(8))
    answer.close()
    wait_until(lambda: ended(door.front)["cancelled"] == before + 1, "the cancellation")
    wait_until(lambda: metric(door.front, "takeoff_requests_open") == 0, "no request is open")


def test_more_different_images_than_may_be_open_are_told_to_come_again(door: Door) -> None:
    answers: list[requests.Response] = []
    try:
        for number in range(MAX_OPEN_IMAGES + 1):
            image = png((number, 200, 9))
            answers += [door.post("/image_generate_stream", image, max_new_tokens=150, text="Go on.")]
        assert [answer.status_code for answer in answers] == [200] * MAX_OPEN_IMAGES + [429]
        assert int(answers[-1].headers["retry-after"]) >= 1
    finally:
        for answer in answers:
            answer.close()
    wait_until(lambda: metric(door.front, "takeoff_requests_open") == 0, "no request is open")
    assert door.answer(png((0, 200, 99)))["text"]
