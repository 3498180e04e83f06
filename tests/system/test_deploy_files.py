"""The shipped files, read by the programs that they are for."""

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

pytestmark = pytest.mark.system

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDER = DEPLOY / "prometheus"
RULES = FOLDER / "alerts.yml"
SCRAPED = 'instance="sanic-app:8000", job="sanic-app"'


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


@pytest.mark.parametrize("file", sorted(path.name for path in DEPLOY.glob("docker-compose*.yaml")))
def test_the_oldest_compose_that_is_promised_reads_the_file(file: str) -> None:
    """Debian's is version 1.29, which checks against the schema of Compose and resolves anchors."""
    done = subprocess.run(
        ["docker-compose", "--file", str(DEPLOY / file), "config"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    read, written = (
        set(yaml.safe_load(text)["services"]) for text in (done.stdout, (DEPLOY / file).read_text())
    )
    assert read == written


@pytest.mark.parametrize(
    "file", sorted(path.name for path in DEPLOY.iterdir() if path.suffix in {".service", ".timer"})
)
def test_systemd_accepts_the_unit(file: str, tmp_path: Path) -> None:
    for path in (*DEPLOY.glob("*.service"), *DEPLOY.glob("*.timer")):
        # It looks whether the program is there.
        text = path.read_text(encoding="utf-8").replace("/opt/sanic-app/bin/sanic-app", "/bin/true")
        (tmp_path / path.name.replace("@.", "@orders.")).write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / file.replace("@.", "@orders."))],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    own = [line for line in done.stderr.splitlines() if "sanic-app" in line]
    assert (done.returncode, own) == (0, [])


@pytest.mark.parametrize("file", ["prometheus.yml", "nodes.yml"])
def test_prometheus_accepts_the_configuration_and_finds_the_rules(file: str) -> None:
    output = promtool("check", "config", "--lint=all", "--lint-fatal", str(FOLDER / file))
    assert "1 rule files found" in output
    assert "WARNING" not in output


def test_prometheus_accepts_the_rules() -> None:
    output = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert "FAILED" not in output
    assert f"{len(alerts())} rules found" in output


class Trouble(NamedTuple):
    """What is scraped once a second, and the one alert that must fire some minutes later."""

    series: str
    values: str
    alert: str
    severity: str
    more: str = ""
    minutes: int = 5
    scraped: str = SCRAPED
    """The labels of the alert that come from the target."""


TROUBLES = [
    Trouble(f"up{{{SCRAPED}}}", "1x60 0x240", "SanicAppDown", "page"),
    # The target is gone, so that nobody asks whether it is up.
    Trouble(f"up{{{SCRAPED}}}", "1x60 stale", "SanicAppDown", "page", scraped='job="sanic-app"'),
    Trouble(
        f"sanic_app_start_time_seconds{{{SCRAPED}}}",
        "100x60 200x60 300x60 400x120",
        "SanicAppRestarting",
        "page",
    ),
    Trouble(f"sanic_app_worker_up{{{SCRAPED}}}", "1x200 0x100", "SanicAppWorkerDown", "page"),
    Trouble(
        f"sanic_app_head_overdue_seconds{{{SCRAPED}}}",
        "0x200 1+1x100",
        "SanicAppHeadOverdue",
        "page",
    ),
    Trouble(
        f'sanic_app_store_errors_total{{kind="full", {SCRAPED}}}',
        "0x250 3x50",
        "SanicAppDiskFull",
        "page",
        ', kind="full"',
    ),
    Trouble(
        f'sanic_app_store_errors_total{{kind="io", {SCRAPED}}}',
        "0x250 1x50",
        "SanicAppStoreErrors",
        "page",
        ', kind="io"',
    ),
    # They were there at the first scrape, and none has come since.
    Trouble(
        f'sanic_app_store_errors_total{{kind="full", {SCRAPED}}}',
        "_x200 3x100",
        "SanicAppDiskFull",
        "page",
        ', kind="full"',
    ),
    Trouble(
        f'sanic_app_store_errors_total{{kind="io", {SCRAPED}}}',
        "_x200 1x100",
        "SanicAppStoreErrors",
        "page",
        ', kind="io"',
    ),
    Trouble(
        f'sanic_app_adds_refused_total{{reason="queue_full", {SCRAPED}}}',
        "_x200 1x100",
        "SanicAppAddsRefused",
        "ticket",
        ', reason="queue_full"',
    ),
    Trouble(f"sanic_app_store_up{{{SCRAPED}}}", "1x200 0x100", "SanicAppStoreUnavailable", "page"),
    Trouble(
        f"sanic_app_takeovers_total{{{SCRAPED}}}",
        "0x60 2x60 4x60 6x120",
        "SanicAppTakeovers",
        "ticket",
        scraped='job="sanic-app"',
    ),
    Trouble(
        f'sanic_app_commits_resolved_total{{outcome="applied", {SCRAPED}}}',
        "0x60 2x60 4x60 6x120",
        "SanicAppCommitsResolved",
        "ticket",
    ),
    # Half a gibibyte is left; and two, of which a gibibyte is gone in an hour.
    Trouble(
        f"sanic_app_store_free_bytes{{{SCRAPED}}}",
        f"{2**29 - 1}x1200",
        "SanicAppDiskNearlyFull",
        "ticket",
        minutes=20,
    ),
    Trouble(
        f"sanic_app_store_free_bytes{{{SCRAPED}}}",
        f"{2**31}-{2**30 // 3_600}x1800",
        "SanicAppDiskNearlyFull",
        "ticket",
        minutes=30,
    ),
    Trouble(
        f'sanic_app_store_size_bytes{{file="wal", {SCRAPED}}}',
        f"{2**22}x60 {2**26 + 1}x540",
        "SanicAppWalGrows",
        "ticket",
        ', file="wal"',
        minutes=10,
    ),
    Trouble(
        f"sanic_app_queue_paused{{{SCRAPED}}}",
        "1x4200",
        "SanicAppPaused",
        "ticket",
        minutes=70,
    ),
    Trouble(
        f'sanic_app_adds_refused_total{{reason="queue_full", {SCRAPED}}}',
        "0x250 1x50",
        "SanicAppAddsRefused",
        "ticket",
        ', reason="queue_full"',
    ),
    Trouble(
        f"sanic_app_queue_depth{{{SCRAPED}}}",
        "100x100 900x200",
        "SanicAppQueueNearlyFull",
        "ticket",
    ),
    Trouble(
        f'sanic_app_commit_seconds_bucket{{le="2.5", {SCRAPED}}}',
        "0+1x300",
        "SanicAppSlowCommits",
        "ticket",
    ),
]

WELL = {
    f"up{{{SCRAPED}}}": "1x300",
    f"sanic_app_start_time_seconds{{{SCRAPED}}}": "100x300",
    f"sanic_app_worker_up{{{SCRAPED}}}": "1x300",
    f"sanic_app_head_overdue_seconds{{{SCRAPED}}}": "0x300",
    f'sanic_app_store_errors_total{{kind="full", {SCRAPED}}}': "0x300",
    f'sanic_app_store_errors_total{{kind="io", {SCRAPED}}}': "0x300",
    f'sanic_app_adds_refused_total{{reason="queue_full", {SCRAPED}}}': "0x300",
    f'sanic_app_adds_refused_total{{reason="invalid", {SCRAPED}}}': "0+1x300",
    f'sanic_app_adds_refused_total{{reason="stopping", {SCRAPED}}}': "0+1x300",
    f'sanic_app_adds_refused_total{{reason="unauthorized", {SCRAPED}}}': "0+1x300",
    f"sanic_app_store_free_bytes{{{SCRAPED}}}": f"{2**30}x300",
    f'sanic_app_store_size_bytes{{file="wal", {SCRAPED}}}': f"{2**22}x300",
    f'sanic_app_store_size_bytes{{file="database", {SCRAPED}}}': f"{2**40}x300",
    f"sanic_app_store_up{{{SCRAPED}}}": "1x300",
    f"sanic_app_takeovers_total{{{SCRAPED}}}": "0x100 1x200",
    f'sanic_app_commits_resolved_total{{outcome="applied", {SCRAPED}}}': "0x100 1x200",
    f"sanic_app_queue_paused{{{SCRAPED}}}": "0x300",
    f"sanic_app_queue_depth{{{SCRAPED}}}": "100x300",
    f"sanic_app_queue_limit{{{SCRAPED}}}": "1000x300",
}
"""A service in good health, which refuses bad input and was stopped once in a while."""


def alerts() -> set[str]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"] for group in groups for rule in group["rules"]}


def commits(values: str) -> dict[str, str]:
    """Return the buckets of commits that take 1 ms, or none of them when they are slow."""
    return {
        f'sanic_app_commit_seconds_bucket{{le="0.001", {SCRAPED}}}': values,
        f'sanic_app_commit_seconds_bucket{{le="1", {SCRAPED}}}': values,
        f'sanic_app_commit_seconds_bucket{{le="2.5", {SCRAPED}}}': "0+1x300",
        f'sanic_app_commit_seconds_bucket{{le="+Inf", {SCRAPED}}}': "0+1x300",
        f"sanic_app_commit_seconds_count{{{SCRAPED}}}": "0+1x300",
    }


def firing(folder: Path, series: dict[str, str], minutes: int, expected: list[str]) -> None:
    """Let the rules see the series, one sample a second, and compare what fires at the end."""
    case: dict[str, Any] = {
        "interval": "1s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'ALERTS{alertstate="firing"}',
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": labels, "value": 1} for labels in expected],
            }
        ],
    }
    content = {"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": [case]}
    path = folder / "rules_test.yml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    promtool("test", "rules", str(path))


def test_nothing_fires_while_all_is_well(tmp_path: Path) -> None:
    firing(tmp_path, WELL | commits("0+1x300"), 5, [])


@pytest.mark.parametrize("slow", [1, 2])
def test_few_slow_commits_of_an_idle_service_are_nothing(tmp_path: Path, slow: int) -> None:
    idle = {
        name: f"0x100 {slow}x200" if 'le="2.5"' in name or 'le="+Inf"' in name else "0x300"
        for name in commits("")
    } | {f"sanic_app_commit_seconds_count{{{SCRAPED}}}": f"0x100 {slow}x200"}
    firing(tmp_path, WELL | idle, 5, [])


def test_a_pause_of_half_an_hour_and_a_disk_that_fills_slowly_are_nothing(tmp_path: Path) -> None:
    lasting = {name: values.replace("x300", "x1800") for name, values in WELL.items()}
    quiet = {
        f"sanic_app_queue_paused{{{SCRAPED}}}": "1x1800",
        f"sanic_app_store_free_bytes{{{SCRAPED}}}": f"{2**31}-{2**28 // 3_600}x1800",
    }
    firing(tmp_path, lasting | quiet, 30, [])


def test_every_alert_is_tried_below() -> None:
    assert {trouble.alert for trouble in TROUBLES} == alerts()


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.alert)
def test_the_alert_fires_in_its_trouble_and_no_other(trouble: Trouble, tmp_path: Path) -> None:
    slow = trouble.alert == "SanicAppSlowCommits"
    well = WELL | commits("0x300" if slow else "0+1x300")
    series = {
        name: values.replace("x300", f"x{60 * trouble.minutes}") for name, values in well.items()
    } | {trouble.series: trouble.values}
    labels = f'alertname="{trouble.alert}", alertstate="firing", severity="{trouble.severity}"'
    expected = f"ALERTS{{{labels}, {trouble.scraped}{trouble.more}}}"
    firing(tmp_path, series, trouble.minutes, [expected])
