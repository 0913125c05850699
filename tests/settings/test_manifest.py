"""The manifest: Titan Takeoff's shape and types, our names, and errors that say where."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from takeoff.errors import SettingsError
from takeoff.settings import Settings, load_settings

HEAD = "takeoff:\n  server_config:\n"  # then keys, indented by 4
READERS = "  readers_config:\n    r1: {model_name: m, device: cpu, consumer_group: primary}\n"


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(text: str, environ: dict[str, str] | None = None, **flags: Any) -> Settings:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return load_settings({"manifest": path, **flags}, environ or {})

    return load


def server(key: str, value: str) -> str:
    return f"{HEAD}    {key}: {value}\n{READERS}"


def reader(key: str, value: str) -> str:
    head = "takeoff:\n  server_config:\n  readers_config:\n    r1:\n"
    required = {"model_name": "m", "device": "cpu", "consumer_group": "primary"} | {key: value}
    return head + "".join(f"      {name}: {text}\n" for name, text in required.items())


def refusal(load: Any, text: str, **more: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(text, **more)
    return caught.value.message.splitlines()


def test_a_manifest_as_people_have_it_is_read(load: Any) -> None:
    loaded = load(
        """
takeoff:
  server_config:
    port: 4000
    management_port: 4001
    openai_port: 3003
    vertex_port: 3002
    body_size_limit_bytes: 4096
    max_prompt_string_bytes: 1000
    max_user_batch_size: 5
    reserved_consumers: "slow, night"
    repository_path: /models
    enable_metrics: false
    allow_remote_images: false
    echo: null
    launch_vertex_server: true
    invented: [1, {a: b}]
  readers_config:
    chat:
      model_name: org/model
      device: cuda
      consumer_group: primary
      max_batch_size: 16
      max_sequence_length: 2048
      batch_duration_millis: 20
      access_token: hf_x
      log_level: INFO
      loras: poet=/a/p.gguf, pirate=/a/q.gguf
      constrained_decoding_backend: outlines
      tensor_parallel: 1
      redis_host: null
      quant_type: auto
      page_cache_size: 4
    embed:
      model_name: minilm
      device: cpu
      consumer_group: ""
      max_seq_length: 0
      max_batch_size: null
      quant_type: awq
      threads: 1
"""
    )
    assert (loaded.port, loaded.takeoff_port, loaded.management_port, loaded.openai_port) == (
        8000,
        4000,
        4001,
        3003,
    )
    assert loaded.named >= {"takeoff_port", "management_port", "openai_port"}
    assert "port" not in loaded.named
    assert (loaded.max_body_bytes, loaded.max_prompt_string_bytes, loaded.max_user_batch_size) == (
        4096,
        1000,
        5,
    )
    assert loaded.reserved_consumers == ("slow", "night")
    assert loaded.repository_path == (Path("/models"),)
    assert loaded.enable_metrics is False
    chat, embed = loaded.readers["chat"], loaded.readers["embed"]
    assert (chat.model, chat.device, chat.consumer_group) == ("org/model", "cuda", "primary")
    assert (chat.max_slots, chat.context, chat.batch_duration_millis, chat.log_level) == (
        16,
        2048,
        20,
        "info",
    )
    assert chat.loras == {"poet": "/a/p.gguf", "pirate": "/a/q.gguf"}
    assert chat.access_token == "hf_x"
    assert (embed.consumer_group, embed.context, embed.max_slots, embed.threads) == ("primary", None, None, 1)
    assert loaded.without_effect == (
        "vertex_port",
        "launch_vertex_server",
        "invented",
        "constrained_decoding_backend",
        "quant_type",
        "page_cache_size",
    )


@pytest.mark.parametrize("null", ["null", "~", ""])
def test_the_two_sections_may_be_null(load: Any, null: str) -> None:
    loaded = load(f"takeoff:\n  server_config: {null}\n  readers_config: {null}\n")
    assert loaded.readers == {}
    assert (loaded.takeoff_port, loaded.model) == (3000, "smollm2")


def test_every_key_of_a_reader_may_be_null_but_the_model(load: Any) -> None:
    keys = (
        "device",
        "consumer_group",
        "redis_host",
        "max_batch_size",
        "tensor_parallel",
        "quant_type",
        "loras",
    )
    text = "takeoff:\n  server_config:\n  readers_config:\n    r1:\n      model_name: m\n"
    loaded = load(text + "".join(f"      {key}: null\n" for key in keys))
    assert loaded.readers["r1"].device == "auto"
    assert loaded.readers["r1"].loras == {}
    assert loaded.without_effect == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "No takeoff key found in manifest (config.yaml)"),
        ("[1]", "No takeoff key found in manifest (config.yaml)"),
        ("other: {server_config: , readers_config: }", "No takeoff key found in manifest (config.yaml)"),
        (
            "takeoff: null",
            "takeoff: Input should be a mapping of server_config and readers_config "
            "(config.yaml, line 1, column 10)",
        ),
        (
            "takeoff:\n  server_config: {}\n",
            "takeoff: readers_config is missing; it may be null (config.yaml, line 2, column 3)",
        ),
        (
            "takeoff: {server_config: 5, readers_config: null}",
            "takeoff.server_config: Input should be a mapping or null (config.yaml, line 1, column 26)",
        ),
        (
            "takeoff: {server_config: , readers_config: }\nstray: 5\n",
            "stray: Input should be a mapping of server_config and readers_config "
            "(config.yaml, line 2, column 8)",
        ),
        (
            "takeoff: {server_config: , readers_config: }\nstray: {a: 5}\n",
            "stray: server_config is missing; it may be null (config.yaml, line 2, column 8)",
        ),
        (
            "takeoff: {server_config: , readers_config: {r1: 5}}",
            "takeoff.readers_config.r1: Input should be a mapping (config.yaml, line 1, column 49)",
        ),
        (
            "takeoff: {server_config: , readers_config: {r1: {model_name: m, device: cpu}}}",
            "takeoff.readers_config.r1: consumer_group is missing (config.yaml, line 1, column 49)",
        ),
        (
            "takeoff: {server_config: , readers_config: {r1: {model_name: , device: , consumer_group: }}}",
            "takeoff.readers_config.r1.model_name: a reader needs a model (config.yaml, line 1, column 61)",
        ),
        (
            "takeoff: {server_config: , readers_config: {a/b: {model_name: m, device: , consumer_group: }}}",
            "takeoff.readers_config.a/b: a reader's id is 1 to 128 characters without spaces",
        ),
    ],
)
def test_the_shape_is_kept_to(load: Any, text: str, message: str) -> None:
    assert refusal(load, text)[0].startswith(message)


def test_another_entry_of_the_same_shape_is_named_as_without_effect(load: Any) -> None:
    loaded = load(
        "takeoff: {server_config: , readers_config: }\nspare: {server_config: {}, readers_config: }\n"
    )
    assert loaded.without_effect == ("spare",)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("port", "70000", "Input should be less than or equal to 65535, got 70000"),
        ("port", '"3000"', "Input should be a valid integer, got '3000'"),
        ("port", "-1", "Input should be greater than or equal to 0, got -1"),
        ("port", "1.5", "Input should be a valid integer, got 1.5"),
        ("vertex_port", "65536", "Input should be a whole number from 0 to 65535, got 65536"),
        ("snowflake_port", "true", "Input should be a whole number from 0 to 65535, got True"),
        ("echo", "1", "Input should be a valid boolean, got 1"),
        ("enable_metrics", "no", "Input should be a valid boolean, got 'no'"),
        ("allow_remote_images", '"x"', "Input should be a valid boolean, got 'x'"),
        ("allow_remote_images", "true", "this server fetches no images; send them with the request"),
        ("heartbeat_check_interval", "-1", "Input should be greater than or equal to 0, got -1"),
        ("body_size_limit_bytes", "100", "Input should be greater than or equal to 1024, got 100"),
        ("launch_openai_server", "0", "Input should be a valid boolean, got 0"),
        ("max_requests", "'5'", "Input should be a valid integer, got '5'"),
    ],
)
def test_types_of_the_server_are_strict(load: Any, key: str, value: str, error: str) -> None:
    (line,) = refusal(load, server(key, value))
    assert line.startswith(f"takeoff.server_config.{key}: {error}")
    assert line.endswith(f"(config.yaml, line 3, column {len(key) + 7})")


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("max_batch_size", "0", "Input should be greater than or equal to 1, got 0"),
        ("max_batch_size", "-1", "Input should be greater than or equal to 1, got -1"),
        ("max_batch_size", "'8'", "Input should be a valid integer, got '8'"),
        ("max_batch_size", "true", "Input should be a valid integer, got True"),
        ("max_batch_size", "010", "Input should be a valid integer, got 10.0"),
        ("max_sequence_length", "4.0", "Input should be a valid integer, got 4.0"),
        ("nvlink_unavailable", "true", "Input should be a whole number from 0 to 4294967295, got True"),
        (
            "disable_cuda_graph",
            "4294967296",
            "Input should be a whole number from 0 to 4294967295, got 4294967296",
        ),
        ("tensor_parallel", "2", "only 1 is possible here, got 2"),
        ("tensor_parallel", "true", "only 1 is possible here, got True"),
        ("device", "api", "Input should be 'auto', 'cpu' or 'cuda', got 'api'"),
        ("device", "gpu", "Input should be 'auto', 'cpu' or 'cuda', got 'gpu'"),
        ("model_name", "''", "String should have at least 1 character, got ''"),
        ("model_name", '"a\\0b"', "control characters are not allowed"),
        ("redis_host", "[a]", "Input should be a valid string"),
        ("constrained_decoding_backend", "xgrammar", "Input should be 'all', 'lmfe', 'outlines' or 'none'"),
        ("loras", "poet", "adapters are written name=path,name=path; 'poet' is not name=path"),
        ("loras", "[a=x, a=y]", "two adapters are called 'a'"),
        ("log_level", "loud", "Input should be 'debug', 'info', 'warning' or 'error', got 'loud'"),
    ],
)
def test_types_of_a_reader_are_strict(load: Any, key: str, value: str, error: str) -> None:
    (line,) = refusal(load, reader(key, value))
    assert line.startswith(f"takeoff.readers_config.r1.{key}: {error}")
    assert line.endswith(f"column {len(key) + 9})")


@pytest.mark.parametrize(("value", "model"), [("5", "5"), ("true", "true"), ("1.50", "1.50"), ("no", "no")])
def test_texts_are_lenient_and_kept_as_written(load: Any, value: str, model: str) -> None:
    assert load(reader("model_name", value)).readers["r1"].model == model


@pytest.mark.parametrize(
    ("level", "ours"), [("INFO", "info"), ("warn", "warning"), ("TRACE", "debug"), ("Critical", "error")]
)
def test_log_levels_are_taken_in_any_case_and_dialect(load: Any, level: str, ours: str) -> None:
    assert load(reader("log_level", level)).readers["r1"].log_level == ours


def test_all_that_is_wrong_is_said_at_once(load: Any) -> None:
    text = server("port", "x") + "    r2: {model_name: m, device: tpu, max_batch_size: 0}\n"
    lines = refusal(load, text)
    assert [line.split(": ")[0] for line in lines] == [
        "takeoff.server_config.port",
        "takeoff.readers_config.r2",
        "takeoff.readers_config.r2.device",
        "takeoff.readers_config.r2.max_batch_size",
    ]


def test_two_names_of_one_setting_must_agree(load: Any) -> None:
    text = reader("max_batch_size", "8") + "      max_slots: "
    assert load(text + "8\n").readers["r1"].max_slots == 8
    assert refusal(load, text + "9\n") == [
        "takeoff.readers_config.r1.max_slots: max_batch_size sets the same, to another value "
        "(config.yaml, line 9, column 18)"
    ]


def test_a_token_is_in_no_error_and_in_no_print(load: Any) -> None:
    secret = "hf_" + "s" * 2_000
    assert secret[:9] not in "".join(refusal(load, reader("access_token", secret)))
    assert secret[:9] not in "".join(refusal(load, server("api_key", secret)))
    loaded = load(reader("access_token", "hf_ssssss"), api_key="k_ssssss")
    assert loaded.readers["r1"].access_token == "hf_ssssss"
    for shown in (repr(loaded), str(loaded.model_dump()), loaded.model_dump_json(), str(loaded.readers)):
        assert "ssssss" not in shown


@pytest.mark.parametrize("order", [1, -1])
def test_a_server_that_is_not_launched_has_no_door(load: Any, order: int) -> None:
    lines = ["    launch_management_server: false\n", "    management_port: 3001\n"][::order]
    loaded = load(HEAD + "".join(lines) + "    openai_port: off\n    launch_openai_server: true\n" + READERS)
    assert (loaded.takeoff_port, loaded.management_port, loaded.openai_port) == (3000, None, None)


def test_doors_that_were_asked_for_must_differ(load: Any) -> None:
    (line,) = refusal(load, HEAD + "    port: 4000\n    openai_port: 4000\n" + READERS)
    assert line.startswith(
        "takeoff.server_config: takeoff_port and openai_port are both 4000 (config.yaml, line 3"
    )
    assert refusal(load, server("port", "8000"))[0].startswith(
        "takeoff.server_config: port and takeoff_port are both"
    )
    assert load(server("port", "3001")).takeoff_port == 3001  # the management door gives way


def test_the_server_sets_the_defaults_of_readers(load: Any) -> None:
    loaded = load(
        HEAD + "    threads: 3\n    max_batch_size: 4\n    gpu_layers: 7\n    front_port: 9000\n" + READERS
    )
    r1 = loaded.readers["r1"]
    assert (r1.threads, r1.max_slots) == (3, 4)
    assert r1.gpu_layers == "auto"  # its device is cpu
    assert loaded.port == 9000
    assert load(server("model", "x")).without_effect == ("model",)


def test_cpu_and_layers_on_a_gpu_contradict_each_other(load: Any) -> None:
    (line,) = refusal(load, reader("gpu_layers", "5"))
    assert line.startswith(
        "takeoff.readers_config.r1: device is cpu, but gpu_layers is 5 (config.yaml, line 5"
    )


scalars = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["true", "false", "no", "'5'", "1.5", "x", "[]", "{}", '""', "1e3", "0x1F", "007", ".5"]),
)


def is_whole(text: str, low: int, high: int) -> bool:
    return text.lstrip("-").isdigit() and str(int(text)) == text and low <= int(text) <= high


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=scalars)
def test_only_whole_numbers_in_range_are_ports(load: Any, value: str) -> None:
    if is_whole(value, 0, 65_535):
        if int(value) != 8000:
            assert load(server("port", value)).takeoff_port == int(value)
    else:
        assert refusal(load, server("port", value))[0].startswith("takeoff.server_config.port: ")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=scalars)
def test_only_whole_numbers_of_their_width_pass_where_nothing_comes_of_them(load: Any, value: str) -> None:
    if is_whole(value, 0, 2**32 - 1):
        assert load(reader("disable_static", value)).without_effect == ("disable_static",)
    else:
        assert refusal(load, reader("disable_static", value))[0].startswith(
            "takeoff.readers_config.r1.disable_static: "
        )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=scalars)
def test_only_true_and_false_are_truth_values(load: Any, value: str) -> None:
    if value in ("true", "false"):
        assert load(server("enable_metrics", value)).enable_metrics is (value == "true")
    else:
        assert (
            "enable_metrics: Input should be a valid boolean"
            in refusal(load, server("enable_metrics", value))[0]
        )
