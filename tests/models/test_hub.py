import hashlib

import huggingface_hub.constants
import pytest
from tests.models.file_server import COMMIT, FileServer, serving
from tests.models.tiny_gguf import write_tiny_gguf
from tests.models.watching import Watching

from takeoff.errors import PullError
from takeoff.models.store import Store

REPO = "org/tiny-GGUF"


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "home")


@pytest.fixture
def hub(tiny, monkeypatch):
    """A look-alike of the hub with one repository of two quantisations."""
    files = {"README.md": b"hello", "tiny-Q4_K_M.gguf": tiny, "tiny-Q8_0.gguf": tiny + b"\0" * 64}
    with serving(FileServer(repos={REPO: files})) as known:
        # huggingface_hub reads HF_ENDPOINT and HF_TOKEN when it is imported.
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", known.url)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            known.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield known


def test_a_quantisation_names_a_file_of_a_repository(store, hub, tiny):
    watching = Watching()
    model = store.pull(f"hf:{REPO}:q4_k_m", watching)
    assert model.path.name == "tiny-Q4_K_M.gguf"
    assert model.path.read_bytes() == tiny
    assert model.revision == COMMIT
    assert model.sha256 == hashlib.sha256(tiny).hexdigest()
    assert watching.stages[0] == ("downloading tiny-Q4_K_M.gguf", len(tiny))
    assert watching.reports[-1] == len(tiny)
    headers = hub.requests_for(f"/{REPO}/resolve/{COMMIT}/tiny-Q4_K_M.gguf")[0]
    assert headers["authorization"] == "Bearer hf_test"


def test_a_token_that_was_given_goes_before_the_one_of_the_environment(tmp_path, hub):
    Store(tmp_path / "home", "hf_given").pull(f"hf:{REPO}:q4_k_m")
    for path in (f"/api/models/{REPO}", f"/{REPO}/resolve/{COMMIT}/tiny-Q4_K_M.gguf"):
        assert hub.requests_for(path)[0]["authorization"] == "Bearer hf_given"


def test_a_stored_model_needs_no_hub(store, hub):
    model = store.pull(f"hf:{REPO}:Q4_K_M")
    hub.seen.clear()
    assert store.pull(f"hf:{REPO}:Q4_K_M") == model
    assert hub.seen == []


def test_two_spellings_of_one_file_are_one_model(store, hub):
    first = store.pull(f"hf:{REPO}:Q4_K_M")
    second = store.pull(f"hf:{REPO}:tiny-Q4_K_M.gguf")
    assert first.path == second.path
    hub.seen.clear()
    assert store.pull(f"hf:{REPO}:tiny-Q4_K_M.gguf").path == first.path
    assert hub.seen == []


def test_an_interrupted_download_resumes_from_its_part(store, hub, tiny, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 50_000)

    class Interrupt(Watching):
        def at(self, done_bytes: int) -> None:
            if done_bytes == 100_000:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull(f"hf:{REPO}:Q4_K_M", Interrupt())
    assert store.list() == ()
    hub.seen.clear()
    assert store.pull(f"hf:{REPO}:Q4_K_M").path.read_bytes() == tiny
    path = f"/{REPO}/resolve/{COMMIT}/tiny-Q4_K_M.gguf"
    assert [headers["range"] for headers in hub.requests_for(path)] == ["bytes=100000-"]


def test_a_connection_that_breaks_is_resumed_in_the_same_pull(store, hub, tiny, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    hub.cut_after = [120_000]
    assert store.pull(f"hf:{REPO}:Q4_K_M").path.read_bytes() == tiny
    path = f"/{REPO}/resolve/{COMMIT}/tiny-Q4_K_M.gguf"
    assert [headers.get("range") for headers in hub.requests_for(path)] == [None, "bytes=100000-"]


def test_a_file_that_is_not_what_the_hub_says_is_refused(store, hub):
    hub.wrong_sha256 = True
    with pytest.raises(PullError, match=f"expected {'f' * 64}"):
        store.pull(f"hf:{REPO}:Q4_K_M")
    assert store.list() == ()


def test_a_choice_to_make_lists_the_files(store, hub):
    with pytest.raises(PullError, match=f"hf:{REPO} could be any of 2 files") as caught:
        store.pull(f"hf:{REPO}")
    assert caught.value.hint.endswith("tiny-Q4_K_M.gguf, tiny-Q8_0.gguf")


def test_a_quantisation_that_is_not_there_lists_the_files(store, hub):
    with pytest.raises(PullError, match="has no file for 'Q4_K'") as caught:
        store.pull(f"hf:{REPO}:Q4_K")
    assert caught.value.hint == "it has tiny-Q4_K_M.gguf, tiny-Q8_0.gguf"


def test_a_repository_without_gguf_files_is_told(store, hub):
    hub.repos["org/weights"] = {"model.safetensors": b"x"}
    with pytest.raises(PullError, match="org/weights has no GGUF file"):
        store.pull("hf:org/weights")


def test_a_single_file_needs_no_choice(store, hub, tiny):
    hub.repos["org/one"] = {"deep/folder/one.gguf": tiny, "mmproj-one.gguf": b"x"}
    model = store.pull("hf:org/one")
    assert model.path.name == "one.gguf"
    assert model.path.parent.parent == store.root / "models"


def test_a_model_in_pieces_is_refused_with_what_to_do(store, hub):
    hub.repos["org/big"] = {f"big-{i:05d}-of-00003.gguf": b"x" for i in (1, 2, 3)}
    with pytest.raises(PullError, match="is one of 3 pieces of a model") as caught:
        store.pull("hf:org/big")
    assert "llama-gguf-split --merge" in caught.value.hint


def test_an_unknown_repository_is_told(store, hub):
    with pytest.raises(PullError, match="the hub has no repository org/nothing, or it is private"):
        store.pull("hf:org/nothing")


def test_a_gated_repository_says_how_to_get_in(store, hub):
    hub.statuses[f"/{REPO}/resolve/{COMMIT}/tiny-Q4_K_M.gguf"] = 403
    hub.error_code = "GatedRepo"
    with pytest.raises(PullError, match=f"{REPO} is gated") as caught:
        store.pull(f"hf:{REPO}:Q4_K_M")
    assert "HF_TOKEN" in caught.value.hint
    assert store.list() == ()


@pytest.mark.parametrize("status", [401, 403, 418])
def test_a_refusal_of_the_hub_is_told(store, hub, status):
    hub.statuses[f"/api/models/{REPO}"] = status
    with pytest.raises(
        PullError, match=f"the hub answered {status} for|no repository {REPO}, or it is private"
    ):
        store.pull(f"hf:{REPO}:Q4_K_M")


def test_a_hub_that_is_not_there_is_told(store, hub, monkeypatch):
    with serving(FileServer()) as gone:
        pass
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", gone.url)
    with pytest.raises(PullError, match=f"the hub can't be reached for {REPO}"):
        store.pull(f"hf:{REPO}:Q4_K_M")


def test_a_token_is_not_sent_to_another_host(store, hub, tiny):
    with serving(FileServer(files={"/blob": tiny})) as elsewhere:
        away = elsewhere.url.replace("127.0.0.1", "localhost")
        hub.redirects[f"/{REPO}/resolve/{COMMIT}/tiny-Q4_K_M.gguf"] = f"{away}/blob"
        assert store.pull(f"hf:{REPO}:Q4_K_M").path.read_bytes() == tiny
        assert "authorization" not in elsewhere.requests_for("/blob")[0]
