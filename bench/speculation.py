"""What speculation gains and costs: text that repeats its prompt, and prose, at 1, 4 and 8 streams.

    python bench/speculation.py [MODEL.gguf] [--rounds 3] [--streams 1,4,8] [--tokens 200]

Two engines on the same weights, one without, take turns; medians of the ratios of neighbouring runs. With
them: how many of the drafted tokens were right, and how many greedy texts differ (kernels compute several
rows of a sequence in other ways than one, and a near tie may fall the other way).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
from in_process import InProcess

from takeoff.engine.spinning import bound_spinning
from takeoff.models.store import Store
from takeoff.request import SamplingParams
from takeoff.settings import Settings

# As SmolLM2's template writes it; other models read it as text.
SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
)
NAMES = ("Ada Lovelace", "Alan Turing", "Grace Hopper", "Edsger Dijkstra", "Barbara Liskov", "Donald Knuth")
CITIES = ("London", "Manchester", "Arlington", "Nuenen", "Boston", "Stanford", "Oslo", "Lima")
CODE = """
def read_orders(path):
    orders = []
    with open(path) as file:
        for line in file:
            number, customer, total = line.strip().split(",")
            orders.append({"number": int(number), "customer": customer, "total": float(total)})
    return orders


def total_by_customer(orders):
    totals = {}
    for order in orders:
        customer = order["customer"]
        totals[customer] = totals.get(customer, 0.0) + order["total"]
    return totals
"""
DOCUMENT = (
    "The lighthouse of Skerryvore stands on a reef twelve miles from the island of Tiree. It was built "
    "between 1838 and 1844 by Alan Stevenson, and with its 48 metres it is the tallest lighthouse in "
    "Scotland. The granite was cut on Mull and brought over by sea. In the first winter a storm carried off "
    "the barracks of the workmen, and they had to begin again. A fire in 1954 destroyed the lamp, which was "
    "lit again in 1959. Since 1994 nobody has lived there."
)
PROSE = ("a lighthouse keeper", "a lost map", "two rival bakers", "a clock that ran backwards")


def question(work: str, number: int) -> str:
    """The user's message of stream `number`."""
    if work == "edit JSON":
        city = CITIES[number % len(CITIES)]
        people = [
            {
                "id": 100 + place,
                "name": name,
                "city": CITIES[(place + number) % len(CITIES)],
                "active": place % 2 == 0,
            }
            for place, name in enumerate(NAMES)
        ]
        text = json.dumps(people, indent=1)
        return f'Repeat this JSON, but change the city of Alan Turing to "New {city}":\n\n{text}'
    if work == "edit code":
        return f"Repeat this code, but rename the function read_orders to load_{number}:\n```python{CODE}```"
    if work == "quote":
        return f"{DOCUMENT}\n\nRepeat the text above word for word. (Copy {number + 1}.)"
    return f"Write a long story about {PROSE[number % len(PROSE)]}, chapter {number // len(PROSE) + 1}."


@dataclass(frozen=True)
class Outcome:
    """One run of a work: all streams from their first token to the last."""

    tokens_per_s: float
    texts: list[list[int]]
    drafted: float
    accepted: float


class Side(InProcess):
    """An engine with or without speculation."""

    def __init__(self, path: Path, *, speculation: bool, n_slots: int) -> None:
        super().__init__(path, n_slots=n_slots, n_ctx_slot=2048, speculation=speculation)
        self._num_submitted = 0

    def run(self, prompts: list[list[int]], num_tokens: int) -> Outcome:
        """All prompts at once, greedily; the clock runs once each has its first token."""
        params = SamplingParams(temperature=0.0, max_new_tokens=num_tokens, seed=0)
        first = self._num_submitted
        ids = range(first, first + len(prompts))
        self._num_submitted += len(prompts)
        self.start_prompts(dict(zip(ids, prompts, strict=True)), params)
        before, counted = self.engine.counters.snapshot(), sum(len(self.token_ids[each]) for each in ids)
        started = time.perf_counter()
        self.run_until_idle()
        seconds = time.perf_counter() - started
        after = self.engine.counters.snapshot()
        texts = [self.token_ids[request_id] for request_id in ids]
        drafted, accepted = (
            after.get(name, 0.0) - before.get(name, 0.0)
            for name in ("drafted_tokens", "accepted_draft_tokens")
        )
        return Outcome((sum(map(len, texts)) - counted) / seconds, texts, drafted, accepted)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, help="default: the default model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", default="1,4,8")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--work", default="edit JSON,edit code,quote,prose")
    args = parser.parse_args()
    path = args.model or Store(Settings().store).pull("smollm2").path
    streams = [int(each) for each in args.streams.split(",")]
    bound_spinning()
    llm = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    sides = [Side(path, speculation=speculation, n_slots=max(streams)) for speculation in (False, True)]
    print(f"{path.name}, {args.tokens} tokens, greedy, medians of {args.rounds}")
    print("| work | streams | without, tokens/s | with | ratio (least) | drafts right | texts that differ |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for work in args.work.split(","):
        for count in streams:
            rounds = []
            for number in range(args.rounds):
                texts = [question(work, number * count + stream) for stream in range(count)]
                chats = [
                    f"{SYSTEM}<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in texts
                ]
                prompts = [llm.tokenize(chat.encode(), add_bos=False, special=True) for chat in chats]
                rounds.append([side.run(prompts, args.tokens) for side in sides])
            ratios = [on.tokens_per_s / off.tokens_per_s for off, on in rounds]
            off_s, on_s = (statistics.median(pair[place].tokens_per_s for pair in rounds) for place in (0, 1))
            drafted, accepted = (
                sum(getattr(on, name) for _, on in rounds) for name in ("drafted", "accepted")
            )
            pairs = [pair for off, on in rounds for pair in zip(off.texts, on.texts, strict=True)]
            differ = sum(one != other for one, other in pairs)
            right = f"{accepted / drafted:.0%} of {drafted:.0f}" if drafted else "none"
            print(
                f"| {work} | {count} | {off_s:.0f} | {on_s:.0f} | "
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f}) | {right} | {differ} of {len(pairs)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
