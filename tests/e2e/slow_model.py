"""A store whose default model is in a format without fast kernels, whatever the machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from takeoff.models.requantise import requantise
from takeoff.models.store import Store
from takeoff.models.stored import new_entry, write_entry
from takeoff.models.variants import Recipe, discard_variant, model_place, variant_model

FORMAT = "Q5_1"


def make_slow_store(shipped: Path, home: Path) -> Path:
    """Fill the folder `home` with the model `smollm2`, made of the shipped file; returns the model's file."""
    folder = home / "models" / "smollm2"
    made = shutil.ignore_patterns("variants", "profile.json")
    shutil.copytree(shipped.parent, folder, ignore=made)
    model = Store(home).pull("smollm2")
    recipe = Recipe(FORMAT, FORMAT, (("^token_embd", "Q8_0"),))
    variant = requantise(model, recipe, home, threads=2)
    file = folder / f"SmolLM2-135M-Instruct.{FORMAT}.gguf"
    shutil.copyfile(variant_model(model, home, variant).path, file)
    discard_variant(model_place(model, home), variant)
    model.path.unlink()
    write_entry(folder, new_entry(file, file.name, "smollm2", model.revision, variant.sha256))
    return file
