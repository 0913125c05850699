"""Imports point one way, and each library has one home. The tables below are the house's plan.

Reads the source with `ast`; imports nothing of it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "takeoff"

EVERYONE_MAY = {"call_formats", "errors", "request", "settings", "observe", "thoughts"}

# part of takeoff      what else of takeoff it may import
MAY_IMPORT: dict[str, set[str]] = {
    "": {"python"},  # takeoff/__init__.py, when one of its classes is asked for
    "cli": {"*"},
    "http": {"service", "keys"},
    "python": {"service", "models"},
    "batch": {"service", "http"},
    "service": {"ipc", "models", "sandbox"},
    "ipc": {"sandbox"},
    "sandbox": set(),
    "engine": {"ipc", "models", "sandbox", "engine.llama"},
    "engine.encoder": {"engine", "ipc", "models", "sandbox", "engine.llama"},
    "engine.llama": {"ipc", "models"},
    "prepare": {"ipc", "models"},
    "models": set(),
    "observe": {"ipc"},
    "bench": set(),
    "demo": {"bench"},
    "cluster": {"service", "http", "keys", "ipc", "models"},
    "keys": {"service"},
    "settings": set(),
    "call_formats": set(),
    "request": set(),
    "thoughts": set(),
    "errors": set(),
}

# Parts that stand lower than the rest: of what everyone may import they take only this.
ONLY: dict[str, set[str]] = {
    "bench": {"errors", "request"},
    "models": {"errors", "request", "settings", "sandbox"},
    "sandbox": set(),
    "settings": {"errors"},
    "call_formats": set(),
    "request": {"errors"},
    "thoughts": set(),
    "errors": set(),
}

# library              the parts (or single modules) that may import it
HOMES: dict[str, set[str]] = {
    "fastapi": {"http"},
    "starlette": {"http"},
    "uvicorn": {"http"},
    "httptools": {"http", "bench", "demo"},
    "uvloop": {"http", "cli", "bench"},
    "pydantic": {"http", "settings", "cli.options", "cli.reference"},
    "pydantic_core": {"settings", "cli.options", "http.anthropic.answers"},
    "yaml": {"settings", "cluster.kuberay"},
    "jinja2": {"prepare"},
    "PIL": {"prepare"},
    "llama_cpp": {"engine.llama", "prepare.tokenizer"},
    "llguidance": {"engine", "engine.llama", "models", "prepare"},
    "onnxruntime": {"engine.encoder"},
    "tokenizers": {"engine.encoder"},
    "huggingface_hub": {"models"},
    "opentelemetry": {"observe"},
    "prometheus_client": {"observe"},
    "typer": {"cli"},
    "rich": {"cli", "bench", "demo", "models.progress"},
    "numpy": {"engine", "engine.encoder", "engine.llama", "ipc", "prepare", "bench", "models.machine"},
    "msgspec": {"*"},
    "ray": {"cluster"},
    "psutil": {"*"},
}

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "multiprocessing"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "core", "misc"}

MODULES = sorted(SOURCE.rglob("*.py"))


def module_name(path: Path) -> str:
    """`http.sse` for src/takeoff/http/sse.py."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(name: str) -> str:
    """The part that a module belongs to: the longest entry of MAY_IMPORT that begins its name."""
    owners = [part for part in MAY_IMPORT if name == part or name.startswith(f"{part}.")]
    return max(owners, key=len, default=name)


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, wherever in the file; `from a import b` gives both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides where it points"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def broken_rules(name: str, source: str) -> list[str]:
    """What the module `name` with this source does against the tables, one line each."""
    tree = ast.parse(source)
    own_part = part_of(name)
    allowed = MAY_IMPORT.get(own_part, set()) | ONLY.get(own_part, EVERYONE_MAY) | {own_part}
    broken: set[str] = set()
    for module in imported_modules(tree):
        top, _, inner = module.partition(".")
        if top in FORBIDDEN_MODULES:
            broken.add(f"{name} imports {top}, which nobody may")
        elif top == "takeoff":
            part = part_of(inner)
            if inner and "*" not in allowed and part not in allowed and part in MAY_IMPORT:
                broken.add(f"{name} imports {part}; {own_part} may import {', '.join(sorted(allowed))}")
        elif top not in sys.stdlib_module_names and not HOMES.get(top, set()) & {"*", own_part, name}:
            broken.add(f"{name} imports {top}, at home in {', '.join(sorted(HOMES.get(top, {'no part'})))}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            broken.add(f"{name} calls {node.func.id} on line {node.lineno}")
    return sorted(broken)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_what_its_part_may(path: Path) -> None:
    assert broken_rules(module_name(path), path.read_text()) == []


def test_every_part_has_a_row_in_the_table() -> None:
    parts = {part_of(module_name(path)) for path in MODULES} - {""}
    assert parts <= MAY_IMPORT.keys()


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {part for path in MODULES for part in module_name(path).split(".")}
    assert names & FORBIDDEN_NAMES == set()


@pytest.mark.parametrize(
    ("name", "source", "broken"),
    [
        ("engine.engine", "from takeoff.service import journal", "engine.engine imports service; "),
        ("engine.engine", "from takeoff import http", "engine.engine imports http; "),
        ("service.reader", "import takeoff.engine.llama.context", "service.reader imports engine.llama; "),
        (
            "models.store",
            "def f():\n    from takeoff.ipc.messages import Load",
            "models.store imports ipc; ",
        ),
        ("bench.load", "from takeoff.settings import Settings", "bench.load imports settings; "),
        (
            "engine.sampler",
            "import llama_cpp",
            "imports llama_cpp, at home in engine.llama, prepare.tokenizer",
        ),
        ("cli.serve", "from fastapi import FastAPI", "cli.serve imports fastapi, at home in http"),
        ("http.app", "import requests", "http.app imports requests, at home in no part"),
        ("ipc.channel", "import pickle", "ipc.channel imports pickle, which nobody may"),
        ("prepare.process", "x = eval('1')", "prepare.process calls eval on line 1"),
    ],
)
def test_the_tables_catch_what_they_forbid(name: str, source: str, broken: str) -> None:
    found = broken_rules(name, source)
    assert len(found) == 1
    assert broken in found[0]
