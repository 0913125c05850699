"""What a request may ask for is checked at its birth; events of one that wait are told as one."""

from __future__ import annotations

import pytest

from takeoff.errors import InvalidRequest
from takeoff.request import FinishReason, Request, SamplingParams, TokenEvent, joined
from takeoff.service.intake import check_prompt_logprobs


def test_a_prompt_is_told_with_a_bounded_number_of_logprobs() -> None:
    sampling = SamplingParams(logprobs=19, prompt_logprobs=True)
    check_prompt_logprobs(Request(prompt="a", sampling=sampling), 5_000)
    check_prompt_logprobs(Request(prompt="a", sampling=SamplingParams(logprobs=19)), 5_001)
    with pytest.raises(
        InvalidRequest, match=r"100020 logprobs of the prompt's 5001 tokens .* limit is 100000"
    ):
        check_prompt_logprobs(Request(prompt="a", sampling=sampling), 5_001)
    with pytest.raises(InvalidRequest, match="a prompt with images has no logprobs"):
        check_prompt_logprobs(Request(prompt="a", sampling=sampling, images=(b"",)), 1)


@pytest.mark.parametrize("field", ["stop", "stop_tokens"])
def test_stop_strings_are_unicode_of_bounded_length_and_number(field: str) -> None:
    SamplingParams(**{field: ("\n\n", "東京", "x" * 1_000)})
    for strings, says in (
        (("a", "\ud800"), rf"{field} strings must be Unicode, got '\\ud800'"),
        (("",), "1 to 1000 characters, got 0"),
        (("x" * 1_001,), "1 to 1000 characters, got 1001"),
        (tuple("x" * 33), f"the number of {field} strings must be between 0 and 32, got 33"),
    ):
        with pytest.raises(InvalidRequest, match=says) as refused:
            SamplingParams(**{field: strings})
        assert refused.value.param == field


def test_a_logit_bias_is_bounded_in_number_and_size() -> None:
    SamplingParams(logit_bias=dict.fromkeys(range(1_024), -100.0))
    for biases, says in (
        (dict.fromkeys(range(1_025), 1.0), "the number of logit_bias entries must be between 0 and 1024"),
        ({7: float("nan")}, r"logit_bias\[7\] must be between"),
        ({7: 2e9}, r"logit_bias\[7\] must be between"),
    ):
        with pytest.raises(InvalidRequest, match=says) as refused:
            SamplingParams(logit_bias=biases)
        assert refused.value.param == "logit_bias"


@pytest.mark.parametrize(
    "field", ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"]
)
def test_no_number_is_without_bounds(field: str) -> None:
    for value in (float("nan"), float("inf"), float("-inf"), 1e300, -1e300):
        with pytest.raises(InvalidRequest, match=f"{field} must be between") as refused:
            SamplingParams(**{field: value})
        assert refused.value.param == field


def test_joined_events_end_as_the_last_does() -> None:
    events = [
        TokenEvent(request_id=7, token_ids=(1,), text="a", cached_tokens=3),
        TokenEvent(request_id=7, token_ids=(2,), text="b", finish_reason=FinishReason.STOP, stop_string=";"),
    ]
    assert joined(events) == TokenEvent(
        request_id=7,
        token_ids=(1, 2),
        text="ab",
        finish_reason=FinishReason.STOP,
        stop_string=";",
        cached_tokens=3,
    )
