"""What a drafter proposes, and what it learns, on texts written by hand."""

from __future__ import annotations

import random

from takeoff.engine.drafts import Draft, Drafter, Trust

LETTERS = list(range(100, 126))


def drafter_of(prompt: list[int], completion: list[int], predicted: list[int] | None = None) -> Drafter:
    """One that has read both, a token at a time."""
    drafter = Drafter(len(prompt), Trust(), predicted or ())
    for length in range(len(prompt), len(prompt) + len(completion) + 1):
        assert drafter.read([*prompt, *completion][:length], 1_000)
    return drafter


def test_a_text_is_followed_where_it_repeats_its_prompt() -> None:
    drafter = drafter_of([1, *LETTERS, 2], LETTERS[:3])
    assert drafter.propose(5).token_ids == LETTERS[3:8]
    assert drafter.propose(100).token_ids[:24] == [*LETTERS[3:], 2]


def test_the_longest_agreement_is_taken_before_the_latest() -> None:
    prompt = [1, 2, 3, 4, 5, 60, 9, 9, 4, 5, 70, 8, 8]
    assert drafter_of(prompt, [1, 2, 3, 4, 5]).propose(1).token_ids == [60]
    assert drafter_of(prompt, [6, 6, 6, 4, 5]).propose(1).token_ids == [70]


def test_behind_an_edit_the_text_comes_back_to_the_same_passage() -> None:
    comma = [7, 8]  # stands between all values, and last of all where it is no help
    prompt = [*LETTERS[:10], 50, *comma, *LETTERS[10:20], *comma, 99, *comma, 98]
    completion = [*LETTERS[:10], 55, 56, *comma]
    assert drafter_of(prompt, completion).propose(4).token_ids == LETTERS[10:14]


def test_a_text_in_a_loop_is_foretold_beyond_its_own_end() -> None:
    assert drafter_of([9, 9, 9], [1, 2, 3, 1, 2, 3]).propose(7).token_ids == [1, 2, 3, 1, 2, 3, 1]


def test_what_is_forced_comes_first_and_is_certain() -> None:
    drafter = drafter_of([*LETTERS, 1, 2], [5])
    draft = drafter.propose(6, forced=[3, *LETTERS[4:6]])
    assert draft.token_ids == [3, *LETTERS[4:9]]
    assert draft.chances[:3] == [1.0, 1.0, 1.0]
    assert max(draft.chances[3:]) < 1.0
    assert drafter.propose(2, forced=[3, 4, 5]) == Draft([3, 4], [1.0, 1.0])


def test_nothing_is_proposed_of_an_image_or_behind_what_is_predicted() -> None:
    assert drafter_of([1, 2, 3, -50, -51, 4], [1, 2]).propose(5).token_ids == [3]
    assert drafter_of([1, 2], LETTERS[:20], predicted=LETTERS).propose(50).token_ids == LETTERS[20:]


def test_what_is_predicted_is_proposed_before_the_first_token() -> None:
    drafter = drafter_of([1, 2, 3], [], predicted=LETTERS)
    assert drafter.propose(4).token_ids == LETTERS[:4]


def test_expected_tokens_multiply_the_chances() -> None:
    draft = Draft([1, 2], [0.5, 0.5])
    assert draft.expected_tokens(3) == [1.0, 1.5, 1.75, 1.75]


def test_trust_falls_where_texts_only_seem_to_repeat_themselves_and_spreads_to_others() -> None:
    of_all = Trust()
    rng = random.Random(1)
    text = [rng.randrange(12) for _ in range(2_000)]  # pairs recur all the time, and foretell nothing
    drafter = Drafter(10, of_all)
    for length in range(10, len(text)):
        drafter.read(text[:length], 1_000)
    draft = drafter.propose(1)
    assert not draft.chances or draft.chances[0] < 0.3
    assert of_all.chance(2, resumed=False) < 0.2
    assert of_all.chance(20, resumed=False) == Trust().chance(20, resumed=False)


def test_a_long_prompt_is_read_in_portions() -> None:
    drafter = Drafter(100, Trust())
    text = [*range(98), 1, 2]
    assert [drafter.read(text, 40) for _ in range(4)] == [False, False, True, True]
    assert drafter.propose(2).token_ids == [3, 4]
