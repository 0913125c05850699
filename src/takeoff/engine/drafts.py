"""What may come next in a text that repeats itself: what came before, behind the same tokens.

A text that repeats its prompt is followed there, token by token. Where it departs (a value was edited), it
often comes back to the same passage a little later, so that is looked for first. How often such guesses are
right is learnt from every token, whether anything was computed ahead for it or not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

SIZES = (5, 2)  # of the runs of tokens by which a passage is found
NEAR = 256  # tokens behind the place of departure in which a text comes back to a passage
ANCHORED = 8  # a passage that was followed for so long is come back to
NO_TOKEN = -1  # ends what is predicted
MAX_AGREED = 32  # a longer agreement makes a guess no surer
LONGEST = (2, 3, 5, 8, 12, 20)  # classes of agreements, by their longest; one more beyond

# A guess's chance to be right, by class: of a passage just found, and of one that was come back to. Where
# nothing has been learnt yet; estimated.
_FOUND = (0.25, 0.4, 0.5, 0.6, 0.75, 0.85, 0.95)
_RESUMED = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
OF_ALL, OF_ONE = 0.01, 0.1  # weight of the newest token in the means of a tenant's texts, and of one


class Trust:
    """How often the token after an agreement was the one expected, a running mean for each class."""

    def __init__(self, means: Sequence[float] = (*_FOUND, *_RESUMED)) -> None:
        self._means = list(means)

    def copy(self) -> Trust:
        return Trust(self._means)

    def chance(self, agreed: int, *, resumed: bool) -> float:
        return self._means[_kind(agreed, resumed=resumed)]

    def learn(self, agreed: int, *, resumed: bool, was_right: bool, weight: float) -> None:
        kind = _kind(agreed, resumed=resumed)
        self._means[kind] += weight * (was_right - self._means[kind])


def _kind(agreed: int, *, resumed: bool) -> int:
    return bisect_left(LONGEST, agreed) + resumed * (len(LONGEST) + 1)


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next, and the chance of each if those before it have come."""

    token_ids: list[int]
    chances: list[float]
    num_predicted: int = 0  # of the last of them: they come from what the client predicted

    def expected_tokens(self, most: int) -> list[float]:
        """What verifying 0, 1, .. `most` of them is expected to bring, the token after them included."""
        expected, all_right = [1.0], 1.0
        for place in range(most):
            all_right *= self.chances[place] if place < len(self.chances) else 0.0
            expected.append(expected[-1] + all_right)
        return expected


@dataclass(slots=True)
class _Passage:
    """Where the text is thought to repeat itself."""

    place: int  # of the token that is expected next
    agreed: int  # tokens before both places that are alike
    resumed: bool  # whether the text came back to it


class Drafter:
    """Follows one text, with constant work for each of its tokens."""

    def __init__(self, num_prompt_tokens: int, of_all: Trust, predicted: Sequence[int] = ()) -> None:
        """`of_all` is shared by a tenant's texts and learns from each. Of a prompt nothing is learnt.

        `predicted` is what the completion is thought to be.
        """
        self._of_all = of_all
        self._trust = of_all.copy()
        self._text: list[int] = []  # what is predicted, a mark, and what has been read
        self._places: dict[tuple[int, ...], list[int]] = {}  # a run of tokens: the places behind it, rising
        self._passage: _Passage | None = None
        self._anchor: int | None = None  # where the last passage ended that was followed for long
        if predicted:
            for token_id in [*predicted, NO_TOKEN]:
                self._append(token_id)
            self._passage, self._anchor = _Passage(0, ANCHORED, resumed=True), 0
        self._offset = len(self._text)  # of what is read
        self._completion_at = self._offset + num_prompt_tokens

    def read(self, token_ids: Sequence[int], most: int) -> bool:
        """Take in what is new of a text, at most so many tokens; returns whether that was all."""
        start = len(self._text) - self._offset
        for token_id in token_ids[start : start + most]:
            if self._passage is not None and len(self._text) >= self._completion_at:
                self._judge(self._passage, token_id)
            self._append(token_id)
        if len(self._text) - self._offset < len(token_ids):
            return False
        if self._passage is None:
            self._passage = self._find(self._text[-MAX_AGREED:])
        return True

    def propose(self, most: int, forced: Sequence[int] = ()) -> Draft:
        """Up to `most` tokens that may follow what was read.

        `forced` must come whatever the model says: they are the first of them.
        """
        start = max(0, len(self._text) - MAX_AGREED)
        text = [*self._text[start:], *forced]  # with the draft, as it grows
        draft, chances = list(forced[:most]), [1.0] * min(most, len(forced))
        passage = self._find(text[-MAX_AGREED:]) if forced else self._passage
        if passage is None:
            return Draft(draft, chances)
        is_predicted = passage.place < self._offset
        for ahead in range(most - len(draft)):
            place = passage.place + ahead
            # A text in a loop repeats what it is about to say: a passage may reach into the draft.
            token_id = self._text[place] if place < len(self._text) else text[place - start]
            if token_id < 0:  # of an image, or the end of what is predicted
                break
            text.append(token_id)
            draft.append(token_id)
            chances.append(self._trust.chance(passage.agreed + ahead, resumed=passage.resumed))
        return Draft(draft, chances, len(draft) - min(most, len(forced)) if is_predicted else 0)

    def _append(self, token_id: int) -> None:
        place = len(self._text)
        for size in SIZES:
            if place >= size:
                self._places.setdefault(tuple(self._text[-size:]), []).append(place)
        self._text.append(token_id)

    def _judge(self, passage: _Passage, token_id: int) -> None:
        """Learn from the next token whether the passage foretold it; follow that, or leave it."""
        was_right = self._text[passage.place] == token_id
        for trust, weight in ((self._of_all, OF_ALL), (self._trust, OF_ONE)):
            trust.learn(passage.agreed, resumed=passage.resumed, was_right=was_right, weight=weight)
        if was_right:
            passage.place += 1
            passage.agreed += 1
            return
        if passage.agreed >= ANCHORED:
            self._anchor = passage.place
        self._passage = None

    def _find(self, tail: Sequence[int]) -> _Passage | None:
        """The likeliest passage behind `tail`, the last tokens of the text and perhaps some more."""
        found: list[_Passage] = []
        for size in SIZES:
            places = self._places.get(tuple(tail[-size:]), ())
            if not places:
                continue
            found.append(_Passage(places[-1], self._agreement(places[-1], tail), resumed=False))
            if self._anchor is None:
                continue
            nearest = bisect_left(places, self._anchor)
            if nearest < len(places) and places[nearest] < self._anchor + NEAR:
                agreed = self._agreement(places[nearest], tail)
                found.append(_Passage(places[nearest], agreed, resumed=True))
        return max(
            found, key=lambda each: self._trust.chance(each.agreed, resumed=each.resumed), default=None
        )

    def _agreement(self, place: int, tail: Sequence[int]) -> int:
        """How many tokens before `place` are those at the end of `tail`."""
        most = min(place, len(tail))
        return next((back for back in range(most) if self._text[place - 1 - back] != tail[-1 - back]), most)
