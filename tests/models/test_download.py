import hashlib
import shutil

import pytest
from tests.models.file_server import FileServer, serving
from tests.models.tiny_gguf import write_tiny_gguf
from tests.models.watching import Watching

from takeoff.errors import PullError
from takeoff.models import download
from takeoff.models.store import Store


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "home")


@pytest.fixture
def server(tiny):
    with serving(FileServer(files={"/models/tiny.gguf": tiny})) as known:
        yield known


@pytest.fixture(autouse=True)
def quick_tries(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)


def test_a_url_is_downloaded_with_its_hash_checked(store, server, tiny):
    watching = Watching()
    url = f"{server.url}/models/tiny.gguf"
    model = store.pull(url, watching, sha256=hashlib.sha256(tiny).hexdigest())
    assert model.path.read_bytes() == tiny
    assert watching.stages[0] == ("downloading tiny.gguf", len(tiny))
    assert sorted(p.name for p in model.path.parent.iterdir()) == [".lock", "model.json", "tiny.gguf"]


def test_a_broken_connection_is_resumed_where_it_broke(store, server, tiny):
    server.cut_after = [100_000, 50_000]
    model = store.pull(f"{server.url}/models/tiny.gguf")
    assert model.path.read_bytes() == tiny
    ranges = [headers.get("range") for headers in server.requests_for("/models/tiny.gguf")]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]
    etag = f'"{hashlib.sha256(tiny).hexdigest()}"'
    assert server.requests_for("/models/tiny.gguf")[1]["if-range"] == etag


def test_a_later_pull_goes_on_where_an_earlier_one_gave_up(store, server, tiny):
    server.cut_after = [100_000, 0, 0, 0, 0]
    url = f"{server.url}/models/tiny.gguf"
    with pytest.raises(PullError, match="broke off after 100,000 bytes"):
        store.pull(url)
    assert store.list() == ()
    server.seen.clear()
    assert store.pull(url).path.read_bytes() == tiny
    assert [headers["range"] for headers in server.requests_for("/models/tiny.gguf")] == ["bytes=100000-"]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(store, server, tmp_path):
    server.cut_after = [100_000, 0, 0, 0, 0]
    url = f"{server.url}/models/tiny.gguf"
    with pytest.raises(PullError, match="broke off"):
        store.pull(url)
    other = write_tiny_gguf(tmp_path / "other.gguf", num_floats=32 * 3000)
    server.files["/models/tiny.gguf"] = other
    assert store.pull(url).path.read_bytes() == other


def test_a_pull_killed_after_its_last_byte_is_not_stuck(store, server, tiny):
    class Interrupt(Watching):
        def stage(self, label: str, total_bytes: int | None) -> None:
            if label.startswith("checking"):
                raise KeyboardInterrupt

    url = f"{server.url}/models/tiny.gguf"
    with pytest.raises(KeyboardInterrupt):
        store.pull(url, Interrupt())
    assert store.pull(url).path.read_bytes() == tiny


def test_a_file_larger_than_the_disk_is_refused_before_it_comes(store, server, tiny, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(PullError, match=r"needs 67 MB in .*, 1 MB are free"):
        store.pull(f"{server.url}/models/tiny.gguf")
    assert [p.name for p in store.root.rglob("*.part")] == []


@pytest.mark.parametrize("lacking", ["etags", "ranges"])
def test_a_server_that_cannot_resume_sends_all_again(store, server, tiny, lacking):
    setattr(server, lacking, False)
    server.cut_after = [100_000]
    assert store.pull(f"{server.url}/models/tiny.gguf").path.read_bytes() == tiny


def test_a_file_of_unknown_length_is_downloaded(store, server, tiny):
    server.lengths = False
    watching = Watching()
    assert store.pull(f"{server.url}/models/tiny.gguf", watching).path.read_bytes() == tiny
    assert watching.stages[0] == ("downloading tiny.gguf", None)


def test_a_wrong_hash_leaves_nothing_to_go_on_from(store, server):
    with pytest.raises(PullError, match=f"expected {'0' * 64}"):
        store.pull(f"{server.url}/models/tiny.gguf", sha256="0" * 64)
    assert [p.name for p in (store.root / "models").rglob("*") if p.is_file()] == [".lock"]


def test_a_redirect_is_followed_on_this_machine(store, server, tiny):
    server.redirects["/latest.gguf"] = f"{server.url}/models/tiny.gguf"
    assert store.pull(f"{server.url}/latest.gguf").path.read_bytes() == tiny


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://example.org/a.gguf", "http:// is not safe for a model from example.org"),
        ("https://me:secret@example.org/a.gguf", "carries a user name or password"),
        ("file:///etc/passwd", "Redirection to url .* is not allowed"),
    ],
)
def test_a_redirect_leads_nowhere_that_the_url_could_not(store, server, target, message):
    server.redirects["/latest.gguf"] = target
    with pytest.raises(PullError, match=message):
        store.pull(f"{server.url}/latest.gguf")


def test_a_missing_file_is_told_with_its_status(store, server):
    with pytest.raises(PullError, match=r"/nothing\.gguf answered 404 Not Found"):
        store.pull(f"{server.url}/nothing.gguf")


def test_a_server_that_is_not_there_is_told(store):
    with serving(FileServer()) as known:
        url = f"{known.url}/a.gguf"
    with pytest.raises(PullError, match=r"can't be reached: .*Connection refused"):
        store.pull(url)


def test_no_login_is_sent_to_a_web_server(store, server, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "secret")
    store.pull(f"{server.url}/models/tiny.gguf")
    assert "secret" not in str(server.seen)
    assert all("authorization" not in headers for _, _, headers in server.seen)


def test_a_name_in_the_url_never_leads_outside_the_store(store, server, tiny):
    server.files["/..%2f..%2fescape.gguf"] = tiny
    model = store.pull(f"{server.url}/..%2f..%2fescape.gguf")
    assert model.path.resolve().is_relative_to(store.root / "models")
    assert model.path.name == "escape.gguf"
