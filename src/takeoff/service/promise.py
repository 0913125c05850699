"""Whether a request will end in time; one that won't is refused at once, before anything is begun."""

from __future__ import annotations

from collections.abc import Iterable

from takeoff.errors import Overloaded
from takeoff.request import Request
from takeoff.service.admission import Party, sensible
from takeoff.service.journal import Entry
from takeoff.service.pace import Ahead
from takeoff.service.reader import Reader


def check_deadline(
    request: Request,
    reader: Reader,
    in_work: Iterable[Entry],
    *,
    prompt: int,
    usual_completion: int,
    left_s: float,
) -> None:
    """Predict by the reader's pace when a request of `prompt` tokens ends, which has `left_s` left.

    If it states no length, it wants the usual one where it has to wait, and else what comes in time.

    Raises:
        Overloaded: later than that.
    """
    n_slots = reader.loaded.n_slots
    ahead = ahead_of(Party.of(request), in_work).for_each(reader.num_replicas)
    completion = request.sampling.max_new_tokens
    if completion is None:
        completion = usual_completion if ahead.num_open >= n_slots else 1
    completion = min(completion, reader.n_ctx_slot - prompt)
    seconds = reader.pace.seconds(prompt, completion, ahead, n_slots)
    if seconds is None or seconds <= left_s:
        return
    raise Overloaded(
        f"the request has {left_s:.1f} s left, and the end of its {prompt} + {completion} tokens would come "
        f"in about {seconds:.1f} s: {ahead.num_open} requests with {ahead.num_tokens} tokens are ahead, and "
        f"the engine computes {reader.pace.told}",
        retry_after_s=sensible(seconds - left_s),
    )


def ahead_of(party: Party, in_work: Iterable[Entry]) -> Ahead:
    """What a reader has in work, as seen by a request of `party`."""
    parties = {party}
    num_open = running = 0
    waiting_prompt = waiting_completion = own_prompt = own_completion = 0
    for entry in in_work:
        num_open += 1
        parties.add(entry.party)
        prompt = len(entry.submit.prompt_token_ids)
        completion = entry.queued_tokens - prompt
        if entry.last_token_at is not None:
            running += max(completion - len(entry.emitted_token_ids), 0)
            continue
        waiting_prompt += prompt
        waiting_completion += completion
        if entry.party == party:
            own_prompt += prompt
            own_completion += completion
    return Ahead(
        num_open=num_open,
        num_parties=len(parties),
        waiting_prompt=waiting_prompt,
        waiting_completion=waiting_completion,
        running_completion=running,
        own_prompt=own_prompt,
        own_completion=own_completion,
    )
