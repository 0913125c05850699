"""The section of a manifest that says how its readers are spread: ranges, and errors that say where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from takeoff.errors import SettingsError
from takeoff.settings import load_settings
from takeoff.settings.cluster import ClusterSettings, ReplicaSettings, read_cluster

Read = Callable[[str], ClusterSettings]

HEAD = "takeoff:\n  server_config:\n"
READERS = "  readers_config:\n    r1: {model_name: m, device: cpu, consumer_group: primary}\n"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


@pytest.fixture
def read(manifest: Path) -> Read:
    """What comes of a section; what is in it stands in column 19 of line 5 and on."""

    def read(section: str) -> ClusterSettings:
        manifest.write_text(f"{HEAD}{READERS}  cluster_config: {section}\n")
        settings = load_settings({"manifest": manifest}, {})
        return read_cluster(settings.manifest, settings.own_readers)

    return read


def refusal(read: Read, section: str) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        read(section)
    assert refused.value.param == "manifest"
    return refused.value.message.splitlines()


def test_everything_can_be_said(read: Read) -> None:
    text = "{doors: 3, readers: {r1: {replicas: 0-4, queued_tokens: 500, idle_s: 60, cpus: 0.5, gpus: 1}}}"
    told = read(text)
    assert told.doors == 3
    expected = ReplicaSettings(replicas="0-4", queued_tokens=500, idle_s=60, cpus=0.5, gpus=1)
    assert told.of("r1") == expected
    assert expected.replicas == (0, 4)


@pytest.mark.parametrize("section", ["", "{}", "{doors: 1}", "{readers: {}}", "{readers: {r1: {}}}"])
def test_what_is_not_said_is_one_door_and_one_replica(read: Read, section: str) -> None:
    told = read(section)
    assert (told.doors, told.of("r1"), told.of("another")) == (1, ReplicaSettings(), ReplicaSettings())
    one = ReplicaSettings()
    assert (one.replicas, one.queued_tokens, one.idle_s, one.cpus, one.gpus) == ((1, 1), 4_000, 300.0, 1.0, 0)


def test_without_the_section_or_a_manifest_there_are_the_defaults(manifest: Path) -> None:
    manifest.write_text(HEAD + READERS)
    assert read_cluster(manifest, {"r1": None}) == read_cluster(None, {}) == ClusterSettings()


@pytest.mark.parametrize(
    ("text", "replicas", "is_fixed"),
    [
        ("2", (2, 2), True),
        ("'2'", (2, 2), True),
        ("1-4", (1, 4), False),
        ("0-1", (0, 1), False),
        ("3-3", (3, 3), True),
        ("1000", (1_000, 1_000), True),
    ],
)
def test_a_number_of_replicas_is_one_or_from_and_to(
    read: Read, text: str, replicas: tuple[int, int], is_fixed: bool
) -> None:
    told = read(f"{{readers: {{r1: {{replicas: {text}}}}}}}").of("r1")
    assert (told.replicas, told.is_fixed) == (replicas, is_fixed)


RANGE = "replicas are 1 to 1000, and the second number is not the smaller one"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0", RANGE),
        ("0-0", RANGE),
        ("4-1", RANGE),
        ("1001", RANGE),
        ("1-1001", RANGE),
        ("-1", "a number of replicas is written 2 or 1-4, got -1"),
        ("1.5", "a number of replicas is written 2 or 1-4, got 1.5"),
        ("true", "a number of replicas is written 2 or 1-4, got True"),
        ("[1, 4]", "a number of replicas is written 2 or 1-4, got [1, 4]"),
        ("null", "a number of replicas is written 2 or 1-4, got None"),
        ("1 - 4", "a number of replicas is written 2 or 1-4, got '1 - 4'"),
        ("10000", "a number of replicas is written 2 or 1-4, got 10000"),
        ("many", "a number of replicas is written 2 or 1-4, got 'many'"),
    ],
)
def test_another_number_of_replicas_is_refused_where_it_stands(read: Read, text: str, says: str) -> None:
    place = "config.yaml, line 5, column 45"
    problem = refusal(read, f"{{readers: {{r1: {{replicas: {text}}}}}}}")
    assert problem == [f"takeoff.cluster_config.readers.r1.replicas: {says} ({place})"]


@pytest.mark.parametrize(
    ("section", "problems"),
    [
        ("{doors: 0}", [("doors", "Input should be greater than or equal to 1", 27)]),
        ("{doors: 65}", [("doors", "Input should be less than or equal to 64", 27)]),
        ("{doors: true}", [("doors", "Input should be a valid integer", 27)]),
        ("{doors: '2'}", [("doors", "Input should be a valid integer", 27)]),
        ("{door: 1}", [("door", "there is no such setting", 26)]),
        ("5", [("", "Input should be a mapping", 19)]),
        ("{readers: [r1]}", [("readers", "Input should be a mapping", 29)]),
        ("{readers: {r1: 2}}", [("readers.r1", "Input should be a mapping", 34)]),
        ("{readers: {r1: {queued_tokens: 0}}}", [("readers.r1.queued_tokens", "greater than or", 50)]),
        ("{readers: {r1: {cpus: -1}}}", [("readers.r1.cpus", "greater than or", 41)]),
        ("{readers: {r1: {cpus: nan}}}", [("readers.r1.cpus", "a valid number", 41)]),
        (
            "{readers: {r1: {idle: 3, gpus: 65}}, doors: -1}",
            [
                ("doors", "greater than or", 63),
                ("readers.r1.gpus", "less than or equal to 64", 50),
                ("readers.r1.idle", "there is no such setting", 41),
            ],
        ),
        ("{readers: {r1: {}, r2: {}, r3: {}}}", [("readers.r2", "there is no such reader, only r1", 42)]),
    ],
)
def test_what_is_wrong_is_named_with_its_path_line_and_column(
    read: Read, section: str, problems: list[tuple[str, str, int]]
) -> None:
    lines = sorted(refusal(read, section))
    for line, (path, text, column) in zip(lines, problems, strict=False):
        assert line.startswith(f"takeoff.cluster_config{'.' if path else ''}{path}: ")
        assert text in line
        assert line.endswith(f"(config.yaml, line 5, column {column})")
    assert len(lines) == len(problems) + ("r3" in section)


def test_lines_and_columns_are_those_of_the_file(manifest: Path) -> None:
    section = "  cluster_config:\n    doors: 2\n    readers:\n      chat:\n        replicas: 3-1\n"
    manifest.write_text(HEAD + READERS + section)
    with pytest.raises(SettingsError) as refused:
        read_cluster(manifest, {"r1": None})
    assert refused.value.message.endswith(f"chat.replicas: {RANGE} (config.yaml, line 9, column 19)")


@pytest.mark.parametrize("section", ["{doors: 2}", "{doors: wrong}", "5", ""])
def test_one_process_serves_the_same_manifest_and_says_that_the_section_has_no_effect(
    manifest: Path, section: str
) -> None:
    manifest.write_text(f"{HEAD}{READERS}  cluster_config: {section}\n")
    settings = load_settings({"manifest": manifest}, {})
    assert settings.without_effect == ("cluster_config",)
    assert list(settings.own_readers) == ["r1"]


def test_without_readers_in_it_the_settings_are_the_one_reader() -> None:
    settings = load_settings({"model": "org/some-model.gguf", "context": "512"}, {})
    [(name, reader)] = settings.own_readers.items()
    assert (name, reader.model, reader.context) == ("some-model", "org/some-model.gguf", 512)
