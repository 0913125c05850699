"""`takeoff models`: what is in the store, and what could be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from takeoff.models.catalogue import CatalogueModel
    from takeoff.models.profile import Profile
    from takeoff.models.store import Store, StoredModel


def models(
    available: Annotated[bool, typer.Option("--available", help="List the catalogue instead")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON; sizes in bytes")] = False,
    home: Annotated[Path | None, typer.Option(help="Folder of the model store  [env: TAKEOFF_HOME]")] = None,
) -> None:
    """List the models of the store: size, architecture, quantisation, context length, profile.

    A profile says how a model runs fastest here; its variants are the same weights in other formats. They
    lie in the model's folder: to remove a model with all that was made of it, delete that.

    With --available: the catalogue, with the memory and the tokens/s to expect on this machine.
    """
    from takeoff.models.store import Store
    from takeoff.settings import load_settings

    store = Store(load_settings({"home": home}).store)
    if available:
        _print_catalogue(store, json_output)
    else:
        _print_stored(store.list(), store.root, json_output)


def _print_stored(stored: Sequence[StoredModel], root: Path, json_output: bool) -> None:
    from takeoff.cli.console import print_json, print_table, talk

    if json_output:
        print_json([_stored_facts(model, root) for model in stored])
        return
    if not stored:
        talk().print(f"no models in {root}; `takeoff pull` fetches the default one", markup=False)
        return
    print_table(
        ("name", "size", "architecture", "quantisation", "context", "parameters", "task", "profile"),
        [row for model in stored for row in _stored_rows(model, root)],
        right=("size", "context", "parameters"),
    )


def _stored_rows(model: StoredModel, root: Path) -> list[tuple[str, ...]]:
    """A model, then its variants; beside the model what it runs as."""
    from takeoff.models.variants import list_variants, model_place

    profile = _profile(model, root)
    variants = list_variants(model_place(model, root))
    weights = next((each.recipe.name for each in variants if profile and each.file == profile.weights), None)
    runs_as = "-" if profile is None else f"{profile.goal}: {weights or model.quantisation}"
    facts = (f"{model.context_length:,}", _count(model.num_params), model.task)
    return [
        (
            model.name,
            _size(model.file_bytes),
            model.architecture,
            model.quantisation,
            *facts,
            runs_as,
        ),
        *(
            (
                f"{model.name}: {each.recipe.name}",
                _size(each.file_bytes),
                model.architecture,
                each.quantisation,
                *facts,
                "-",
            )
            for each in variants
        ),
    ]


def _profile(model: StoredModel, root: Path) -> Profile | None:
    """The model's profile, whether it counts here or not; None where there is none, or a damaged one."""
    from takeoff.errors import ModelError
    from takeoff.models.profile import PROFILE_FILE, read_profile
    from takeoff.models.variants import model_place

    try:
        return read_profile(model_place(model, root) / PROFILE_FILE)
    except ModelError:
        return None


def _print_catalogue(store: Store, json_output: bool) -> None:
    import psutil

    from takeoff.cli.console import print_json, print_table, talk
    from takeoff.models.catalogue import CATALOGUE
    from takeoff.models.machine import measure_bandwidth

    talk().print("measuring this machine's memory bandwidth ...")
    bandwidth = measure_bandwidth()
    memory = psutil.virtual_memory().available
    here = {model.name for model in store.list()}
    if json_output:
        print_json([_catalogue_facts(model, bandwidth, memory, model.name in here) for model in CATALOGUE])
        return
    print_table(
        ("name", "parameters", "quantisation", "size", "memory", "fits", "tokens/s", "licence", "in store"),
        [
            (
                model.name,
                _count(model.num_params),
                model.quantisation,
                _size(model.file_bytes),
                _size(model.memory_bytes),
                "yes" if model.memory_bytes <= memory else "no",
                f"≤ {model.decode_tokens_per_s(bandwidth):,.0f}" if model.task == "generate" else "-",
                model.licence,
                "yes" if model.name in here else "no",
            )
            for model in CATALOGUE
        ],
        right=("parameters", "size", "memory", "tokens/s"),
    )
    talk().print(
        f"tokens/s: the most that one stream can get from {bandwidth / 1e9:.1f} GB/s, measured just now; "
        f"memory: with 8,192 tokens of context; {memory / 1e9:.1f} GB are free",
        markup=False,
    )


def _stored_facts(model: StoredModel, root: Path) -> dict[str, Any]:
    import msgspec

    from takeoff.models.variants import list_variants, model_place

    return {
        "name": model.name,
        "path": str(model.path),
        "task": model.task,
        "format": model.format,
        "source": model.source,
        "revision": model.revision,
        "sha256": model.sha256,
        "file_bytes": model.file_bytes,
        "pulled_at": model.pulled_at,
        "architecture": model.architecture,
        "quantisation": model.quantisation,
        "context_length": model.context_length,
        "num_params": model.num_params,
        "profile": msgspec.to_builtins(_profile(model, root)),
        "variants": msgspec.to_builtins(list_variants(model_place(model, root))),
    }


def _catalogue_facts(model: CatalogueModel, bandwidth: float, memory: int, in_store: bool) -> dict[str, Any]:
    return {
        "name": model.name,
        "title": model.title,
        "task": model.task,
        "source": str(model.source),
        "num_params": model.num_params,
        "quantisation": model.quantisation,
        "file_bytes": model.file_bytes,
        "context_length": model.context_length,
        "memory_bytes": model.memory_bytes,
        "fits": model.memory_bytes <= memory,
        "max_tokens_per_s": round(model.decode_tokens_per_s(bandwidth), 1)
        if model.task == "generate"
        else None,
        "licence": model.licence,
        "in_store": in_store,
    }


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def _count(num_params: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if num_params >= size:
            return f"{num_params / size:.1f}{unit}" if unit == "B" else f"{num_params / size:.0f}{unit}"
    return str(num_params)
