"""What becomes of each schema of tests/schemas: accepted, refused, finished, valid.

    PYTHONPATH=. python bench/schemas.py [--every N]

Starts a server of the default model and asks for an answer of each schema, at temperature 1. Prints a
table, a schema a line, and how many of each kind. What is finished has finish reason "stop", or "length"
where it was led to its end; it is valid when jsonschema says so, formats included.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
from collections import Counter
from typing import Any, NamedTuple

import jsonschema
import requests
from server import Server
from tests.schemas.reading import NamedSchema, read_schemas

MAX_TOKENS, AT_ONCE = 400, 8


class Outcome(NamedTuple):
    """Of one schema."""

    refused: str | None  # why
    reason: str | None = None  # finish reason
    text: str = ""
    is_finished: bool = False  # is JSON as a whole
    is_valid: bool = False


def ask(url: str, schema: Any) -> Outcome:
    body = {
        "model": "primary",
        "messages": [{"role": "user", "content": "Make up an example of the record, in JSON."}],
        "guided_json": schema,
        "max_tokens": MAX_TOKENS,
        "seed": 1,
    }
    answer = requests.post(f"{url}/v1/chat/completions", json=body, timeout=600)
    if answer.status_code == 400:
        return Outcome(answer.json()["error"]["message"])
    answer.raise_for_status()
    choice = answer.json()["choices"][0]
    return judged(schema, choice["message"]["content"], choice["finish_reason"])


def judged(schema: Any, text: str, reason: str) -> Outcome:
    try:
        value = json.loads(text)
    except ValueError:
        return Outcome(None, reason, text)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    is_valid = kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(value)
    return Outcome(None, reason, text, is_finished=True, is_valid=is_valid)


def print_table(schemas: list[NamedSchema], outcomes: list[Outcome]) -> None:
    print(
        "| kind | schema | accepted | finished | valid | refused, or the answer |\n|---|---|---|---|---|---|"
    )
    for schema, outcome in zip(schemas, outcomes, strict=True):
        accepted = "no" if outcome.refused else "yes"
        finished = f"yes ({outcome.reason})" if outcome.is_finished else outcome.reason or ""
        valid = ("yes" if outcome.is_valid else "**no**") if outcome.is_finished else ""
        said = " ".join((outcome.refused or outcome.text).split()).replace("|", r"\|")
        said = said if len(said) <= 120 else said[:120] + " ..."
        print(f"| {schema.kind} | {schema.name} | {accepted} | {finished} | {valid} | {said} |")
    print()
    print(
        "| kind | schemas | accepted | finished | of those by themselves | valid |\n|---|--:|--:|--:|--:|--:|"
    )
    totals = Counter[tuple[str, str]]()
    for schema, outcome in zip(schemas, outcomes, strict=True):
        for kind in (schema.kind, "all"):
            totals[kind, "schemas"] += 1
            totals[kind, "accepted"] += outcome.refused is None
            totals[kind, "finished"] += outcome.is_finished
            totals[kind, "stopped"] += outcome.is_finished and outcome.reason == "stop"
            totals[kind, "valid"] += outcome.is_valid
    for kind in [*sorted({schema.kind for schema in schemas}), "all"]:
        columns = ("schemas", "accepted", "finished", "stopped", "valid")
        print(f"| {kind} | {' | '.join(str(totals[kind, column]) for column in columns)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="only every Nth schema")
    schemas = read_schemas()[:: parser.parse_args().every]
    server = Server("--max-slots", str(AT_ONCE), "--context", "1024")
    try:
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = list(pool.map(lambda each: ask(server.url, each.schema), schemas))
    finally:
        server.stop()
    print_table(schemas, outcomes)


if __name__ == "__main__":
    main()
