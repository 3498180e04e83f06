"""The manifests of Kubernetes, read with the schemas of Kubernetes itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from sanic_app.settings import Settings, load
from sanic_app.settings.values import PostgresUrl
from sanic_app.supervisor import STOP_MARGIN

FOLDER = Path(__file__).parents[1] / "deploy" / "kubernetes"
FILES = sorted(path.name for path in FOLDER.iterdir())
OLDEST, NEWEST = "1.29", kubernetes_validate.latest_version()
"""The oldest has ReadWriteOncePod."""
IMAGE_USER = 10001
IMAGE_ENVIRONMENT = {"SANIC_APP_HOST": "0.0.0.0"}
SECRETS = {"api-token": "of-this-test", "database-url": "postgresql://user:secret@db.internal/jobs"}


def objects(file: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / file).read_text(encoding="utf-8")))


def workload(file: str) -> dict[str, Any]:
    (found,) = [one for one in objects(file) if one["kind"] in {"StatefulSet", "Deployment"}]
    return found


def pod(file: str) -> dict[str, Any]:
    spec: dict[str, Any] = workload(file)["spec"]["template"]["spec"]
    return spec


def container(file: str) -> dict[str, Any]:
    (only,) = pod(file)["containers"]
    return dict(only)


def settings(file: str, folder: Path) -> Settings:
    """Return what the service makes of the container's environment and secrets."""
    (mount,) = [one for one in container(file)["volumeMounts"] if one["name"] == "secret"]
    for name, text in SECRETS.items():
        (folder / name).write_text(text)
    environ = {
        one["name"]: one["value"].replace(mount["mountPath"], str(folder))
        for one in container(file)["env"]
    }
    return load({}, IMAGE_ENVIRONMENT | environ, folder)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("file", FILES)
def test_kubernetes_knows_every_field(file: str, version: str) -> None:
    for one in objects(file):
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pod: pod.update(terminationGracePeriod=15),
        lambda pod: pod["containers"][0].pop("name"),
        lambda pod: pod["securityContext"].update(fsGroup="10001"),
    ],
    ids=["an unknown field", "a missing field", "a wrong type"],
)
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_a_mistake_would_be_noticed(
    spoil: Callable[[dict[str, Any]], object], version: str
) -> None:
    manifest = workload("sqlite.yaml")
    spoil(manifest["spec"]["template"]["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("file", FILES)
def test_the_pod_may_run_where_the_standard_restricted_is_enforced(file: str) -> None:
    of_pod, of_container = pod(file)["securityContext"], container(file)["securityContext"]
    assert of_pod["runAsNonRoot"] is True
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert of_container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # The user of the image, and the owner of what is mounted.
    ids = {of_pod[name] for name in ("runAsUser", "runAsGroup", "fsGroup")}
    assert ids == {IMAGE_USER}
    dockerfile = (FOLDER.parent / "Dockerfile").read_text(encoding="utf-8")
    assert f"\nUSER {IMAGE_USER}:{IMAGE_USER}\n" in dockerfile
    # Neither Kubernetes' own token, nor variables that look like settings.
    assert pod(file)["automountServiceAccountToken"] is False
    assert pod(file)["enableServiceLinks"] is False


@pytest.mark.parametrize("file", FILES)
def test_the_pod_gets_the_time_that_a_stop_takes(file: str, tmp_path: Path) -> None:
    grace = pod(file)["terminationGracePeriodSeconds"]
    assert grace >= settings(file, tmp_path).stop_delay + STOP_MARGIN


@pytest.mark.parametrize("file", FILES)
def test_the_service_starts_with_a_token_on_the_port_that_is_probed(
    file: str, tmp_path: Path
) -> None:
    loaded = settings(file, tmp_path)
    assert loaded.api_token == SECRETS["api-token"].encode()
    assert not loaded.allow_anonymous
    (port,) = container(file)["ports"]
    assert port["containerPort"] == loaded.port
    paths = {
        name: container(file)[name]["httpGet"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    # A node without its database is not ready, and a restart would not help it.
    assert paths == {
        "startupProbe": {"path": "/health/live", "port": port["name"]},
        "readinessProbe": {"path": "/health/ready", "port": port["name"]},
        "livenessProbe": {"path": "/health/live", "port": port["name"]},
    }


@pytest.mark.parametrize("file", FILES)
def test_everything_finds_the_pods(file: str) -> None:
    labels = workload(file)["spec"]["template"]["metadata"]["labels"]
    for one in objects(file):
        selector = one["spec"]["selector"]
        assert selector.get("matchLabels", selector) == labels
    (service,) = [one for one in objects(file) if one["kind"] == "Service"]
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == container(file)["ports"][0]["name"]


def test_one_pod_alone_owns_a_queue_in_sqlite(tmp_path: Path) -> None:
    spec = workload("sqlite.yaml")["spec"]
    assert spec["replicas"] == 1
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    (mount,) = [
        one
        for one in container("sqlite.yaml")["volumeMounts"]
        if one["name"] == claim["metadata"]["name"]
    ]
    # The image's working folder, in which the default database is.
    assert settings("sqlite.yaml", tmp_path).database == Settings().database
    dockerfile = (FOLDER.parent / "Dockerfile").read_text(encoding="utf-8")
    assert f"\nWORKDIR {mount['mountPath']}\n" in dockerfile


def test_nodes_on_postgres_are_replaced_without_a_gap(tmp_path: Path) -> None:
    spec = workload("postgres.yaml")["spec"]
    assert spec["replicas"] > 1
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    loaded = settings("postgres.yaml", tmp_path)
    assert loaded.database == PostgresUrl(SECRETS["database-url"])
    # Two probes must have failed before it stops to serve.
    probe = container("postgres.yaml")["readinessProbe"]
    assert loaded.stop_delay > probe["periodSeconds"] * probe["failureThreshold"]
