"""Whether calls of tools are valid, by temperature, seed and number: 50 prompts each, with `required`.

    PYTHONPATH=. python bench/tool_calls.py [--max-tokens N]

Starts a server of the default model, 1,024 tokens a sequence. No string, list or number of the tools has a
bound, so that a small model which repeats itself goes on to the end of the room. Prints a table: how many
of 50 answers are calls only whose arguments are JSON that their schema takes, how many of the answers were
led to their end, and the tokens of all.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
from typing import Any

import jsonschema
import requests
from server import Server

AT_ONCE = 8
CITIES = ["Paris", "Rome", "Oslo", "Lima", "Cairo", "Tokyo", "Delhi", "Perth", "Quito", "Bern"]
ASKS = [
    "What is the weather in {}?",
    "Set a timer called {} for 5 minutes.",
    "Translate the word {} into French.",
    "Convert 20 euros for my trip to {}.",
    "Book a table for two in {} tomorrow.",
]
TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def tool(name: str, required: list[str], **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


TOOLS = [
    tool(
        "get_weather", ["city"], city=TEXT, unit={"enum": ["C", "F"]}, days={"type": "array", "items": NUMBER}
    ),
    tool("set_timer", ["label", "minutes"], label=TEXT, minutes={"type": "integer"}),
    tool("translate", ["texts", "to"], texts={"type": "array", "items": TEXT}, to=TEXT),
    tool("convert", ["amount"], amount=NUMBER, notes={"type": "array", "items": TEXT}),
    tool("book", ["people"], people={"type": "array", "items": {"type": "object"}}, late={"type": "boolean"}),
]
SCHEMAS = {each["function"]["name"]: each["function"]["parameters"] for each in TOOLS}


def ask(url: str, prompt: str, **params: Any) -> dict[str, Any]:
    body = {"model": "primary", "tools": TOOLS, "tool_choice": "required", **params}
    body["messages"] = [{"role": "user", "content": prompt}]
    answer = requests.post(f"{url}/v1/chat/completions", json=body, timeout=900)
    answer.raise_for_status()
    return dict(answer.json())


def is_valid(message: dict[str, Any]) -> bool:
    """Whether it is calls, at least one, with arguments that their schemas take."""
    try:
        for call in message["tool_calls"]:
            function = call["function"]
            jsonschema.validate(json.loads(function["arguments"]), SCHEMAS[function["name"]])
    except (KeyError, ValueError, jsonschema.ValidationError):
        return False
    return message["content"] is None and len(message["tool_calls"]) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--max-tokens", type=int, help="of each answer; to the end of the context if not given"
    )
    limit = parser.parse_args().max_tokens
    prompts = [ask.format(city) for ask in ASKS for city in CITIES]
    server = Server("--max-slots", str(AT_ONCE), "--context", "1024")
    print(
        "| temperature | seed | parallel | valid of 50 | led to the end | tokens |\n|--:|--:|---|--:|--:|--:|"
    )
    try:
        for temperature, seed in [(0, 1), *((heat, seed) for heat in (0.7, 1.0) for seed in (1, 2, 3))]:
            for is_parallel in (False, True):
                params = {"temperature": temperature, "seed": seed, "parallel_tool_calls": is_parallel}
                params |= {} if limit is None else {"max_tokens": limit}
                with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                    answers = list(pool.map(lambda each: ask(server.url, each, **params), prompts))  # noqa: B023
                choices = [answer["choices"][0] for answer in answers]
                valid = sum(is_valid(choice["message"]) for choice in choices)
                led = sum(choice["finish_reason"] == "length" for choice in choices)
                tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
                print(
                    f"| {temperature} | {seed} | {is_parallel} | {valid} | {led} | {tokens:,} |", flush=True
                )
    finally:
        server.stop()


if __name__ == "__main__":
    main()
