"""What is shipped beside the code: pins, wheel, image, Compose, sample configuration, targets."""

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sanic_app
from sanic_app.client.health import check
from sanic_app.errors import SettingsError
from sanic_app.settings import KEYS, Settings, load
from sanic_app.settings.values import PostgresUrl
from sanic_app.store.audit import faults
from sanic_app.store.sqlite.snapshot import SqliteSnapshot
from sanic_app.supervisor import STOP_MARGIN
from tests.running import Running

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
YAML_FILES = sorted(path for path in DEPLOY.rglob("*.y*ml") if path.parent.name != "kubernetes")
POSTGRES = "docker-compose.postgres.yaml"
PIN_FILES = [
    *("requirements.txt", "requirements-dev.txt"),
    *("requirements-build.txt", "requirements-release.txt"),
]
PINNED_IMAGE = re.compile(r"[a-z/]+:v?\d+\.\d+(\.\d+)?[a-z-]*@sha256:[0-9a-f]{64}")
VERSIONED_IMAGE = re.compile(r"[a-z/]+:v?\d+\.\d+(\.\d+)?[a-z-]*")
PREFIX = "SANIC_APP_"

# --- Compose and Prometheus ----------------------------------------------------------------------


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def compose(name: str = "docker-compose.yaml") -> dict[str, Any]:
    services: dict[str, Any] = parsed(DEPLOY / name)["services"]
    return services


COMPOSED = {
    "docker-compose.yaml": {"sanic-app", "prometheus", "alertmanager", "grafana"},
    "docker-compose.postgres.yaml": {
        *("postgres", "node-1", "node-2", "haproxy", "prometheus", "alertmanager", "grafana"),
    },
}
SERVICES = [(file, service) for file, services in COMPOSED.items() for service in sorted(services)]
TMPFS = {
    "postgres": ["/var/run/postgresql", "/tmp"],
    "node-1": ["/data:uid=10001,gid=10001,mode=0700"],
    "node-2": ["/data:uid=10001,gid=10001,mode=0700"],
    "grafana": ["/tmp"],
}
WATCHING = {"prometheus": "9090:9090", "alertmanager": "9093:9093", "grafana": "3001:3000"}
PUBLISHED = {
    "docker-compose.yaml": {"sanic-app": "3000:8000", **WATCHING},
    "docker-compose.postgres.yaml": {"haproxy": "3000:8000", **WATCHING},
}


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_every_yaml_file_parses(path: Path) -> None:
    assert isinstance(parsed(path), dict)


@pytest.mark.parametrize("file", COMPOSED)
def test_compose_runs_the_services_that_it_names(file: str) -> None:
    assert set(compose(file)) == COMPOSED[file]


@pytest.mark.parametrize("file", COMPOSED)
def test_compose_files_are_read_by_version_1_29_too(file: str) -> None:
    content = parsed(DEPLOY / file)
    # It knows no `name` of the project; the volumes keep theirs whatever the project is called.
    assert set(content) <= {"services", "volumes", "secrets"}
    assert all(volume["name"].startswith("sanic-app_") for volume in content["volumes"].values())


def test_the_compose_files_share_no_data() -> None:
    names = [
        volume["name"] for file in COMPOSED for volume in parsed(DEPLOY / file)["volumes"].values()
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("file", COMPOSED)
def test_compose_publishes_on_the_loopback_only(file: str) -> None:
    published = {
        name: service["ports"] for name, service in compose(file).items() if "ports" in service
    }
    assert published == {name: [f"127.0.0.1:{ports}"] for name, ports in PUBLISHED[file].items()}


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_a_container_may_write_to_its_volume_and_nowhere_else(file: str, name: str) -> None:
    service = compose(file)[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service)
    assert service.get("tmpfs", []) == TMPFS.get(name, [])
    mounts = service.get("volumes", [])
    writable = {volume.split(":")[0] for volume in mounts if not volume.endswith(":ro")}
    assert len(writable) <= 1
    assert writable <= set(parsed(DEPLOY / file)["volumes"])


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_a_container_is_watched_and_started_again(file: str, name: str) -> None:
    service = compose(file)[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {"interval", "timeout", "retries"} <= set(service["healthcheck"])


def test_prometheus_starts_when_the_service_is_healthy() -> None:
    waits_for = compose()["prometheus"]["depends_on"]
    assert waits_for == {"sanic-app": {"condition": "service_healthy"}}


def test_nodes_start_when_postgres_is_healthy_and_reach_it_by_a_secret() -> None:
    services = compose(POSTGRES)
    secrets = parsed(DEPLOY / POSTGRES)["secrets"]
    assert services["node-1"] == services["node-2"]
    assert services["node-1"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name, key, secret in (
        ("node-1", "SANIC_APP_DATABASE_FILE", "database-url"),
        ("postgres", "POSTGRES_PASSWORD_FILE", "postgres-password"),
    ):
        assert services[name]["environment"][key] == f"/run/secrets/{secret}"
        assert services[name]["secrets"] == [secret]
        assert secrets[secret] == {"file": f"./secrets/{secret}"}


def test_make_writes_the_secrets_of_compose_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    arguments = (f"SECRETS={folder}", "COMPOSE=true", "compose-postgres")
    make(*arguments)
    password = (folder / "postgres-password").read_text().strip()
    url = (folder / "database-url").read_text()
    assert re.fullmatch("[0-9a-f]{64}", password)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # The users of the containers read them; on the host nobody gets through the folder.
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
    user, database = (
        compose(POSTGRES)["postgres"]["environment"][key]
        for key in ("POSTGRES_USER", "POSTGRES_DB")
    )
    assert url == f"postgresql://{user}:{password}@postgres/{database}\n"
    environ = image_environment() | compose(POSTGRES)["node-1"]["environment"]
    environ["SANIC_APP_DATABASE_FILE"] = str(folder / "database-url")
    assert load({}, environ, tmp_path).database == PostgresUrl(url.strip())
    make(*arguments)
    assert (folder / "database-url").read_text() == url


@pytest.mark.parametrize(
    ("file", "config", "targets"),
    [
        ("docker-compose.yaml", "prometheus.yml", ["sanic-app:8000"]),
        ("docker-compose.postgres.yaml", "nodes.yml", ["node-1:8000", "node-2:8000"]),
    ],
)
def test_prometheus_scrapes_what_compose_runs(
    file: str, config: str, targets: list[str], tmp_path: Path
) -> None:
    folder = DEPLOY / "prometheus"
    content = parsed(folder / config)
    (job,) = content["scrape_configs"]
    assert job["job_name"] == "sanic-app"
    assert job["static_configs"] == [{"targets": targets}]
    assert job.get("metrics_path", "/metrics") == "/metrics"
    assert content["rule_files"] == ["alerts.yml"]
    (alertmanager,) = content["alerting"]["alertmanagers"]
    assert alertmanager["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    assert (folder / "alerts.yml").is_file()
    prometheus = compose(file)["prometheus"]
    assert "./prometheus:/etc/prometheus:ro" in prometheus["volumes"]
    named = [part for part in prometheus["command"] if part.startswith("--config.file")]
    assert named in ([], [f"--config.file=/etc/prometheus/{config}"])
    # Its names are served without a token.
    hosts = {target.removesuffix(":8000") for target in targets}
    for host in hosts:
        service = compose(file)[host]
        environ = image_environment() | service["environment"]
        environ.pop("SANIC_APP_DATABASE_FILE", None)
        assert load({}, environ, tmp_path).allowed_hosts == hosts


@pytest.mark.parametrize("file", COMPOSED)
def test_the_alertmanager_has_a_receiver_for_each_severity(file: str) -> None:
    content = parsed(DEPLOY / "alertmanager" / "alertmanager.yml")
    assert "./alertmanager:/etc/alertmanager:ro" in compose(file)["alertmanager"]["volumes"]
    groups = parsed(DEPLOY / "prometheus" / "alerts.yml")["groups"]
    severities = {rule["labels"]["severity"] for group in groups for rule in group["rules"]}
    assert {receiver["name"] for receiver in content["receivers"]} == severities
    (route,) = content["route"]["routes"]
    assert route["matchers"] == [f'severity = "{route["receiver"]}"']
    assert {route["receiver"], content["route"]["receiver"]} == severities


def test_haproxy_balances_what_compose_runs() -> None:
    text = (DEPLOY / "proxy" / "haproxy.cfg").read_text(encoding="utf-8")
    servers = re.findall(r"^    server \S+ (\S+)$", text, re.MULTILINE)
    assert servers == ["node-1:8000", "node-2:8000"]
    mounts = compose(POSTGRES)["haproxy"]["volumes"]
    assert mounts == ["./proxy/haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro"]
    (published,) = compose(POSTGRES)["haproxy"]["ports"]
    assert f"bind :{published.split(':')[-1]}\n" in text


def families(text: str) -> set[str]:
    """Return the metrics that a text names, without what a histogram appends."""
    found = set(re.findall(r"\bsanic_app_\w+", text))
    return {re.sub(r"(_bucket|_count|_sum)$", "", name) for name in found}


def listed_families() -> set[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(sanic_app_\w+)` \|", readme, re.MULTILINE))


def test_alerts_speak_of_metrics_that_the_readme_lists() -> None:
    used = families((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    assert used
    assert used <= listed_families()


def dashboard() -> dict[str, Any]:
    path = DEPLOY / "grafana" / "dashboards" / "sanic-app.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_the_dashboard_shows_every_metric_that_the_readme_lists() -> None:
    shown = families(
        " ".join(
            target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])
        )
    )
    assert shown == listed_families()


@pytest.mark.parametrize("file", COMPOSED)
def test_grafana_finds_its_dashboard_and_its_prometheus(file: str) -> None:
    grafana = compose(file)["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    mounts = {target: DEPLOY / source for source, target in mounts.items()}
    provisioning = mounts["/etc/grafana/provisioning"]
    (source,) = parsed(provisioning / "datasources" / "prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose(file)
    (provider,) = parsed(provisioning / "dashboards" / "sanic-app.yaml")["providers"]
    (path,) = mounts[provider["options"]["path"]].iterdir()
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert mounts[str(home.parent)] / home.name == path
    assert json.loads(path.read_text(encoding="utf-8")) == dashboard()


def test_no_panel_lies_on_another_one() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        covered = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not covered & cells, panel["title"]
        cells |= covered
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


# --- The image -----------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, each on one line, in order."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    whole = [line.strip() for line in re.sub(r"\\\n\s*", "", lines).splitlines() if line.strip()]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in whole)]


def final_stage() -> list[tuple[str, str]]:
    backwards = list(takewhile(lambda step: step[0] != "FROM", reversed(instructions())))
    return backwards[::-1]


def only(word: str) -> str:
    (rest,) = [rest for found, rest in final_stage() if found == word]
    return rest


def image_environment() -> dict[str, str]:
    pairs = re.findall(r"(\w+)=(\S+)", only("ENV"))
    return {name: value for name, value in pairs if name.startswith(PREFIX)}


def test_images_are_pinned_by_version_and_those_that_we_build_on_by_digest() -> None:
    (base,) = [rest.removeprefix("PYTHON=") for word, rest in instructions() if word == "ARG"]
    assert PINNED_IMAGE.fullmatch(base)
    stages = [rest for word, rest in instructions() if word == "FROM"]
    assert stages == ["${PYTHON} AS builder", "${PYTHON}"]
    for file, name in SERVICES:
        image = compose(file)[name]["image"]
        pinned = PINNED_IMAGE if image.startswith("prom/prometheus") else VERSIONED_IMAGE
        assert image == "sanic-app" or pinned.fullmatch(image), image


def test_the_image_installs_pins_with_hashes_and_no_build_tools() -> None:
    installs = re.findall(
        r"pip install ([^&]*)", " ".join(rest for word, rest in instructions() if word == "RUN")
    )
    assert len(installs) == 3
    for options in installs:
        assert "--no-deps --require-hashes" in options or "--no-deps --no-index" in options
    assert [rest for word, rest in final_stage() if word == "COPY"] == [
        "--from=builder /opt/venv /opt/venv"
    ]


def test_the_image_runs_as_a_fixed_user_that_is_not_root() -> None:
    user = only("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert compose()["sanic-app"]["user"] == user


def test_the_image_keeps_the_database_in_its_one_volume() -> None:
    volume = only("VOLUME")
    assert only("WORKDIR") == volume
    assert Settings().database == Path("queue.db")
    # Nobody could take it back, to give DATABASE_FILE.
    assert "SANIC_APP_DATABASE" not in image_environment()
    assert f"queue:{volume}" in compose()["sanic-app"]["volumes"]


def test_the_image_serves_on_the_port_that_it_exposes() -> None:
    assert int(only("EXPOSE")) == Settings().port


def test_the_image_starts_and_stops_the_service_itself() -> None:
    assert json.loads(only("ENTRYPOINT")) == ["sanic-app"]
    assert only("STOPSIGNAL") == "SIGTERM"


def test_the_image_alone_refuses_to_serve_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ALLOW_ANONYMOUS"):
        load({}, image_environment(), tmp_path)


def test_compose_serves_without_a_token_for_loopback_and_prometheus(tmp_path: Path) -> None:
    settings = load({}, image_environment() | compose()["sanic-app"]["environment"], tmp_path)
    assert settings.api_token is None
    assert settings.allow_anonymous
    assert settings.allowed_hosts == {"sanic-app"}


def health_command() -> list[str]:
    command: list[str] = json.loads(only("HEALTHCHECK").partition(" CMD ")[2])
    return command


def test_compose_asks_for_health_as_the_image_does() -> None:
    for service in (compose()["sanic-app"], compose(POSTGRES)["node-1"]):
        assert service["healthcheck"]["test"] == ["CMD", *health_command()]


@contextmanager
def answering(status: int, body: dict[str, str]) -> Iterator[int]:
    """Answer every GET of the readiness route; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/ready" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def health(folder: Path, *flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return subprocess.run(
        [sys.executable, "-m", "sanic_app", "health", *flags],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9", **environ},
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, {"status": "ready", "reason": "paused"}, "ready: paused"),
        (503, {"status": "unready", "reason": "stopping"}, "sanic-app: unready: stopping"),
        (404, {}, "sanic-app: what answers at 127.0.0.1 port PORT is not this service"),
    ],
)
def test_the_health_check_tells_ready_from_unready(
    tmp_path: Path, status: int, body: dict[str, str], says: str
) -> None:
    assert health_command() == ["sanic-app", "health"]
    with answering(status, body) as port:
        done = health(tmp_path, SANIC_APP_PORT=str(port))
    assert (done.returncode == 0) is (status == 200)
    assert done.stdout + done.stderr == says.replace("PORT", str(port)) + "\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost"])
@pytest.mark.parametrize("source", ["environment", "file", "named file", "flags"])
def test_the_health_check_reads_the_settings_of_the_service(
    tmp_path: Path, source: str, host: str
) -> None:
    with answering(200, {"status": "ready", "reason": "ok"}) as port:
        text = f"HOST: {host}\nPORT: {port}\n"
        match source:
            case "environment":
                done = health(tmp_path, SANIC_APP_HOST=host, SANIC_APP_PORT=str(port))
            case "file":
                (tmp_path / "config_app.yaml").write_text(text)
                done = health(tmp_path, SANIC_APP_UNKNOWN="x")
            case "named file":
                (tmp_path / "other.yaml").write_text(text)
                done = health(tmp_path, "-C", "other.yaml")
            case _:
                done = health(tmp_path, "-H", host, "-P", str(port))
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready: ok\n", "")


def test_the_health_check_of_a_service_on_every_ipv6_address_goes_to_the_loopback(
    tmp_path: Path,
) -> None:
    done = health(tmp_path, "-H", "::", "-P", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sanic-app: no answer from ::1 port 1: ")


def test_the_health_check_fails_in_one_line(tmp_path: Path) -> None:
    with answering(200, {}) as port:
        pass
    for flags, status, says in (
        (["-P", str(port)], 1, f"no answer from 127.0.0.1 port {port}: Connection refused"),
        (["-P", str(port), "-H", "a..b"], 1, "a..b is not a host name"),
        (["-P", str(port), "-H", "a b"], 1, "a b is not a host name"),
        (["-P", "0"], 2, "PORT is 0: only the service knows its port"),
        (["-P", "x"], 2, "flag --port must be a whole number from 0 to 65535"),
        (["-C", "no.yaml"], 2, "file no.yaml: not found"),
    ):
        done = health(tmp_path, *flags)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", f"sanic-app: {says}\n")


@pytest.mark.parametrize("piece", [b"{", b"[" * 65_536, b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_the_health_check_ends_though_an_answer_never_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], piece: bytes
) -> None:
    monkeypatch.setattr("sanic_app.client.health.SECONDS", 0.3)
    left = threading.Event()

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not piece.startswith(b"HTTP"):
                self.send_response(200)
                self.end_headers()
            try:
                for _ in range(500):
                    self.wfile.write(piece)
                    time.sleep(0.02)
            except OSError:
                left.set()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            assert check(Settings(port=server.server_port)) == 1
            assert left.wait(20), "it waited for the end of the answer"
        finally:
            server.shutdown()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sanic-app: ")


def test_the_builder_is_sent_what_the_image_copies_and_no_more() -> None:
    copies = [rest for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    sources = {source for rest in copies for source in rest.split()[:-1]}
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == sources
    assert not [source for source in sources if not (ROOT / source).exists()]


# --- Settings ------------------------------------------------------------------------------------


def test_the_sample_configuration_names_every_setting_once() -> None:
    text = (DEPLOY / "config_app.yaml").read_text(encoding="utf-8")
    named = re.findall(r"^(?:# )?([A-Z][A-Z_]+): ", text, re.MULTILINE)
    assert sorted(named) == sorted(KEYS)


def test_the_sample_configuration_shows_the_defaults(tmp_path: Path) -> None:
    assert load({"CONFIG": DEPLOY / "config_app.yaml"}, {}, tmp_path) == Settings()


def test_the_examples_in_the_sample_configuration_are_good(tmp_path: Path) -> None:
    text = (DEPLOY / "config_app.yaml").read_text(encoding="utf-8")
    config = tmp_path / "config_app.yaml"
    config.write_text(re.sub(r"^# ([A-Z_]+(?<!_FILE): )", r"\1", text, flags=re.MULTILINE))
    settings = load({}, {}, tmp_path)
    assert settings.api_token
    assert settings.metrics_token
    assert settings.allowed_hosts == {"queue.example.org", "sanic-app"}


@pytest.mark.parametrize(
    "name",
    ["Dockerfile", *COMPOSED, "sanic-app.service", "sanic-app@.service", "config_app.yaml"],
)
def test_no_shipped_file_names_an_unknown_setting(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    assert set(re.findall(rf"\b{PREFIX}([A-Z_]*[A-Z])\b", text)) <= set(KEYS)


def unit(name: str = "sanic-app.service") -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / name, encoding="utf-8")
    return parser


def test_the_unit_starts_the_service_again_unless_a_setting_is_bad() -> None:
    service = unit()["Service"]
    assert service["Restart"] == "always"
    assert service["RestartPreventExitStatus"] == "2"
    assert unit()["Unit"]["StartLimitIntervalSec"] == "0"


def test_the_unit_gives_the_service_the_time_that_it_needs_to_stop() -> None:
    service = unit()["Service"]
    assert service["KillSignal"] == "SIGTERM"
    assert int(service["TimeoutStopSec"]) >= Settings().stop_delay + STOP_MARGIN
    for service in (compose()["sanic-app"], compose(POSTGRES)["node-1"]):
        grace = int(service["stop_grace_period"].removesuffix("s"))
        delay = float(service["environment"].get("SANIC_APP_STOP_DELAY", Settings().stop_delay))
        assert grace >= delay + STOP_MARGIN


def test_the_unit_waits_until_the_service_serves_and_notices_when_it_stands_still() -> None:
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 0


def test_the_unit_leaves_the_metrics_of_the_process_and_the_folder_of_the_configuration() -> None:
    service = unit()["Service"]
    # It hides /proc/stat, from which process_start_time_seconds comes.
    assert service.get("ProcSubset", "all") == "all"
    # With DynamicUser it can give the folder to a transient user.
    assert "ConfigurationDirectory" not in service
    assert service["WorkingDirectory"] == "-/etc/sanic-app"


def test_an_instance_differs_from_the_unit_in_its_place_and_settings_alone() -> None:
    def lines(name: str) -> set[str]:
        text = (DEPLOY / name).read_text(encoding="utf-8")
        return {line for line in text.splitlines() if line and not line.startswith("#")}

    one, many = lines("sanic-app.service"), lines("sanic-app@.service")
    assert {line.partition("=")[0] for line in one - many} == {
        *("Description", "WorkingDirectory", "StateDirectory", "Environment"),
    }
    assert many - one == {
        "Description=The queue %i, which works through its tasks one at a time",
        "EnvironmentFile=/etc/sanic-app/%i.env",
        "WorkingDirectory=/var/lib/sanic-app-queues/%i",
        "StateDirectory=sanic-app-queues/%i",
    }


def test_the_backup_unit_copies_a_busy_queue_and_removes_old_backups(tmp_path: Path) -> None:
    """Its commands, run as a shell runs them, on other folders."""
    service = unit("sanic-app-backup.service")["Service"]
    queue, backups = tmp_path / "sanic-app", tmp_path / "sanic-app-backup"
    queue.mkdir()
    backups.mkdir()
    old = [backups / f"queue-old.db{suffix}" for suffix in ("", ".lock")]
    for path in (*old, backups / "letter"):
        path.touch()
        os.utime(path, (0, 0))
    installed = f"{sys.executable} -m sanic_app"
    with Running(queue) as running:
        running.add(5, 600)
        for key in ("ExecStart", "ExecStartPost"):
            line = (
                service[key]
                .replace("%%", "%")
                .replace("$$", "$")
                .replace("/var/lib", str(tmp_path))
            )
            line = line.replace("/opt/sanic-app/bin/sanic-app", installed)
            subprocess.run(shlex.split(line), cwd=DEPLOY.parent, check=True, capture_output=True)
    (made,) = backups.glob("queue-*.db")
    assert re.fullmatch(r"queue-\d{8}T\d{6}Z\.db", made.name)
    with SqliteSnapshot(made) as store:
        assert list(faults(store)) == []
        assert list(store.select("SELECT num FROM queue")) == [(5,)]
    assert not any(path.exists() for path in old)
    assert (backups / "letter").exists()


def test_the_backup_unit_reads_the_queue_of_the_service_as_its_user() -> None:
    service, backup = unit()["Service"], unit("sanic-app-backup.service")["Service"]
    # A dynamic user has the name of its unit. Units that name the same one share it.
    assert (service["DynamicUser"], service.get("User", "sanic-app")) == ("yes", "sanic-app")
    assert (backup["DynamicUser"], backup["User"]) == ("yes", "sanic-app")
    assert set(backup["StateDirectory"].split()) == {service["StateDirectory"], "sanic-app-backup"}
    text = (DEPLOY / "sanic-app.service").read_text(encoding="utf-8")
    (database,) = re.findall("^Environment=SANIC_APP_DATABASE=(.+)$", text, re.MULTILINE)
    assert f" copy {database} " in backup["ExecStart"]
    timer = unit("sanic-app-backup.timer")
    assert timer["Timer"]["OnCalendar"] == "daily"
    assert timer["Install"]["WantedBy"] == "timers.target"


# --- Pins ----------------------------------------------------------------------------------------


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(name: str) -> list[str]:
    """Return the lines of a file of pins, comments left out and continued lines joined."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]


def pins(name: str) -> dict[str, Requirement]:
    found = [Requirement(line.partition("--hash")[0]) for line in requirements(name)]
    return {canonicalize_name(pin.name): pin for pin in found}


@pytest.mark.parametrize("name", PIN_FILES)
def test_every_pin_is_one_version_with_hashes(name: str) -> None:
    assert requirements(name)
    for line in requirements(name):
        pin, *hashes = line.split(" --hash=")
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*(\[[a-z,-]+\])?==[\w.]+ *(;.*)?", pin.strip()), (
            line
        )
        assert hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", part.strip()) for part in hashes), line


@pytest.mark.parametrize("name", PIN_FILES)
def test_pins_say_nothing_of_where_they_come_from(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert "@ " not in text
    for line in text.splitlines():
        assert not re.match(r"\s*(-i|-f|-e|--(?!hash=))", line), line
        assert not re.search(r"(^|\s)/\w", line), line


PLATFORMS = [
    {"sys_platform": system, "platform_machine": machine, "python_version": python}
    | {"python_full_version": f"{python}.0", "platform_python_implementation": "CPython"}
    | {"implementation_name": "cpython"}
    for system, machine in [("linux", "x86_64"), ("linux", "aarch64"), ("win32", "AMD64")]
    for python in ["3.11", "3.12", "3.13"]
]


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: "-".join(platform.values()))
def test_pins_satisfy_the_project_on_every_platform(platform: dict[str, str]) -> None:
    runtime = project()["project"]["dependencies"]
    dev = project()["project"]["optional-dependencies"]["dev"]
    groups = project()["dependency-groups"]
    asked = {
        "requirements.txt": runtime,
        "requirements-dev.txt": [*runtime, *dev],
        "requirements-build.txt": [*groups["build"], *project()["build-system"]["requires"]],
        "requirements-release.txt": groups["release"],
    }
    for name, wanted in asked.items():
        pinned = pins(name)
        for requirement in map(Requirement, wanted):
            if requirement.marker and not requirement.marker.evaluate(platform):
                continue
            pin = pinned[canonicalize_name(requirement.name)]
            assert pin.marker is None or pin.marker.evaluate(platform), f"{name}: {pin}"
            (specifier,) = pin.specifier
            assert requirement.specifier.contains(specifier.version), f"{name}: {pin}"


def test_runtime_dependencies_are_bounded_on_both_sides() -> None:
    for requirement in map(Requirement, project()["project"]["dependencies"]):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">=", "<"}, requirement


def test_all_files_of_pins_agree() -> None:
    everything = pins("requirements-dev.txt")
    for name in ("requirements.txt", "requirements-build.txt"):
        for pin in pins(name).values():
            assert everything[canonicalize_name(pin.name)].specifier == pin.specifier


# --- The wheel and the source archive ------------------------------------------------------------


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both archives as `make wheel` does, without network."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Iterator[zipfile.ZipFile]:
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def files_below(folder: str) -> set[str]:
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {
        path.relative_to(ROOT).as_posix()
        for path in found
        if not fnmatch(str(path), "*/__pycache__/*")
    }


def test_the_wheel_carries_the_package_and_the_migrations(wheel: zipfile.ZipFile) -> None:
    carried = {name for name in wheel.namelist() if ".dist-info/" not in name}
    migrations = {f"sanic_app/{name}" for name in files_below("migrations")}
    assert migrations
    assert carried == files_below("sanic_app") | migrations


def test_the_migrations_in_the_wheel_are_those_of_the_checkout(wheel: zipfile.ZipFile) -> None:
    for name in files_below("migrations"):
        assert wheel.read(f"sanic_app/{name}") == (ROOT / name).read_bytes()


def test_the_wheel_brings_the_command_the_licence_and_the_version(wheel: zipfile.ZipFile) -> None:
    info = f"sanic_app-{sanic_app.__version__}.dist-info"
    assert "sanic-app = sanic_app.__main__:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert f"\nVersion: {sanic_app.__version__}\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata


def test_the_source_archive_carries_what_is_needed_to_build_and_test(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        carried = {name.partition("/")[2] for name in archive.getnames()}
    wanted = files_below("sanic_app") | files_below("migrations") | files_below("deploy")
    assert wanted | {"pyproject.toml", "Makefile", "LICENSE", "README.md", *PIN_FILES} <= carried


# --- Targets -------------------------------------------------------------------------------------

TARGETS = {
    *("run", "local_app", "compose", "compose-postgres", "devenv", "test", "test-system"),
    *("test-deploy", "check", "format", "wheel", "image", "sbom", "audit", "pins", "clean", "help"),
}


def make(*arguments: str) -> str:
    """Run make as from a shell, also when the tests themselves were started by make."""
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env={**environment, "MFLAGS": ""},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout


def test_an_environment_whose_interpreter_is_gone_is_made_anew(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    for stamp in (".runtime", ".package"):
        (venv / stamp).touch()
    (venv / "bin" / "python").symlink_to(sys.executable)
    arguments = ["--dry-run", "run", f"VENV={venv}"]
    assert "Setting up" not in make(*arguments)
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to(tmp_path / "gone")
    assert f"Setting up {venv}" in make(*arguments)


def test_make_alone_lists_every_target_with_one_line() -> None:
    lines = make().splitlines()
    listed = dict(re.fullmatch(r"make (\S+) +(\S.*)", line).groups() for line in lines)  # type: ignore[union-attr, misc]
    assert set(listed) >= TARGETS
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.findall(r"^\.PHONY: ([a-z_-]+)$", makefile, re.MULTILINE))
    named = set(re.findall(r"^([a-z][a-z_-]*):(?!=)", makefile, re.MULTILINE))
    assert set(listed) == phony == named


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_no_target_is_empty(target: str) -> None:
    assert make("--always-make", "--dry-run", target).strip()


def test_ci_is_a_program_that_lets_no_test_skip() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert "\nexport CI=true\n" in text
    for target in ("check", "test", "test-postgres", "test-system"):
        assert f"\nstep make {target}\n" in text


def test_ci_runs_the_oldest_and_the_newest_python_that_are_promised() -> None:
    about = project()["project"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(about["classifiers"]))
    assert about["requires-python"] == f">={promised[0]}"
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"\npythons=({promised[0]} {promised[-1]})\n" in text
