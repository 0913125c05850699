"""Thoughts told apart from answers: however a text is cut into pieces, the same comes out."""

from __future__ import annotations

import pytest

from takeoff.thoughts import (
    SYNTAX,
    Thought,
    ThoughtFormat,
    ThoughtParser,
    ThoughtStart,
    is_thought_open,
    thought_format_of,
)

OPEN = ThoughtStart(format=ThoughtFormat.TAGS, is_open=True)
FREE = ThoughtStart(format=ThoughtFormat.TAGS, is_open=False)

CASES = [
    (OPEN, "Hmm.\n</think>\n\nYes.", "Hmm.", "Yes."),
    (OPEN, "\n a\n\nb \n</think>Yes.\n", "a\n\nb", "Yes.\n"),
    (OPEN, "</think>\n\n\nYes.", "", "\nYes."),
    (OPEN, "Hmm, 1 < 2 </thin", "Hmm, 1 < 2 </thin", ""),
    (OPEN, "Hmm.</think>\n", "Hmm.", ""),
    (OPEN, " \n", "", ""),
    (OPEN, "<think>a</think>b</think>c", "<think>a", "b</think>c"),
    (FREE, "<think>\nHmm.\n</think>\n\nYes.", "Hmm.", "Yes."),
    (FREE, "\n<think></think>\nYes. <think>x</think>", "", "Yes. <think>x</think>"),
    (FREE, "<think>Hmm", "Hmm", ""),
    (FREE, " Yes.\n<think>no</think>", "", " Yes.\n<think>no</think>"),
    (FREE, "<thi", "", "<thi"),
    (FREE, "<thing>", "", "<thing>"),
    (FREE, "", "", ""),
]


def read(start: ThoughtStart, *pieces: str) -> tuple[str, str]:
    parser = ThoughtParser(start)
    found = [each for piece in pieces for each in parser.push(piece)] + list(parser.end())
    assert all(each if isinstance(each, str) else each.text for each in found)
    thoughts = "".join(each.text for each in found if isinstance(each, Thought))
    return thoughts, "".join(each for each in found if isinstance(each, str))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize(("start", "text", "thought", "answer"), CASES)
def test_a_thought_is_told_apart(
    start: ThoughtStart, text: str, thought: str, answer: str, size: int
) -> None:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert read(start, *pieces) == (thought, answer)


@pytest.mark.parametrize("format_", ThoughtFormat)
def test_every_family_has_its_marks(format_: ThoughtFormat) -> None:
    syntax = SYNTAX[format_]
    assert thought_format_of(f"a {syntax.closing} b") is format_
    text = f"{syntax.opening}\nHmm.\n{syntax.closing}\n\nYes."
    assert read(ThoughtStart(format=format_, is_open=False), text) == ("Hmm.", "Yes.")


def test_a_template_without_marks_is_of_a_model_that_does_not_think() -> None:
    assert thought_format_of("{{ messages }} think") is None
    assert thought_format_of(None) is None


@pytest.mark.parametrize(
    ("prompt", "said", "is_open"),
    [
        ("<|user|>x<|assistant|>\n", "", False),
        ("<|user|><think><|assistant|>\n", "", False),
        ("<|user|>x<|assistant|><think>\n", "", True),
        ("<|user|>x<|assistant|><think>\n\n</think>\n\n", "", None),
        ("<|user|>x<|assistant|></think>", "", None),
        ("<|user|>x<|assistant|>The answer", "The answer", None),
        ("<|user|>x<|assistant|><think>Let me", "<think>Let me", True),
        ("<|user|>x<|assistant|><think>a</think>b", "<think>a</think>b", None),
    ],
)
def test_the_prompt_tells_whether_a_thought_is_open(prompt: str, said: str, is_open: bool | None) -> None:
    assert is_thought_open(ThoughtFormat.TAGS, prompt, said) is is_open
