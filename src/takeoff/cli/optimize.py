"""`takeoff optimize`: find out how a model runs fastest on this machine, and keep it for `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    from takeoff.cli.console import PullProgress, print_json, talk
    from takeoff.cli.search_report import SearchProgress, found_json, rows_table
    from takeoff.errors import ModelError
    from takeoff.models.cpu_features import check_build_cpu
    from takeoff.models.machine import logical_cores, read_machine
    from takeoff.models.optimize.candidates import default_candidate
    from takeoff.models.optimize.goal import parse_goal
    from takeoff.models.optimize.lab import Lab
    from takeoff.models.optimize.outcome import limits, prediction, profile_of
    from takeoff.models.optimize.search import Search
    from takeoff.models.optimize.trials import Trials
    from takeoff.models.profile import forget_profile, read_fingerprint, save_profile
    from takeoff.models.store import Store
    from takeoff.models.variants import discard_other_variants, model_place, source_key
    from takeoff.request import Task
    from takeoff.settings import load_settings

    aim = parse_goal(goal)
    settings = load_settings({"home": home, "device": "cpu"})
    check_build_cpu()
    with PullProgress() as progress:
        stored = Store(settings.store, settings.access_token).pull(model, progress)
    place = model_place(stored, settings.store)
    if forget:
        forget_profile(stored, settings.store)
        Trials(place, None).discard()
        talk().print(f"the profile and the variants of {stored.name} are gone", markup=False)
        return
    if stored.format != "gguf" or stored.task is not Task.GENERATE:
        raise ModelError(
            f"{stored.name} does not generate text from a GGUF file", hint="there is nothing to choose for it"
        )
    machine = read_machine()
    fingerprint = read_fingerprint(machine)
    trials = Trials(place, [source_key(stored), fingerprint])
    with (
        Lab(stored, settings.store, settings, machine, aim.streams) as lab,
        SearchProgress(time_limit) as watch,
    ):
        search = Search(
            lab,
            machine,
            logical_cores=logical_cores(),
            goal=aim,
            max_kl=max_kl,
            time_limit_s=time_limit,
            trials=trials,
            watch=watch,
        )
        found = search.run(default_candidate(settings, machine))
    profile = profile_of(found, stored, aim, fingerprint)
    save_profile(stored, settings.store, profile)
    discard_other_variants(place, profile.weights)
    trials.discard()
    predicted, limiting = prediction(found, aim), limits(found, machine.cores)
    console = talk()
    console.print(rows_table(found.rows))
    if not found.is_complete:
        console.print(f"{time_limit:g} s were not enough to try everything: --time-limit", markup=False)
    console.print(f"{stored.name}: {profile.sentence}", markup=False)
    console.print(predicted, markup=False)
    console.print(limiting, markup=False)
    if json:
        print_json(found_json(found, profile.sentence, predicted, limiting))
