"""`takeoff cluster kuberay`: what it prints is what Ray Serve and KubeRay read.

The schema of a RayService (over a megabyte, of github.com/ray-project/kuberay) is not kept here. What was
printed was checked against those of KubeRay 1.5.1, 1.6.2 and 1.7.0, each with no unknown field, by

    KUBERAY_CRD=helm-chart/kuberay-operator/crds/ray.io_rayservices.yaml pytest tests/cluster/test_kuberay.py

Without that file the shape that we know of is checked.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from takeoff.cli.cluster import cluster_app
from takeoff.cluster.kuberay import RAY_VERSION, Pods, documents
from takeoff.errors import SettingsError
from takeoff.settings import load_settings
from takeoff.settings.cluster import read_cluster

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "packaging" / "kuberay"
IMAGE = "registry.example/takeoff:latest"
CHAT = "chat: {model_name: smollm2, device: cpu, consumer_group: primary}"
CRD = os.environ.get("KUBERAY_CRD", "")


def printed(path: Path, *options: str) -> str:
    done = CliRunner().invoke(cluster_app, ["kuberay", str(path), "--image", IMAGE, *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def made(
    tmp_path: Path, server: str = "", cluster: str = "", readers: str = CHAT, **pods: Any
) -> list[dict[str, Any]]:
    """The documents of a manifest."""
    path = tmp_path / "manifest.yaml"
    path.write_text(
        f"takeoff:\n  server_config: {{{server}}}\n  readers_config:\n    {readers}\n"
        f"  cluster_config: {{{cluster}}}\n"
    )
    settings = load_settings({"manifest": str(path)}, {})
    text = documents(settings, read_cluster(path, settings.own_readers), Pods(IMAGE, **pods))
    return list(yaml.safe_load_all(text))


def serve_config(service: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(service["spec"]["serveConfigV2"])
    return config


def group(service: dict[str, Any], name: str) -> dict[str, Any]:
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return next(each for each in groups if each["groupName"] == name)


def container(group: dict[str, Any]) -> dict[str, Any]:
    (only,) = group["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def told_digest(service: dict[str, Any]) -> str:
    metadata = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["metadata"]
    return str(metadata["annotations"]["takeoff/told"])


# --- what is printed ----------------------------------------------------------------------------------


def test_the_file_is_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKEOFF_API_KEY", "top-secret")  # plays no part
    assert printed(FOLDER / "manifest.yaml") == (FOLDER / "rayservice.yaml").read_text()


def test_the_version_of_ray_is_that_of_the_lock() -> None:
    assert f"\nray=={RAY_VERSION} " in (ROOT / "requirements-cluster.lock").read_text()


def test_no_secret_is_in_it_and_a_door_takes_its_key_from_a_secret(tmp_path: Path) -> None:
    service, *others = made(tmp_path, server="api_key: top-secret, access_token: hf-secret")
    assert "top-secret" not in json.dumps([service, *others])
    assert "hf-secret" not in json.dumps([service, *others])
    env = {each["name"]: each for each in container(group(service, "doors"))["env"]}
    source = {"name": "takeoff-key", "key": "api-key", "optional": False}
    assert env["TAKEOFF_API_KEY"]["valueFrom"] == {"secretKeyRef": source}
    assert "TAKEOFF_API_KEY" not in {each["name"] for each in container(group(service, "readers"))["env"]}


def test_ports_probe_and_service_are_those_of_the_doors(tmp_path: Path) -> None:
    service, front, _ = made(tmp_path, server="front_port: 8100, openai_port: off, tls_cert: /c, tls_key: /k")
    doors = container(group(service, "doors"))
    assert [(port["name"], port["containerPort"]) for port in doors["ports"]] == [
        ("front", 8100),
        ("takeoff", 3000),
        ("management", 3001),
    ]
    assert doors["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8100, "scheme": "HTTPS"}
    assert [port["port"] for port in front["spec"]["ports"]] == [8100, 3000, 3001]
    labels = group(service, "doors")["template"]["metadata"]["labels"]
    assert front["spec"]["selector"].items() <= labels.items()
    with pytest.raises(SettingsError, match="a port that is known, and takeoff_port is 0"):
        made(tmp_path, server="port: 0")


def test_a_door_listens_everywhere_and_answers_to_the_names_of_its_service(tmp_path: Path) -> None:
    service, *_ = made(tmp_path, server="host: 127.0.0.1, allowed_host: [llm.example]", namespace="ml")
    (doors,) = [app for app in serve_config(service)["applications"] if app["name"] == "takeoff-doors"]
    told = json.loads(doors["args"]["settings"])
    assert told["host"] == "0.0.0.0"
    assert told["allowed_host"] == [
        *("llm.example", "takeoff", "takeoff.ml", "takeoff.ml.svc", "takeoff.ml.svc.cluster.local")
    ]
    assert told.keys() == {"home", "host", "allowed_host"}


def test_one_door_a_pod(tmp_path: Path) -> None:
    service, *_ = made(tmp_path, cluster="doors: 3")
    doors = group(service, "doors")
    assert (doors["minReplicas"], doors["replicas"], doors["maxReplicas"]) == (3, 3, 3)
    # It stands in a command of a shell.
    assert json.loads(json.loads(doors["rayStartParams"]["resources"])) == {"takeoff_door": 1}
    assert "resources" not in group(service, "readers")["rayStartParams"]


@pytest.mark.parametrize(
    ("cluster", "workers", "bounds"),
    [
        ("", None, (1, 1)),
        ("readers: {chat: {replicas: 0-4}}", None, (0, 4)),
        ("readers: {chat: {replicas: 2-4}}", 3, (3, 3)),
    ],
)
def test_pods_of_readers(tmp_path: Path, cluster: str, workers: int | None, bounds: tuple[int, int]) -> None:
    service, *_ = made(tmp_path, cluster=cluster, workers=workers)
    readers = group(service, "readers")
    assert (readers["minReplicas"], readers["maxReplicas"]) == bounds
    assert service["spec"]["rayClusterConfig"]["enableInTreeAutoscaling"] is (bounds[0] != bounds[1])


def test_a_pod_holds_the_largest_replica(tmp_path: Path) -> None:
    readers = f"{CHAT}\n    embed: {{model_name: minilm, device: cpu, consumer_group: embed}}"
    cluster = "readers: {chat: {cpus: 2.5}, embed: {cpus: 1, gpus: 0.5}}"
    service, *_ = made(tmp_path, cluster=cluster, readers=readers, memory="24Gi")
    assert container(group(service, "readers"))["resources"]["limits"] == {
        "cpu": "2500m",
        "memory": "24Gi",
        "nvidia.com/gpu": "1",
    }


def test_the_models_are_on_the_volume(tmp_path: Path) -> None:
    service, _, volume = made(tmp_path, server="home: /models")
    for name in ("doors", "readers"):
        assert container(group(service, name))["volumeMounts"] == [{"name": "models", "mountPath": "/models"}]
        claim = {"claimName": volume["metadata"]["name"]}
        volumes = group(service, name)["template"]["spec"]["volumes"]
        assert volumes == [{"name": "models", "persistentVolumeClaim": claim}]


def test_streams_have_their_time_to_finish(tmp_path: Path) -> None:
    service, *_ = made(tmp_path, server="drain_timeout_s: 90")
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]
    for part in (head, group(service, "doors"), group(service, "readers")):
        assert container(part)["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "90"]}}}
        assert part["template"]["spec"]["terminationGracePeriodSeconds"] > 90


def test_other_readers_or_settings_make_another_ray_cluster_and_more_doors_do_not(tmp_path: Path) -> None:
    before, *_ = made(tmp_path)
    doors, *_ = made(tmp_path, cluster="doors: 2")
    model, *_ = made(tmp_path, readers=CHAT.replace("smollm2", "gemma-3-270m"))
    replicas, *_ = made(tmp_path, cluster="readers: {chat: {replicas: 1-4}}")
    limits, *_ = made(tmp_path, server="max_requests: 64")
    assert told_digest(doors) == told_digest(before)
    assert len({told_digest(service) for service in (before, model, replicas, limits)}) == 4


@pytest.mark.parametrize(("field", "text"), [("name", "Takeoff"), ("namespace", ""), ("memory", "much")])
def test_what_kubernetes_would_refuse_is_refused(tmp_path: Path, field: str, text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        made(tmp_path, **{field: text})
    assert refused.value.param == field


# --- what reads it ------------------------------------------------------------------------------------


def test_ray_serve_reads_the_configuration() -> None:
    schema = pytest.importorskip("ray.serve.schema")
    service, *_ = yaml.safe_load_all((FOLDER / "rayservice.yaml").read_text())
    config = schema.ServeDeploySchema.model_validate(serve_config(service))
    assert config.proxy_location == schema.ProxyLocation.Disabled
    assert {app.route_prefix for app in config.applications} == {None}


@pytest.mark.filterwarnings("ignore:.*metrics_interval_s:DeprecationWarning")
def test_the_builders_make_what_cluster_up_deploys() -> None:
    """Of the file's arguments: the same applications, but for what a pod is told beside."""
    pytest.importorskip("ray.serve")
    from takeoff.cluster import application, apps

    service, *_ = yaml.safe_load_all((FOLDER / "rayservice.yaml").read_text())
    settings = load_settings({"manifest": str(FOLDER / "manifest.yaml"), "home": "/takeoff"}, {})
    readers = apps.reader_apps(settings, read_cluster(settings.manifest, settings.own_readers))
    *told, told_doors = serve_config(service)["applications"]
    assert [app["name"] for app in told] == [reader.name for reader in readers]
    for app, reader in zip(told, readers, strict=True):
        built, wanted = deployment(application.replicas(app["args"])), deployment(reader.app)
        assert built._deployment_config == wanted._deployment_config
        assert built.init_args == wanted.init_args[:1]  # these say whose processes it starts, too
        assert built.ray_actor_options == wanted.ray_actor_options
    doors = deployment(application.doors(told_doors["args"]))
    assert doors.num_replicas == 2
    assert doors.init_kwargs == {"has_others": True}
    assert doors.ray_actor_options["resources"] == {"takeoff_door": 1}


def deployment(app: Any) -> Any:
    return app._bound_deployment


@pytest.mark.skipif(not CRD, reason="KUBERAY_CRD names no file")
def test_kuberay_reads_the_ray_service() -> None:
    service, *_ = yaml.safe_load_all((FOLDER / "rayservice.yaml").read_text())
    (crd,) = yaml.safe_load_all(Path(CRD).read_text())
    (schema,) = [
        each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"] if each["name"] == "v1"
    ]
    jsonschema.validate(service, closed(schema))


def closed(schema: Any) -> Any:
    """The schema without room for fields that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made
