"""Prompts nobody has seen before: words drawn at random, so that no cache knows them."""

from __future__ import annotations

import json
import random

# Everyday words, one or two tokens each in the usual vocabularies.
_WORDS = """
the a of to and in that it was for on are with as his they be at one have this from by hot word but what
some is you or had not were we when there can an your which their said if do will each about how up out
them then she many these so other into has more her two like him see time could no make than first been
its who now people my made over did down only way find use may water long little very after called just
where most know get through back much before go good new write our used me man too any day same right
look think also around another came come work three must because does part even place well such here take
why things help put years different away again off went old number great tell men say small every found
still between name should home big give air line set own under read last never us left end along while
might next sound below saw something thought both few those always looked show large often together asked
house world going want school important until form food keep children feet land side without boy once
animals life enough took sometimes four head above kind began almost live page got earth need far hand
high year mother light parts country father let night following picture being study second eyes soon
times story boys since white days ever paper hard near sentence better best across during today others
however sure means knew tried told young sun whole hear example heard several change answer room sea
against top turned learn point city play toward five using himself usually
"""


class Prompts:
    """A source of prompts and of all other chance; the same seed gives the same in the same order."""

    def __init__(self, seed: int) -> None:
        self._words = _WORDS.split()
        self.draw = random.Random(seed)  # noqa: S311  (reproducible, not secret)

    def text(self, num_words: int) -> str:
        """About `num_words` tokens of words in no order."""
        return " ".join(self.draw.choices(self._words, k=num_words)).capitalize()

    def records(self, num_records: int) -> str:
        """A JSON array of records, about 35 tokens each."""
        records = [
            {"id": self.number(100, 999), "name": self.text(3), "count": self.number(1, 99), "is_done": False}
            for _ in range(num_records)
        ]
        return json.dumps(records, indent=1)

    def number(self, low: int, high: int) -> int:
        """A length between `low` and `high`, both included."""
        return self.draw.randint(low, high)

    def lifetime(self, mean: int, longest: int) -> int:
        """A length of a text that may end at each token with the same chance; at most `longest`."""
        return min(longest, 1 + int(self.draw.expovariate(1 / mean)))
