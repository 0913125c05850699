"""From what a search found to the profile that `serve` goes by, and to the words that tell it."""

from __future__ import annotations

from typing import Any

from takeoff.models.gguf import read_gguf
from takeoff.models.machine import measure_matrix_flops, measure_read_bandwidth
from takeoff.models.optimize.candidates import Candidate
from takeoff.models.optimize.goal import METRICS, Goal, Measured, Predicted
from takeoff.models.optimize.roofline import Roof, limit, share
from takeoff.models.optimize.search import LEAST_GAIN, Found
from takeoff.models.profile import Figures, Fingerprint, Profile, Speed
from takeoff.models.stored import StoredModel
from takeoff.models.variants import source_key


def profile_of(found: Found, model: StoredModel, goal: Goal, fingerprint: Fingerprint) -> Profile:
    """What to keep; settings that are as they were before stay the settings' own defaults."""
    is_variant = found.best.recipe is not None
    return Profile(
        source=source_key(model),
        fingerprint=fingerprint,
        goal=goal.text,
        sentence=sentence(found, model),
        weights=found.weights.path.name if is_variant else None,
        weights_sha256=found.weights.sha256 if is_variant else None,
        figures=_figures(found),
        **changed_settings(found.before, found.best),
    )


def changed_settings(before: Candidate, best: Candidate) -> dict[str, Any]:
    """Settings of `best` that are not those of `before`, by their names."""
    old = before.names
    return {name: value for name, value in best.names.items() if value != old[name]}


def sentence(found: Found, model: StoredModel) -> str:
    """What was gained, and what it costs."""
    if found.best == found.before:
        return (
            f"nothing gains {LEAST_GAIN - 1:.0%} or more over {model.quantisation} with the default settings"
        )
    what = [] if found.best.recipe is None else [f"weights in {found.best.recipe.name.removeprefix('opt-')}"]
    what += [
        f"{name.replace('_', ' ')} {value}"
        for name, value in changed_settings(found.before, found.best).items()
    ]
    gains = ", ".join(
        f"{found.measured_before.step_s[streams] / seconds:.2f} × with {streams}"
        for streams, seconds in sorted(found.measured.step_s.items(), reverse=True)
    )
    more = (found.measured.memory_bytes - found.measured_before.memory_bytes) / 1e6
    cost = f"{abs(more):,.0f} MB {'more' if more >= 0 else 'less'} memory"
    quality = "" if found.quality is None else f", KL {found.quality.kl:.4f}"
    return f"{', '.join(what)}: tokens/s {gains}, {cost}{quality}"


def prediction(found: Found, goal: Goal) -> str:
    """What the goal's load gets, as predicted from the costs that were measured at last."""
    before = found.measured_before
    now, then = goal.served(found.measured, before), goal.served(before, before)
    if now is None:
        nearest = goal.nearest(found.measured, before)
        return f"{goal.text}: no number of users keeps the bounds; the nearest is {_load_text(nearest, goal)}"
    earlier = "nobody within the bounds" if then is None else _figure_text(goal.aim, goal.figure(then))
    return f"{goal.text}: predicted for {_load_text(now, goal)}; before: {earlier}"


def _load_text(load: Predicted, goal: Goal) -> str:
    """A load, with the figures that the goal names."""
    names = dict.fromkeys([goal.aim, *(bound.metric for bound in goal.bounds)])
    figures = [f"{name} {_figure_text(name, METRICS[name](load))}" for name in names if name != "users"]
    return ", ".join([_figure_text("users", load.users), *figures])


def _figure_text(name: str, value: float) -> str:
    if name == "users":
        return "1 user" if value == 1 else f"{value:g} users"
    if name == "memory":
        return f"{value / 1e6:,.0f} MB"
    if name == "tokens_s":
        return f"{value:,.0f} tokens/s"
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.0f} ms"


def limits(found: Found, threads: int) -> str:
    """In words, what limits the winner on this machine. Measures the machine: about a second."""
    gguf = read_gguf(found.weights.path)
    of_prompts = 2.0 * gguf.n_params / found.measured.prefill_token_s  # in integers, perhaps
    roof = Roof(measure_read_bandwidth(threads), max(measure_matrix_flops(threads), of_prompts))
    elements = gguf.n_layers * gguf.n_kv_heads * (gguf.key_length + gguf.value_length)
    kv_token_bytes = elements * (2 if found.best.kv_type in ("f16", "bf16") else 34 / 32)
    steps = sorted(found.measured.step_s)
    ends = [steps[0]] if len(steps) == 1 else [steps[0], steps[-1]]
    return limit([share(gguf, found.measured, streams, kv_token_bytes, roof) for streams in ends], roof)


def figures_json(measured: Measured) -> dict[str, Any]:
    """For programs: tokens/s by streams and of prefill, memory in bytes."""
    return {
        "tokens_s": {str(streams): streams / seconds for streams, seconds in measured.step_s.items()},
        "prefill_tokens_s": 1 / measured.prefill_token_s,
        "memory_bytes": measured.memory_bytes,
    }


def _figures(found: Found) -> Figures:
    before, after = found.measured_before, found.measured
    return Figures(
        speeds=tuple(
            Speed(streams, streams / before.step_s[streams], streams / seconds)
            for streams, seconds in sorted(after.step_s.items())
            if streams in before.step_s
        ),
        prefill=(1 / before.prefill_token_s, 1 / after.prefill_token_s),
        memory_bytes=(before.memory_bytes, after.memory_bytes),
        kl=None if found.quality is None else found.quality.kl,
        perplexity_ratio=None if found.quality is None else found.quality.perplexity_ratio,
    )
