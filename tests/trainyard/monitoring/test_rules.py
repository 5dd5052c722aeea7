"""Alert rules, routing and scrape configuration, checked by Prometheus's own tools."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.fixtures.prometheus import ALERTMANAGER, PROMETHEUS, ROOT, program

RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
ALERTS = {
    rule["alert"]: rule
    for path in RULES
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def run(*argv, cwd=ROOT):
    return subprocess.run([program(argv[0]), *map(str, argv[1:])], cwd=cwd, capture_output=True,
                          text=True, check=False)  # fmt: skip


def test_promtool_accepts_the_configuration():
    done = run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_unit_tests_of_the_rules_pass():
    done = run("promtool", "test", "rules", *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_amtool_accepts_the_routing():
    done = run("amtool", "check-config", ALERTMANAGER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.parametrize(
    "labels",
    [
        "severity=critical alertname=ServiceDown",
        "severity=warning alertname=RegressionConfirmed suite=s",
    ],
)
def test_every_alert_has_a_route(labels):
    argv = ("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}")
    assert run(*argv, *labels.split()).stdout.strip() == "nobody"


def cases(alert):
    """(fires, does not fire): how many of each the unit tests hold."""
    fires = silent = 0
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for asked in test.get("promql_expr_test", []):
                if f'alertname="{alert}"' in asked["expr"]:
                    fires += bool(asked["exp_samples"])
                    silent += not asked["exp_samples"]
    return fires, silent


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_every_rule_is_complete_and_tested_both_ways(alert):
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    said = rule["annotations"]
    assert set(said) == {"summary", "description", "runbook_url"}
    assert len(said["description"]) > 60, "what it means and the next step"
    page, _, anchor = said["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert alert in headings, f"{page} has no section {alert}"
    assert anchor == alert.lower()
    fires, silent = cases(alert)
    assert fires, f"no unit test in which {alert} fires"
    assert silent, f"no unit test in which {alert} does not fire"


def copied(tmp_path: Path, change) -> Path:
    """A copy of rules and tests whose alert expressions went through *change*."""
    for folder in ("rules", "tests"):
        (tmp_path / folder).mkdir()
        for path in (PROMETHEUS / folder).glob("*.yml"):
            data = yaml.safe_load(path.read_text())
            for group in data.get("groups", []):
                for rule in group["rules"]:
                    if "alert" in rule:
                        rule["expr"] = change(rule["expr"])
            (tmp_path / folder / path.name).write_text(yaml.safe_dump(data))
    return tmp_path / "tests"


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["({}) * 0 > 1", "({}) or vector(1)"], ids=["never", "always"])
def test_the_unit_tests_notice_rules_that_never_or_always_fire(tmp_path, broken):
    folder = copied(tmp_path, broken.format)
    done = run("promtool", "test", "rules", *sorted(folder.glob("*.yml")), cwd=folder)
    assert done.returncode != 0
    noticed = set(re.findall(r'alertname=\\?"(\w+)\\?"', done.stdout + done.stderr))
    assert noticed == set(ALERTS)


def test_inhibition_names_alerts_that_exist():
    named = re.findall(r'alertname=~?"([^"]+)"', ALERTMANAGER.read_text())
    for pattern in named:
        for part in pattern.split("|"):
            assert any(re.fullmatch(part, alert) for alert in ALERTS), part


def test_what_is_scraped_are_services_of_the_stack():
    compose = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    for job in config["scrape_configs"]:
        for way in job.get("static_configs", []):
            for target in way["targets"]:
                name = target.partition(":")[0]
                assert name in compose or name == "localhost", target
        for way in job.get("dns_sd_configs", []):
            assert set(way["names"]) <= set(compose)
