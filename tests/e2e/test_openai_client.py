"""The `openai` package against the real server."""

from __future__ import annotations

import openai
import pytest


def test_completions_plain_and_streamed_agree(server_url: str) -> None:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none") as client:
        model = client.models.list().data[0].id
        asked = {"model": model, "prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
        whole = client.completions.create(**asked)
        assert whole.choices[0].text.strip().startswith("Paris")
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (5, 12)
        assert whole.choices[0].finish_reason == "length"
        with client.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        ) as stream:
            chunks = list(stream)
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_several_choices_differ_by_seed_and_repeat_with_it(server_url: str) -> None:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none") as client:
        asked = {"model": "primary", "prompt": "Once upon a time", "max_tokens": 16, "n": 3, "seed": 7}
        texts = [choice.text for choice in client.completions.create(**asked).choices]
        assert len(set(texts)) == 3


def test_what_is_not_served_is_refused_by_name(server_url: str) -> None:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as client:
        asked = {"model": "primary", "prompt": "a"}
        with pytest.raises(openai.BadRequestError, match="logprobs is not supported"):
            client.completions.create(**asked, logprobs=3)
        with pytest.raises(openai.BadRequestError, match="did you mean 'temperature'"):
            client.completions.create(**asked, extra_body={"temprature": 1})
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="gpt-9", prompt="a")
