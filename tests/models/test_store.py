import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.models.file_server import FileServer, serving
from tests.models.tiny_gguf import write_tiny_gguf
from tests.models.watching import Watching

from takeoff.errors import ModelError, PullError
from takeoff.models import disk
from takeoff.models.store import Store


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "home")


def files_of(store: Store) -> list[str]:
    models = store.root / "models"
    return sorted(p.name for p in models.rglob("*") if p.is_file() and p.name not in (".lock", "model.json"))


def test_a_file_url_is_copied_and_described(store, tiny, tmp_path):
    url = (tmp_path / "tiny.gguf").as_uri()
    watching = Watching()
    model = store.pull(url, watching)
    assert model.path.read_bytes() == tiny
    assert model.sha256 == hashlib.sha256(tiny).hexdigest()
    assert (model.architecture, model.context_length, model.quantisation) == ("llama", 2048, "F32")
    assert model.num_params == 65_536
    assert model.file_bytes == len(tiny)
    assert watching.stages == [("copying tiny.gguf", len(tiny)), ("checking SHA-256", len(tiny))]
    assert watching.reports[-1] == len(tiny)
    assert store.list() == (model,)
    assert store.find(url) == model
    assert store.find(model.name) == model


def test_a_second_pull_returns_at_once(store, tiny, tmp_path):
    url = (tmp_path / "tiny.gguf").as_uri()
    first = store.pull(url)
    (tmp_path / "tiny.gguf").unlink()
    watching = Watching()
    assert store.pull(url, watching) == first
    assert watching.stages == []


def test_a_path_is_used_in_place(store, tiny, tmp_path):
    model = store.pull(str(tmp_path / "tiny.gguf"))
    assert model.path == tmp_path / "tiny.gguf"
    assert model.sha256 is None
    assert store.list() == ()


def test_a_path_without_a_file_is_an_error(store, tmp_path):
    with pytest.raises(PullError, match=r"missing\.gguf does not exist"):
        store.pull(str(tmp_path / "missing.gguf"))
    with pytest.raises(PullError, match="is a folder, not a GGUF file"):
        store.pull(f"{tmp_path}/")


def test_an_unknown_name_suggests_the_nearest(store):
    with pytest.raises(PullError, match="no model is called 'smolm2'") as caught:
        store.pull("smolm2")
    assert caught.value.hint == "did you mean smollm2?"


def test_a_wrong_hash_leaves_nothing(store, tiny, tmp_path):
    with pytest.raises(
        PullError, match=f"has SHA-256 {hashlib.sha256(tiny).hexdigest()}, expected {'0' * 64}"
    ):
        store.pull((tmp_path / "tiny.gguf").as_uri(), sha256="0" * 64)
    assert files_of(store) == []
    assert store.list() == ()


def test_a_stored_model_of_another_hash_is_an_error(store, tiny, tmp_path):
    url = (tmp_path / "tiny.gguf").as_uri()
    store.pull(url, sha256=hashlib.sha256(tiny).hexdigest().upper())
    with pytest.raises(PullError, match="is in the store with SHA-256"):
        store.pull(url, sha256="0" * 64)


def test_a_file_that_is_no_model_leaves_nothing(store, tmp_path):
    (tmp_path / "fake.gguf").write_bytes(b"GGUF" + b"\xff" * 4096)
    with pytest.raises(ModelError):
        store.pull((tmp_path / "fake.gguf").as_uri())
    assert files_of(store) == []
    assert store.list() == ()


def test_a_model_cut_in_half_leaves_nothing(store, tiny, tmp_path):
    (tmp_path / "half.gguf").write_bytes(tiny[: len(tiny) // 2])
    with pytest.raises(ModelError):
        store.pull((tmp_path / "half.gguf").as_uri())
    assert files_of(store) == []


def test_too_little_space_is_told_with_both_numbers(store, tiny, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000_000))
    needed = (len(tiny) + disk.SPACE_MARGIN_BYTES) / 1e6
    with pytest.raises(PullError, match=rf"needs {needed:.0f} MB in .*, 50 MB are free"):
        store.pull((tmp_path / "tiny.gguf").as_uri())
    assert files_of(store) == []


_PULL_SCRIPT = """
import resource, sys
from pathlib import Path
from takeoff.errors import PullError
from takeoff.models.store import Store
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    Store(Path(sys.argv[1])).pull(sys.argv[2])
except PullError as exc:
    print(exc.message)
"""


def test_a_disk_that_fills_up_is_told_and_leaves_no_model(store, tiny, tmp_path):
    url = (tmp_path / "tiny.gguf").as_uri()
    command = [sys.executable, "-c", _PULL_SCRIPT, str(store.root), url, "100000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(f"the disk is full while writing to {store.root}/models/"), done.stderr
    assert "MB are free" in done.stdout
    assert [name for name in files_of(store) if not name.endswith(".part")] == []
    assert store.list() == ()


def test_no_space_left_is_told_as_a_full_disk(tmp_path):
    with (
        pytest.raises(PullError, match=r"the disk is full .*No space left on device"),
        disk.disk_errors(tmp_path),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_store_that_cannot_be_written_names_the_setting(tmp_path):
    (tmp_path / "home").write_text("a file, not a folder")
    write_tiny_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(PullError, match="can't be used: Not a directory") as caught:
        Store(tmp_path / "home").pull((tmp_path / "tiny.gguf").as_uri())
    assert "TAKEOFF_HOME" in caught.value.hint


def test_two_pulls_at_once_fetch_once_and_the_second_says_it_waits(tmp_path, tiny):
    known = FileServer(files={"/m.gguf": tiny}, hold=threading.Event())
    with serving(known) as server:
        url = f"{server.url}/m.gguf"
        first, second = Watching(), Watching()
        waits = threading.Event()
        second.note = lambda text: (second.notes.append(text), waits.set())
        results: list[Path] = []

        def pull(watching: Watching) -> None:
            results.append(Store(tmp_path / "home").pull(url, watching).path)

        threads = [threading.Thread(target=pull, args=(watching,)) for watching in (first, second)]
        threads[0].start()
        assert server.held.wait(10)
        threads[1].start()
        assert waits.wait(10)
        known.hold.set()
        for thread in threads:
            thread.join(10)
        assert len(results) == 2
        assert results[0] == results[1]
        assert len(server.requests_for("/m.gguf")) == 1
    assert second.notes[0].startswith("another process is pulling m-")
    assert second.stages == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_pull_leaves_no_model_and_the_next_one_works(store, tiny, how):
    known = FileServer(files={"/m.gguf": tiny}, hold=threading.Event())
    with serving(known) as server:
        url = f"{server.url}/m.gguf"
        child = subprocess.Popen(
            [sys.executable, "-c", _PULL_SCRIPT, str(store.root), url], stderr=subprocess.DEVNULL
        )
        assert server.held.wait(30)
        child.send_signal(how)
        assert child.wait(10) != 0
        assert store.list() == ()
        assert [name for name in files_of(store) if name.endswith(".gguf")] == []
        known.hold.set()
        assert store.pull(url).path.read_bytes() == tiny


def test_a_model_whose_file_was_damaged_is_pulled_again(store, tiny, tmp_path):
    url = (tmp_path / "tiny.gguf").as_uri()
    model = store.pull(url)
    os.truncate(model.path, 100)
    assert store.list() == ()
    assert store.pull(url).path.read_bytes() == tiny


@pytest.mark.parametrize(
    "entry", ["", "{}", "[1]", "null", '{"file": "../../x.gguf"}', "\xff", "x" * 100_000, '{"file": 1}']
)
def test_a_nonsense_entry_is_no_model(store, entry):
    folder = store.root / "models" / "odd"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(entry, encoding="latin-1")
    assert store.list() == ()
    assert store.find("odd") is None


def test_an_entry_cannot_name_a_file_outside_its_folder(store, tiny, tmp_path):
    model = store.pull((tmp_path / "tiny.gguf").as_uri())
    path = model.path.parent / "model.json"
    entry = json.loads(path.read_text())
    entry["file"] = "../../../tiny.gguf"
    path.write_text(json.dumps(entry))
    assert store.list() == ()


def test_symbolic_links_are_not_followed(store, tiny, tmp_path):
    url = (tmp_path / "tiny.gguf").as_uri()
    model = store.pull(url)
    shutil.rmtree(model.path.parent)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    model.path.parent.mkdir()
    (model.path.parent / f"{model.path.name}.part").symlink_to(victim)
    with pytest.raises(PullError, match="can't be used"):
        store.pull(url)
    assert victim.read_text() == "precious"
    shutil.rmtree(model.path.parent)
    model.path.parent.symlink_to(tmp_path)
    with pytest.raises(PullError, match="is a symbolic link"):
        store.pull(url)
