"""Models that think: scripted token ids through the real preparer, constraint, parser and SSE."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.http.door import FakeService, post
from tests.prepare.family_vocabulary import write_family_vocabulary
from tests.prepare.test_conversation import TEMPLATES, builder, called, say, text_of
from tests.prepare.test_tool_grammar import NOW, WEATHER, tools_constraint

from takeoff.call_formats import call_format_of
from takeoff.engine.arrival import showing
from takeoff.engine.constraint import ConstraintCompiler
from takeoff.engine.text_stream import TextStream
from takeoff.errors import InvalidRequest
from takeoff.prepare.constraint_trial import ConstraintTrial
from takeoff.prepare.tokenizer import Tokenizer
from takeoff.request import Constraint, ConstraintKind, Conversation, FinishReason, Request, TokenEvent
from takeoff.service.generation import Generation
from takeoff.thoughts import ThoughtFormat, ThoughtStart

PATH = "/v1/chat/completions"
HELLO = {"role": "user", "content": "Hello"}
NUMBER = Constraint(ConstraintKind.REGEX, "[0-9]+")
MAGISTRAL = "{{ messages[-1].content }}[/INST]{# [THINK] [/THINK] #}"
GEMMA = "{{ messages[-1].content }}<end_of_turn>{# <|channel>thought <channel|> #}"


@pytest.fixture(scope="module")
def families(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("families") / "vocabulary.gguf"
    write_family_vocabulary(smollm2_path, path)
    return Tokenizer(str(path))


class Said:
    """What a model said, as the engine would send it, and its service: a real Generation tells it."""

    def __init__(
        self, tokenizer: Tokenizer, template: str, text: str, *, reason: FinishReason = FinishReason.STOP,
        constraint: Constraint | None = None, conversation: Conversation | None = None,
    ) -> None:  # fmt: skip
        self.prompt = builder(tokenizer, template).build_chat(conversation or say("Hello"))
        self.thought = self.prompt.thought
        self.reason = reason
        self.call_format = call_format_of(template)
        controls = {} if self.thought is None else self.thought.control_texts
        piece = showing(controls, lambda each: b"" if tokenizer.is_control(each) else tokenizer.piece(each))
        stream = TextStream(piece, (), ())
        allowed = self._allowed(tokenizer, constraint)
        self.token_ids = tokenizer.tokenize(text, parse_special=True)
        self.pieces = []
        for token_id in self.token_ids:
            assert allowed(token_id), (self.pieces, tokenizer.piece(token_id))
            self.pieces.append(stream.push(token_id, may_stop=True)[0])

    def _allowed(self, tokenizer: Tokenizer, constraint: Constraint | None) -> Any:
        if constraint is None:
            return lambda _: True
        vocabulary = tokenizer.for_constraints()
        grammar = ConstraintTrial(vocabulary, tokenizer).grammar(constraint, self.thought)
        state = self.state = ConstraintCompiler(vocabulary, tokenizer.n_vocab).compile(grammar)

        def check(token_id: int) -> bool:
            is_free = not state.blocked()[token_id]
            state.consume(token_id)
            return is_free

        return check

    def asked(self, *, is_slow: bool, **body: Any) -> Any:
        """The answer of the door, to a client that reads slowly or fast."""
        service = _Scripted(self, is_slow=is_slow)
        return post(service, PATH, messages=[HELLO], **body)

    def whole(self, **body: Any) -> dict[str, Any]:
        """The unstreamed answer; streamed, it says the same, however the client reads."""
        answer = self.asked(is_slow=True, **body).json
        choice = dict(answer["choices"][0])
        for is_slow in (True, False):
            options = {"stream": True, "stream_options": {"include_usage": True}}
            *chunks, last, done = self.asked(is_slow=is_slow, **body, **options).events()
            assert (done, last["usage"]) == ("[DONE]", answer["usage"])
            deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
            for name in ("content", "reasoning_content"):
                joined = "".join(delta.get(name) or "" for delta in deltas)
                assert joined == (choice["message"].get(name) or "")
            arguments = [
                call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", [])
            ]
            calls = choice["message"].get("tool_calls", [])
            assert "".join(arguments) == "".join(call["function"]["arguments"] for call in calls)
            assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
        self.usage = answer["usage"]
        return choice

    @property
    def reasoning_tokens(self) -> int:
        return int(self.usage["completion_tokens_details"]["reasoning_tokens"])


class _Scripted(FakeService):
    def __init__(self, said: Said, *, is_slow: bool) -> None:
        super().__init__()
        self._said = said
        self._is_slow = is_slow

    async def generate(self, request: Request) -> Any:
        said = self._said
        generation = Generation(1, len(said.prompt.token_ids), lambda _: None, said.thought)
        generation.call_format = said.call_format
        self._pushing = asyncio.create_task(self._push(generation))
        if self._is_slow:  # the door begins to read when everything was said
            await self._pushing
        return generation

    async def _push(self, generation: Generation) -> None:
        last = len(self._said.pieces) - 1
        for i, (token_id, text) in enumerate(zip(self._said.token_ids, self._said.pieces, strict=True)):
            reason = self._said.reason if i == last else None
            generation.push(TokenEvent(request_id=1, token_ids=(token_id,), text=text, finish_reason=reason))
            if not self._is_slow:
                await asyncio.sleep(0)


@pytest.fixture(params=["chatml", "deepseek"])
def template(request: pytest.FixtureRequest) -> str:
    """One whose model opens the thought, and one that opens it in the prompt."""
    return TEMPLATES[request.param]


def opened(template: str, text: str) -> str:
    return text if template == TEMPLATES["deepseek"] else "<think>\n" + text


def test_a_thought_is_no_part_of_the_content(families: Tokenizer, template: str) -> None:
    said = Said(families, template, opened(template, "They greet.\nI do too.\n</think>\n\nHello!"))
    choice = said.whole()
    assert choice["message"]["reasoning_content"] == "They greet.\nI do too."
    assert choice["message"]["content"] == "Hello!"
    assert choice["finish_reason"] == "stop"
    end = families.tokenize("</think>", parse_special=True)
    assert said.reasoning_tokens == said.token_ids.index(*end) + 1
    assert said.usage["completion_tokens"] == len(said.token_ids)


def test_an_answer_that_is_cut_inside_a_thought_has_no_content(families: Tokenizer, template: str) -> None:
    text = opened(template, "They greet, so I </")
    said = Said(families, template, text, reason=FinishReason.LENGTH)
    choice = said.whole()
    assert choice["message"]["content"] == ""
    assert choice["message"]["reasoning_content"] == "They greet, so I </"
    assert choice["finish_reason"] == "length"
    assert said.reasoning_tokens == len(said.token_ids)


def test_who_does_not_think_thinks_nothing(families: Tokenizer) -> None:
    said = Said(families, TEMPLATES["chatml"], "Hello <think>you</think>!")
    assert said.whole()["message"]["content"] == "Hello <think>you</think>!"
    assert "reasoning_content" not in said.whole()["message"]
    assert said.reasoning_tokens == 0


def test_what_constrains_an_answer_holds_behind_the_thought(families: Tokenizer, template: str) -> None:
    text = opened(template, "Is it 4? {Or} 5.\n</think>\n\n42")
    said = Said(families, template, text, constraint=NUMBER)
    assert said.state.accepts(text)
    assert not said.state.accepts(text + "x")
    assert said.state.accepts("42") is (template == TEMPLATES["chatml"])  # a model that does not think
    assert not said.state.accepts(opened(template, "Hmm.</think> 42"))
    choice = said.whole()
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == (
        "42",
        "Is it 4? {Or} 5.",
    )


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_calls_follow_a_thought_that_may_speak_of_them(
    families: Tokenizer, template: str, choice: str
) -> None:
    plain = '{"name": "weather", "arguments": {"city": "Rome"}}'
    call = f"<tool_call>\n{plain}\n</tool_call>" if template == TEMPLATES["chatml"] else plain
    constraint = tools_constraint([WEATHER, NOW], choice)
    text = opened(template, f'Shall I write <tool_call> or {{"name": "wether"?\n</think>\n\n{call}')
    said = Said(families, template, text, constraint=constraint)
    assert not said.state.accepts(text.replace("city", "town"))
    tools = [{"type": "function", "function": function} for function in (WEATHER, NOW)]
    whole = said.whole(tools=tools, tool_choice=choice)
    (found,) = whole["message"]["tool_calls"]
    assert found["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert whole["message"]["content"] is None
    assert whole["message"]["reasoning_content"].startswith("Shall I write <tool_call>")
    assert whole["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("template", "thought"),
    [(MAGISTRAL, "[THINK]Hmm [x].[/THINK]"), (GEMMA, "<|channel>thought\nHmm [x].<channel|>")],
)
def test_marks_that_are_control_tokens_are_seen(families: Tokenizer, template: str, thought: str) -> None:
    said = Said(families, template, thought + "\n\n42", constraint=NUMBER)
    assert said.thought is not None
    assert len(said.thought.control_texts) == 2
    assert said.state.accepts(thought + "\n\n42", said.thought.control_texts)
    assert not said.state.accepts(thought + "\n\nx", said.thought.control_texts)
    message = said.whole()["message"]
    assert (message["content"], message["reasoning_content"]) == ("42", "Hmm [x].")


def test_the_prompt_says_whether_a_thought_may_come(families: Tokenizer) -> None:
    def start(template: str, conversation: Conversation) -> ThoughtStart | None:
        return builder(families, TEMPLATES[template]).build_chat(conversation).thought

    assert start("chatml", say("Hi")) == ThoughtStart(format=ThoughtFormat.TAGS, is_open=False)
    assert start("deepseek", say("Hi")) == ThoughtStart(format=ThoughtFormat.TAGS, is_open=True)
    assert start("chatml", say("Hi", template_values={"enable_thinking": False})) is None
    assert start("chatml", say("Hi", "Well, ")) is None
    begun = start("chatml", say("Hi", "<think>\nThey greet, so"))
    assert begun == ThoughtStart(format=ThoughtFormat.TAGS, is_open=True)
    assert start("llama3", say("Hi")) is None


def test_the_thought_of_the_last_turn_goes_back_to_the_template(families: Tokenizer) -> None:
    conversation = called("{}")
    conversation.messages[1]["reasoning_content"] = "I ask <|im_end|>."
    text = text_of(families, builder(families, TEMPLATES["chatml"]).build_chat(conversation).token_ids)
    assert "assistant\n<think>\nI ask <|im_end|>.\n</think>\n\n" in text


EFFORTS = (
    "{{ reasoning_effort }}|{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
    "{{ thinking }}</think>"
)
SWITCH = TEMPLATES["chatml"]
ALWAYS = TEMPLATES["deepseek"]
NEVER = TEMPLATES["llama3"]


@pytest.mark.parametrize(
    ("template", "effort", "end"),
    [
        (EFFORTS, "high", "high|True</think>"),
        (EFFORTS, "none", "none|False</think>"),
        (EFFORTS, None, "|False</think>"),
        (SWITCH, "none", "<think>\n\n</think>\n\n"),
        (SWITCH, "medium", "assistant\n"),
        (ALWAYS, "medium", "<think>\n"),
        (NEVER, "none", "assistant<|end_header_id|>\n\n"),
    ],
)
def test_effort_is_the_templates(families: Tokenizer, template: str, effort: str | None, end: str) -> None:
    prompt = builder(families, template).build_chat(say("Hi", reasoning_effort=effort))
    assert text_of(families, prompt.token_ids).endswith(end)


@pytest.mark.parametrize(
    ("template", "effort", "why"),
    [
        (SWITCH, "high", "its model thinks or does not: send none or medium"),
        (ALWAYS, "none", "its model always thinks"),
        (ALWAYS, "low", "its model always thinks"),
        (NEVER, "medium", "its model does not think"),
    ],
)
def test_an_effort_that_the_template_does_not_know_is_refused(
    families: Tokenizer, template: str, effort: str, why: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"has no reasoning_effort '{effort}', {why}") as caught:
        builder(families, template).build_chat(say("Hi", reasoning_effort=effort))
    assert caught.value.param == "reasoning_effort"


def test_an_effort_and_a_variable_that_contradict_each_other_are_refused(families: Tokenizer) -> None:
    values = {"enable_thinking": True}
    assert builder(families, SWITCH).build_chat(say("Hi", reasoning_effort="medium", template_values=values))
    with pytest.raises(
        InvalidRequest, match="enable_thinking is True, and the reasoning_effort makes it False"
    ):
        builder(families, SWITCH).build_chat(say("Hi", reasoning_effort="none", template_values=values))
