"""The guide to clients of the OpenAI API: its code runs as it stands, lm_eval's in test_lm_eval.py."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.clients.doors import HOST, Doors
from tests.clients.environments import Environment

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "openai-clients.md"
HELLO = "Hello there! How can I assist you today?"  # what SmolLM2 says to "hi"


def code_of(chapter: str, doors: Doors) -> list[str]:
    """The code of a chapter, with the address of this server."""
    text = GUIDE.read_text().partition(f"\n## {chapter}\n")[2].partition("\n## ")[0]
    code = re.findall(r"^```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block.replace("http://127.0.0.1:8000", f"{HOST}:{doors.front}") for block in code]


@pytest.mark.parametrize(
    ("chapter", "client", "says"),
    [
        ("openai", "openai_3_57_0", f"{HELLO}\n 384\n"),
        ("langchain-openai", "langchain_openai_1_7_4", f"{HELLO}\nstr int\n384\n"),
        ("LlamaIndex", "llama_index_openai_like_0_8_1", HELLO),
    ],
)
def test_the_code_says_what_it_should(
    environment: Callable[[str], Environment],
    doors: Doors,
    tmp_path: Path,
    chapter: str,
    client: str,
    says: str,
) -> None:
    (code,) = code_of(chapter, doors)
    assert environment(client).run("python", "-c", code, folder=tmp_path) == says


def test_llm_finds_its_model(environment: Callable[[str], Environment], doors: Doors, tmp_path: Path) -> None:
    entries, commands = code_of("llm", doors)
    llm = environment("llm_0_36")
    folder = {"LLM_USER_PATH": str(tmp_path)}
    assert llm.run("bash", "-c", 'dirname "$(llm logs path)"', folder=tmp_path, **folder) == f"{tmp_path}\n"
    (tmp_path / "extra-openai-models.yaml").write_text(entries)
    hello, *lines = llm.run("bash", "-ec", commands, folder=tmp_path, **folder).splitlines()
    assert hello == HELLO
    person = json.loads("\n".join(lines))
    assert (type(person["name"]), type(person["age"])) == (str, int)
