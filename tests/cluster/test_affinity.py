"""Which replica a prompt goes to: by numbers alone, without Ray."""

from __future__ import annotations

import random
import time

import msgspec
import pytest
from tests.cluster.fake_handle import make_submit

from takeoff.cluster import affinity
from takeoff.cluster.affinity import BELIEVED_COMPLETION, BLOCK, Affinity, blocks_of

PROMPT = tuple(range(10 * BLOCK))
NAMES = [f"r{number}" for number in range(4)]
NONE_OPEN = dict.fromkeys(NAMES, 0)


def blocks(*prompt: int) -> list[bytes]:
    return blocks_of(make_submit(1, *prompt))


def made(seed: int = 1) -> Affinity:
    made = Affinity(random.Random(seed))
    made.keep(NAMES)
    return made


def chosen(
    choosing: Affinity, prompt: tuple[int, ...] = PROMPT, num_open: dict[str, int] | None = None
) -> set[str]:
    """All that are chosen, whichever two are drawn."""
    args = blocks(*prompt), len(prompt), num_open or NONE_OPEN
    return {choosing.choose(*args) for _ in range(50)}


def place(
    choosing: Affinity, name: str, call: str = "c", prompt: tuple[int, ...] = PROMPT, completion: int = 0
) -> None:
    choosing.placed(call, name, blocks(*prompt), len(prompt), completion)


# --- prompts ------------------------------------------------------------------------------------


def test_prompts_have_as_many_blocks_in_common_as_whole_blocks_of_their_beginnings() -> None:
    first, second = blocks(*PROMPT), blocks(*PROMPT[: 3 * BLOCK + 1], 7, *PROMPT[3 * BLOCK + 2 :])
    assert len(first) == len(second) == 10
    assert first[:3] == second[:3]
    assert not set(first[3:]) & set(second[3:]), "a block stands for all that is before it too"


@pytest.mark.parametrize(
    ("length", "number"), [(1, 0), (BLOCK - 1, 0), (BLOCK, 1), (2 * BLOCK - 1, 1), (2 * BLOCK, 2)]
)
def test_a_block_that_is_not_whole_is_none(length: int, number: int) -> None:
    assert len(blocks(*range(length))) == number


def test_tenants_and_adapters_have_no_blocks_in_common() -> None:
    submit = make_submit(1, *PROMPT)
    others = [
        msgspec.structs.replace(submit, **changes)
        for changes in ({}, {"tenant": "a"}, {"tenant": "b"}, {"lora": "a"}, {"tenant": "a", "lora": "a"})
    ]
    assert len({block for other in others for block in blocks_of(other)}) == 10 * len(others)
    assert blocks_of(msgspec.structs.replace(submit, request_id=2, emitted_token_ids=[1])) == blocks(*PROMPT)


# --- choosing -----------------------------------------------------------------------------------


def test_the_replica_that_has_computed_the_beginning_is_taken_whichever_are_drawn() -> None:
    choosing = made()
    place(choosing, "r2")
    choosing.ended("c")
    assert chosen(choosing) == {"r2"}
    assert chosen(choosing, PROMPT[: 4 * BLOCK]) == {"r2"}
    assert chosen(choosing, (*PROMPT, *range(500))) == {"r2"}
    assert chosen(choosing, PROMPT[1:]) == set(NAMES)


def test_of_two_that_know_it_the_one_that_knows_more_is_taken() -> None:
    choosing = made()
    place(choosing, "r1", prompt=PROMPT[: 3 * BLOCK])
    choosing.ended("c")
    place(choosing, "r3")
    choosing.ended("c")
    assert chosen(choosing) == {"r3"}


def test_one_that_knows_it_gives_way_when_waiting_there_costs_more_than_computing_it_elsewhere() -> None:
    choosing = made()
    place(choosing, "r0")
    choosing.ended("c")
    place(choosing, "r0", call="other", prompt=tuple(range(1_000, 999 + 2 * len(PROMPT) - 1)))
    assert chosen(choosing) == {"r0"}
    place(choosing, "r0", call="more", prompt=(1, 2, 3, 4))
    assert "r0" not in chosen(choosing)
    choosing.ended("other")
    assert chosen(choosing) == {"r0"}


def test_of_two_drawn_the_less_loaded_is_taken() -> None:
    choosing = made()
    choosing.keep(NAMES[:2])
    place(choosing, "r0", prompt=(1, 2))
    assert chosen(choosing, num_open={"r0": 1, "r1": 0}) == {"r1"}


def test_calls_of_other_doors_count_as_ours_do_on_the_average() -> None:
    choosing = made()
    place(choosing, "r0")
    choosing.ended("c")
    place(choosing, "r3", call="ours", prompt=(5,) * 100, completion=100)  # 200 tokens
    assert chosen(choosing, num_open={"r0": 2, "r1": 0}) == {"r0"}
    assert chosen(choosing, num_open={"r0": 4, "r1": 0}) == {"r1"}
    assert chosen(choosing, num_open={"r0": 4, "r1": 2}) == {"r0"}
    assert chosen(choosing, num_open={"r0": 2, "r3": 1}) == {"r0"}, "that one is ours"


def test_a_completion_counts_as_far_as_it_is_believed() -> None:
    choosing = made()
    for call, completion in (("a", 5), ("b", BELIEVED_COMPLETION), ("c", 1_000_000)):
        place(choosing, "r0", call=call, prompt=(1,), completion=completion)
    assert choosing._replicas["r0"].open_tokens == 3 + 5 + 2 * BELIEVED_COMPLETION


# --- what it remembers --------------------------------------------------------------------------


def test_a_call_counts_once_where_it_was_placed_last_until_it_ends() -> None:
    choosing = made()
    place(choosing, "r0", completion=10)
    place(choosing, "r1", completion=10)
    place(choosing, "r1", completion=10)
    loads = [(each.num_open, each.open_tokens) for each in choosing._replicas.values()]
    assert loads == [(0, 0), (1, 10), (0, 0), (0, 0)], "what it knows already it need not compute"
    for call in ("c", "c", "nobody"):
        choosing.ended(call)
    assert {(each.num_open, each.open_tokens) for each in choosing._replicas.values()} == {(0, 0)}
    assert choosing._open == {}


def test_of_too_many_blocks_those_that_were_not_used_for_long_are_forgotten_ends_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(affinity, "MOST_BLOCKS", 15)
    choosing = made()
    old, new = PROMPT, tuple(range(5_000, 5_000 + 10 * BLOCK))
    for prompt in (old, new):
        place(choosing, "r0", prompt=prompt)
    known = choosing._replicas["r0"]
    assert (known.num_known(blocks(*old)), known.num_known(blocks(*new))) == (5, 10)
    place(choosing, "r0", prompt=old)
    assert (known.num_known(blocks(*old)), known.num_known(blocks(*new))) == (10, 5)
    assert len(known.blocks) == 15


def test_of_a_replica_that_is_gone_nothing_is_kept_and_it_owes_nothing_when_it_comes_back() -> None:
    choosing = made()
    place(choosing, "r0", completion=10)
    place(choosing, "r1", call="other", completion=10)
    choosing.keep(NAMES[1:])
    assert list(choosing._open) == ["other"]
    choosing.keep(NAMES)
    choosing.ended("c")
    back = choosing._replicas["r0"]
    assert (back.num_open, back.open_tokens, len(back.blocks)) == (0, 0, 0)
    assert choosing._replicas["r1"].num_known(blocks(*PROMPT)) == 10


def test_a_thousand_open_calls_and_long_prompts_cost_a_choice_little() -> None:
    """0.2 ms for the digests and 0.1 ms for the choice are usual, on one core of an ordinary machine."""
    choosing = Affinity(random.Random(1))
    names = [f"r{number}" for number in range(16)]
    choosing.keep(names)
    prompt = tuple(range(8_000))
    for number in range(1_000):
        place(choosing, names[number % 16], call=str(number), prompt=prompt)
    num_open, submit = dict.fromkeys(names, 70), make_submit(1, *prompt)
    took_s = []
    for _ in range(20):
        began = time.perf_counter()
        choosing.choose(blocks_of(submit), len(prompt), num_open)
        took_s.append(time.perf_counter() - began)
    assert min(took_s) < 0.005
