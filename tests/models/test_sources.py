from pathlib import Path

import pytest

from takeoff.errors import PullError
from takeoff.models.sources import (
    FileSource,
    HubSource,
    NameSource,
    PathSource,
    UrlSource,
    check_store_name,
    parse_source,
    store_name,
)


def test_each_way_to_name_a_model_is_told_apart():
    assert parse_source("smollm2") == NameSource("smollm2")
    assert parse_source("hf:Qwen/Qwen3-4B-GGUF") == HubSource("Qwen/Qwen3-4B-GGUF")
    assert parse_source("hf:Qwen/Qwen3-4B-GGUF:Q4_K_M") == HubSource("Qwen/Qwen3-4B-GGUF", "Q4_K_M")
    assert parse_source("https://example.org/a.gguf") == UrlSource("https://example.org/a.gguf")
    assert parse_source("file:///tmp/a%20b.gguf") == FileSource(Path("/tmp/a b.gguf"))
    assert parse_source("./models/a.bin") == PathSource(Path("models/a.bin"))
    assert parse_source("a.gguf") == PathSource(Path("a.gguf"))


@pytest.mark.parametrize(
    "url", ["http://localhost:1/a.gguf", "http://127.0.0.1/a.gguf", "http://[::1]/a.gguf"]
)
def test_plain_http_is_taken_from_this_machine(url):
    assert parse_source(url) == UrlSource(url)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://example.org/a.gguf", "http:// is not safe for a model from example.org"),
        ("https://user:secret@example.org/a.gguf", "a URL of example.org carries a user name or password"),
        ("https://", "'https://' is not an https URL"),
        ("https://[bad/a.gguf", "is not a URL"),
        ("ftp:a", "unknown scheme 'ftp'"),
        ("hf:../../etc/passwd", "'../../etc/passwd' is not a hub repository"),
        ("hf:org", "'org' is not a hub repository"),
        ("file://elsewhere/a.gguf", "names no file of this machine"),
        ("file:a.gguf", "names no file of this machine"),
    ],
)
def test_what_cannot_be_fetched_is_refused_with_the_reason(text, message):
    with pytest.raises(PullError) as caught:
        parse_source(text)
    assert message in caught.value.message
    assert "secret" not in caught.value.message


def test_a_sha256_is_only_taken_where_it_is_checked():
    digest = "AB" * 32
    assert parse_source("https://example.org/a.gguf", digest) == UrlSource(
        "https://example.org/a.gguf", "ab" * 32
    )
    with pytest.raises(PullError, match="'abc' is not a SHA-256"):
        parse_source("https://example.org/a.gguf", "abc")
    with pytest.raises(PullError, match="a SHA-256 was given for 'smollm2'"):
        parse_source("smollm2", digest)


@pytest.mark.parametrize(
    "label", ["../../etc/passwd", "..", "", "a/b\\c", "\0", "x" * 500, "ü", "-rf", ".hidden"]
)
def test_a_name_made_from_outside_text_is_one_plain_folder(label):
    name = store_name(label, "identity")
    check_store_name(name)
    assert Path("/store", name).resolve().parent == Path("/store")


def test_two_sources_with_the_same_file_name_get_two_folders():
    assert store_name("model", "https://a/model.gguf") != store_name("model", "https://b/model.gguf")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\0b", "a" * 97, "-x"])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(PullError, match="can't be the name of a model"):
        check_store_name(name)
