from __future__ import annotations

from takeoff.prepare.special_texts import SpecialTexts


def found(special: SpecialTexts, text: str) -> list[str]:
    return [text[start:end] for start, end in special.spans(text)]


def test_the_longest_text_wins_and_none_overlap() -> None:
    special = SpecialTexts(["<s>", "<s>x", "</s>", ""])
    assert found(special, "a<s>b<s>xx</s><s<s>") == ["<s>", "<s>x", "</s>", "<s>"]


def test_a_vocabulary_without_control_tokens_finds_nothing() -> None:
    assert found(SpecialTexts([]), "<s> anything") == []


def test_texts_shorter_than_a_prefix_are_found() -> None:
    assert found(SpecialTexts(["#", "<|im_end|>"]), "a#b<|im_end|>") == ["#", "<|im_end|>"]


def test_a_megabyte_of_near_misses_is_searched_to_its_end() -> None:
    special = SpecialTexts([f"<unused{n}>" for n in range(6_000)])
    assert found(special, "<unused" * 150_000 + "<unused17>") == ["<unused17>"]
