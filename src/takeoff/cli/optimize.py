"""`takeoff optimize`: find out how a model runs fastest on this machine, and keep it for `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from takeoff.models.optimize.goal import Goal
    from takeoff.models.optimize.search import Found
    from takeoff.models.store import StoredModel
    from takeoff.settings import Settings


def optimize(
    model: Annotated[
        str, typer.Argument(help="Name in the store or catalogue, URL or path of a GGUF model")
    ] = "smollm2",
    goal: Annotated[
        str,
        typer.Option(
            help="latency, throughput, memory, or bounds and one aim of ttft_p95, itl_p99, answer_s, "
            "tokens_s, memory, users: 'ttft_p95<1s, users=max'"
        ),
    ] = "throughput",
    max_kl: Annotated[
        float,
        typer.Option(min=0.0, max=10.0, help="Most divergence from the model's own answers, in nats a token"),
    ] = 0.01,
    time_limit: Annotated[
        float, typer.Option(min=20, max=86_400, help="Seconds after which it stops with what it has")
    ] = 300.0,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Delete the model's profile and its variants, and do nothing else"),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout")] = False,
    home: Annotated[Path | None, typer.Option(help="Folder of the model store  [env: TAKEOFF_HOME]")] = None,
) -> None:
    """Measure weight formats, threads, batches, attention and cache, and keep the best for `serve`.

    Nothing else should run on the machine meanwhile. An interrupted search goes on where it was.
    """
    from takeoff.cli.console import PullProgress
    from takeoff.cli.search_report import print_found
    from takeoff.models.cpu_features import check_build_cpu
    from takeoff.models.optimize.goal import parse_goal
    from takeoff.models.store import Store
    from takeoff.settings import load_settings

    aim = parse_goal(goal)
    settings = load_settings({"home": home, "device": "cpu"})
    check_build_cpu()
    with PullProgress() as progress:
        stored = Store(settings.store, settings.access_token).pull(model, progress)
    if forget:
        _forget(stored, settings.store)
        return
    _check_generates(stored)
    found, sentence = _search(stored, settings, aim, max_kl, time_limit)
    print_found(found, stored, aim, sentence, time_limit, as_json=json)


def _forget(model: StoredModel, store: Path) -> None:
    from takeoff.cli.console import talk
    from takeoff.models.optimize.trials import Trials
    from takeoff.models.profile import forget_profile
    from takeoff.models.variants import model_place

    forget_profile(model, store)
    Trials(model_place(model, store), None).discard()
    talk().print(f"the profile and the variants of {model.name} are gone", markup=False)


def _check_generates(model: StoredModel) -> None:
    from takeoff.errors import ModelError
    from takeoff.request import Task

    if model.format != "gguf" or model.task is not Task.GENERATE:
        raise ModelError(
            f"{model.name} does not generate text from a GGUF file", hint="there is nothing to choose for it"
        )


def _search(
    model: StoredModel, settings: Settings, goal: Goal, max_kl: float, time_limit_s: float
) -> tuple[Found, str]:
    """Search, keep the winner for `serve` and delete all else; returns what was found, in a sentence, too."""
    from takeoff.cli.search_report import SearchProgress
    from takeoff.models.machine import logical_cores, read_machine
    from takeoff.models.optimize.candidates import default_candidate
    from takeoff.models.optimize.lab import Lab
    from takeoff.models.optimize.outcome import profile_of
    from takeoff.models.optimize.search import Search
    from takeoff.models.optimize.trials import Trials
    from takeoff.models.profile import read_fingerprint, save_profile
    from takeoff.models.variants import discard_other_variants, model_place, source_key

    machine = read_machine()
    fingerprint = read_fingerprint(machine)
    place = model_place(model, settings.store)
    trials = Trials(place, [source_key(model), fingerprint])
    with (
        Lab(model, settings.store, settings, machine, goal.streams) as lab,
        SearchProgress(time_limit_s) as watch,
    ):
        search = Search(
            lab,
            machine,
            logical_cores=logical_cores(),
            goal=goal,
            max_kl=max_kl,
            time_limit_s=time_limit_s,
            trials=trials,
            watch=watch,
        )
        found = search.run(default_candidate(settings, machine))
    profile = profile_of(found, model, goal, fingerprint)
    save_profile(model, settings.store, profile)
    discard_other_variants(place, profile.weights)
    trials.discard()
    return found, profile.sentence
