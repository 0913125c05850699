"""The layers: defaults < manifest < variables < flags; and what a body of POST /reader asks for."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from takeoff.errors import InvalidRequest, SettingsError
from takeoff.settings import Settings, load_reader_settings, load_settings

TWO = """
takeoff:
  server_config: {threads: 3, max_requests: 7}
  readers_config:
    a: {model_name: ma, device: cpu, consumer_group: ga, max_batch_size: 4}
    b: {model_name: mb, device: auto, consumer_group: gb, threads: 5}
"""
ONE = "takeoff: {server_config: , readers_config: {a: {model_name: ma, device: cpu, consumer_group: ga}}}"


@pytest.fixture
def manifest(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        (tmp_path / "config.yaml").write_text(text)
        return tmp_path / "config.yaml"

    return write


def load(environ: dict[str, str], **flags: Any) -> Settings:
    return load_settings(flags, environ, container_manifest=Path("/nowhere"))


def refusal(environ: dict[str, str], **flags: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(environ, **flags)
    return caught.value


def test_flags_win_over_variables_over_the_manifest_over_the_defaults(manifest: Any) -> None:
    path = manifest(TWO)
    loaded = load({"TAKEOFF_MANIFEST": str(path)})
    assert (loaded.max_requests, loaded.max_queued_tokens) == (7, 200_000)
    assert [loaded.readers[name].threads for name in "ab"] == [3, 5]
    loaded = load({"TAKEOFF_MAX_REQUESTS": "8", "TAKEOFF_THREADS": "6"}, manifest=path)
    assert loaded.max_requests == 8
    assert [loaded.readers[name].threads for name in "ab"] == [6, 6]
    assert [loaded.readers[name].max_slots for name in "ab"] == [4, None]
    loaded = load(
        {"TAKEOFF_MAX_REQUESTS": "8", "TAKEOFF_THREADS": "6"}, manifest=path, max_requests="9", threads="2"
    )
    assert loaded.max_requests == 9
    assert [loaded.readers[name].threads for name in "ab"] == [2, 2]
    assert loaded.threads == 2


def test_a_flag_of_a_manifest_wins_over_its_variable_and_both_over_the_container_s(manifest: Any) -> None:
    path = manifest(TWO)
    assert load_settings({}, {}, container_manifest=path).max_requests == 7
    (path.parent / "empty.yaml").write_text("takeoff: {server_config: , readers_config: }")
    environ = {"TAKEOFF_MANIFEST": str(path.parent / "empty.yaml")}
    assert load_settings({}, environ, container_manifest=path).max_requests == 1_024
    assert load_settings({"manifest": path}, environ).max_requests == 7


def test_config_yaml_here_is_not_read_unasked(manifest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(manifest(TWO).parent)
    assert load({}).max_requests == 1_024


def test_a_manifest_that_was_named_must_be_there(tmp_path: Path) -> None:
    assert refusal({}, manifest=tmp_path / "x.yaml").message == f"there is no file {tmp_path / 'x.yaml'}"


@pytest.mark.parametrize(
    ("variable", "flag"),
    [("TAKEOFF_MODEL_NAME", "model"), ("TAKEOFF_DEVICE", "device"), ("", "consumer_group")],
)
def test_what_makes_a_reader_itself_can_be_overridden_in_one_reader_only(
    manifest: Any, variable: str, flag: str
) -> None:
    environ, flags = ({variable: "cuda"}, {}) if variable else ({}, {flag: "cuda"})
    error = refusal(environ, manifest=manifest(TWO), **flags)
    name = variable or "--consumer-group"
    assert error.message == f"{name} can't go for all of the manifest's 2 readers (a, b)"
    assert error.hint == "set it for each reader in the manifest"
    loaded = load(environ, manifest=manifest(ONE), **flags)
    assert getattr(loaded.readers["a"], flag) == "cuda"


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("TAKEOFF_MODEL_NAME", "org/m", "model", "org/m"),
        ("TAKEOFF_DEVICE", "cpu", "device", "cpu"),
        ("TAKEOFF_MAX_BATCH_SIZE", "8", "max_slots", 8),
        ("TAKEOFF_BATCH_DURATION_MILLIS", "100", "batch_duration_millis", 100),
        ("TAKEOFF_ACCESS_TOKEN", "hf_x", "access_token", "hf_x"),
        ("TAKEOFF_CONSUMER_GROUP", "g", "consumer_group", "g"),
        ("TAKEOFF_MAX_SEQUENCE_LENGTH", "128", "context", 128),
        ("TAKEOFF_MAX_SEQUENCE_LENGTH", "0", "context", None),
        ("TAKEOFF_MAX_SEQ_LEN", "128", "context", 128),
        ("TAKEOFF_LOG_LEVEL", "INFO", "log_level", "info"),
        ("TAKEOFF_LOG_LEVEL", "Warning", "log_level", "warning"),
        ("TAKEOFF_ECHO", "true", "echo", True),
        ("TAKEOFF_ALLOW_REMOTE_IMAGES", "false", "allow_remote_images", False),
        ("TAKEOFF_ENABLE_METRICS", "0", "enable_metrics", False),
        ("TAKEOFF_DETERMINISTIC", "1", "deterministic", True),
        ("TAKEOFF_PORT", "9000", "port", 9000),
        ("TAKEOFF_TAKEOFF_PORT", "off", "takeoff_port", None),
        ("TAKEOFF_MANAGEMENT_PORT", "0", "management_port", 0),
        ("TAKEOFF_BODY_SIZE_LIMIT_BYTES", "4096", "max_body_bytes", 4096),
        ("TAKEOFF_RESERVED_CONSUMERS", "a,b", "reserved_consumers", ("a", "b")),
        ("TAKEOFF_LORAS", "a=/x,b=/y", "loras", {"a": "/x", "b": "/y"}),
        ("TAKEOFF_REPOSITORY_PATH", "/x, /y", "repository_path", (Path("/x"), Path("/y"))),
        ("TAKEOFF_MODEL_NAME", "", "model", "smollm2"),
    ],
)
def test_variables_set_fields(variable: str, text: str, field: str, value: object) -> None:
    loaded = load({variable: text})
    assert getattr(loaded, field) == value
    assert (field in loaded.named) == (text != "")


WITHOUT_EFFECT = (
    "BACKEND",
    "CUDA_VISIBLE_DEVICES",
    "REILL_THRESHOLD",
    "DISABLE_CONTINUOUS_GENERATION",
    "REDIS_HOST",
    "REDIS_PORT",
    "HEARTBEAT_WAIT_INTERVAL",
    "NVLINK_UNAVAILABLE",
    "DISABLE_CUDA_GRAPH",
    "DISABLE_STATIC",
    "QUANT_TYPE",
    "EXPORT_TRACES",
    "TRACES_HOST",
    "METRICS_TARGET",
    "METRICS_LOG_LEVEL",
    "RUN_NAME",
    "ADD_READER_ID_SUFFIX",
    "HEADLESS",
    "IMAGE",
    "DISABLE_BATCHING",
    "BATCH_TIMEOUT",
    "RESULT_SLEEP_TIMEOUT",
    "VERTEX_PORT",
    "SNOWFLAKE_PORT",
    "INTERNAL_PORT",
    "PAGE_CACHE_SIZE",
)


def test_variables_that_mean_nothing_here_are_accepted_and_named_once() -> None:
    names = [*(f"TAKEOFF_{name}" for name in WITHOUT_EFFECT), "LICENSE_KEY", "RUST_LOG"]
    assert load(dict.fromkeys(names, "x")).without_effect == tuple(names)
    assert (
        load({"TAKEOFF_TENSOR_PARALLEL": "1", "TAKEOFF_ECHO": "false", "RUST_BACKTRACE": "1"}).without_effect
        == ()
    )
    assert load({"TAKEOFF_ECHO": "true"}).without_effect == ("TAKEOFF_ECHO",)
    assert load({"TAKEOFF_REDIS_HOST": ""}).without_effect == ()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TAKEOFF_TENSOR_PARALLEL": "2"}, "TAKEOFF_TENSOR_PARALLEL: only 1 is possible here, got '2'"),
        (
            {"TAKEOFF_MAX_BATCH_SIZE": "0"},
            "TAKEOFF_MAX_BATCH_SIZE: Input should be greater than or equal to 1, got '0'",
        ),
        ({"TAKEOFF_DEVICE": "api"}, "TAKEOFF_DEVICE: Input should be 'auto', 'cpu' or 'cuda', got 'api'"),
        (
            {"TAKEOFF_ALLOW_REMOTE_IMAGES": "true"},
            "TAKEOFF_ALLOW_REMOTE_IMAGES: this server fetches no images",
        ),
        (
            {"TAKEOFF_MODEL": "a", "TAKEOFF_MODEL_NAME": "b"},
            "TAKEOFF_MODEL and TAKEOFF_MODEL_NAME set the same, to different values",
        ),
        ({"TAKEOFF_MEMORY_GB": "nan"}, "TAKEOFF_MEMORY_GB: Input should be"),
    ],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], message: str) -> None:
    assert refusal(environ).message.startswith(message)


def test_a_mistyped_variable_suggests_the_right_one() -> None:
    error = refusal({"TAKEOFF_MAX_BATHC_SIZE": "8"})
    assert (error.message, error.hint) == (
        "TAKEOFF_MAX_BATHC_SIZE is not a setting",
        "did you mean TAKEOFF_MAX_BATCH_SIZE?",
    )


def test_a_wrong_flag_is_named_and_a_key_is_not_shown() -> None:
    assert refusal({}, max_slots="x").message.startswith("--max-slots: Input should be a valid integer")
    message = refusal({}, api_key="secret" * 500).message
    assert message == "--api-key: String should have at most 1024 characters"


def test_a_manifest_s_values_are_named_by_no_variable(manifest: Any) -> None:
    error = refusal({"TAKEOFF_GPU_LAYERS": "5"}, manifest=manifest(ONE))
    assert error.message == "reader a: device is cpu, but gpu_layers is 5"


def test_what_kubernetes_says_of_a_service_called_takeoff_is_not_for_us() -> None:
    loaded = load(
        {
            "TAKEOFF_PORT": "tcp://10.0.0.1:3000",
            "TAKEOFF_PORT_3000_TCP": "tcp://10.0.0.1:3000",
            "TAKEOFF_PORT_3000_TCP_ADDR": "10.0.0.1",
            "TAKEOFF_SERVICE_HOST": "10.0.0.1",
            "TAKEOFF_SERVICE_PORT": "3000",
            "TAKEOFF_SERVICE_PORT_HTTP": "3000",
            "TAKEOFF_GATEWAY_SERVICE_HOST": "10.0.0.2",
        }
    )
    assert loaded == Settings()
    assert loaded.without_effect == ()


def test_defaults_of_ports_are_not_named() -> None:
    assert load({}).named == frozenset()
    assert load({}, takeoff_port="3000").named == {"takeoff_port"}


FULL = {
    "model_name": "m",
    "device": "cpu",
    "consumer_group": "g",
    "max_batch_size": 2,
    "max_sequence_length": 512,
    "tensor_parallel": 1,
    "log_level": "INFO",
    "loras": "a=/x",
    "access_token": "t",
    "quant_type": "awq",
    "cuda_visible_devices": 0,
    "threads": 2,
    "unheard_of": [1, {"a": 2}],
    "backend": None,
}


def test_a_body_takes_all_names_of_a_reader() -> None:
    reader = load_reader_settings(FULL, Settings())
    assert (reader.model, reader.device, reader.consumer_group, reader.max_slots) == ("m", "cpu", "g", 2)
    assert (reader.context, reader.log_level, reader.loras, reader.access_token) == (
        512,
        "info",
        {"a": "/x"},
        "t",
    )
    assert reader.threads == 2
    assert type(reader).__name__ == "ReaderSettings"


def test_loras_of_a_body_may_be_a_list_or_an_object() -> None:
    for loras in ("a=/x,b=/y", ["a=/x", "b=/y"], {"a": "/x", "b": "/y"}):
        reader = load_reader_settings({"model_name": "m", "loras": loras}, Settings())
        assert reader.loras == {"a": "/x", "b": "/y"}


def test_a_body_inherits_what_it_leaves_out_but_not_who_it_is() -> None:
    defaults = load(
        {}, model="x", consumer_group="other", threads="3", max_slots="4", loras="a=/x", gpu_layers="9"
    )
    reader = load_reader_settings(
        {"model_name": "m", "device": "cpu", "consumer_group": "", "threads": None}, defaults
    )
    assert (reader.model, reader.consumer_group, reader.loras) == ("m", "primary", {})
    assert (reader.threads, reader.max_slots, reader.gpu_layers) == (3, 4, "auto")


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (
            {"model_name": "m", "max_batch_size": 0},
            "max_batch_size",
            "Input should be greater than or equal to 1",
        ),
        (
            {"model_name": "m", "max_batch_size": "8"},
            "max_batch_size",
            "Input should be a valid integer, got '8'",
        ),
        (
            {"model_name": "m", "max_batch_size": True},
            "max_batch_size",
            "Input should be a valid integer, got True",
        ),
        (
            {"model_name": "m", "max_sequence_length": 8.0},
            "max_sequence_length",
            "Input should be a valid integer",
        ),
        ({"model_name": "m", "tensor_parallel": 3}, "tensor_parallel", "only 1 is possible here, got 3"),
        (
            {"model_name": "m", "device": "api"},
            "device",
            "Input should be 'auto', 'cpu' or 'cuda', got 'api'",
        ),
        (
            {"model_name": "m", "nvlink_unavailable": -1},
            "nvlink_unavailable",
            "Input should be a whole number",
        ),
        (
            {"model_name": "", "device": "", "consumer_group": ""},
            "model_name",
            "String should have at least 1",
        ),
        ({"device": "cpu"}, "model_name", "a reader needs a model"),
        ({"model_name": None}, "model_name", "a reader needs a model"),
        ({"model_name": ["m"]}, "model_name", "Input should be a valid string"),
    ],
)
def test_a_wrong_body_names_its_key(body: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load_reader_settings(body, Settings())
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: {message}")


def test_what_contradicts_itself_in_a_body_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="device is cpu, but gpu_layers is 5"):
        load_reader_settings({"model_name": "m", "device": "cpu", "gpu_layers": 5}, Settings())
    with pytest.raises(InvalidRequest, match="prefix_cache_disk_mb needs prefix_cache_mb"):
        load_reader_settings({"model_name": "m", "prefix_cache_disk_mb": 1, "prefix_cache_mb": 0}, Settings())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted({*FULL, "gpu_layers", "memory_gb", "context"})), json_values))
def test_any_body_is_settings_or_an_invalid_request(body: dict[str, Any]) -> None:
    try:
        reader = load_reader_settings(body, Settings())
    except InvalidRequest as exc:
        param = exc.param
    else:
        assert body["model_name"] is not None
        assert body.get("max_batch_size") in (None, reader.max_slots)
        return
    assert param is None or param in {*body, "model_name"}
