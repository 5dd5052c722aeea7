"""The dashboards: golden JSON in Grafana's model, every query parses, every metric has a source.

What their queries return from a real Prometheus is test_live.py's.
"""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard as Grafana

from tests.fakes.statsd_exporter import MAPPING, RECORDED, StatsdExporter
from tests.fixtures.prometheus import PROMETHEUS, ROOT, program
from trainyard.dashboards.__main__ import FOLDER
from trainyard.dashboards.model import Kind, Needs
from trainyard.dashboards.render import DASHBOARDS, SOURCE_UID, steps, text_of
from trainyard.exporter.catalogue import CATALOGUE

PANELS = [(board, panel) for board in DASHBOARDS for panel in board.panels]
QUERIES = [(board, panel, query) for board, panel in PANELS for query in panel.queries]
PROVISIONING = ROOT / "containers" / "grafana" / "provisioning"
# dcgm-exporter, etc/default-counters.csv: what it exports as delivered.
DCGM = {f"DCGM_FI_DEV_{name}" for name in ("GPU_UTIL", "FB_USED", "GPU_TEMP", "POWER_USAGE",
                                           "SM_CLOCK", "XID_ERRORS")}  # fmt: skip
INFERENCE = {"trainyard_inference_latency_seconds_bucket"}
FOREIGN = ("node_", "prometheus_", "alertmanager_")
"""Seen in a real scrape by test_live.py."""


def ids(case):
    return f"{case[0].uid}/{case[1].title}"


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.uid)
def test_the_files_are_what_the_records_make(board):
    path = FOLDER / f"{board.uid}.json"
    assert path.read_text() == text_of(board), "make dashboards, and look at the difference"


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.uid)
def test_grafanas_model_reads_them_without_loss(board):
    register_default_plugins()
    data = json.loads((FOLDER / f"{board.uid}.json").read_text())
    again = json.loads(JSONEncoder().encode(Grafana.from_json(data)))
    assert lost(data, again) == []


def lost(data, again, place=""):
    """What of *data* is missing or another in *again*, which may have more: Grafana's defaults."""
    if isinstance(data, dict) and isinstance(again, dict):
        return [x for key in data for x in lost(data[key], again.get(key), f"{place}/{key}")]
    if isinstance(data, list) and isinstance(again, list) and len(data) == len(again):
        pairs = enumerate(zip(data, again, strict=True))
        return [x for number, (a, b) in pairs for x in lost(a, b, f"{place}/{number}")]
    return [] if data == again else [place]


def test_a_loss_would_be_seen():
    assert lost({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}], "c": 1}) == ["/a/1/b"]
    assert lost({"a": 1, "b": [1]}, {"b": [1, 2]}) == ["/a", "/b"]


def test_there_is_no_other_dashboard():
    assert {path.stem for path in FOLDER.iterdir()} == {board.uid for board in DASHBOARDS}


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.uid)
def test_panels_have_places_of_their_own(board):
    data = json.loads((FOLDER / f"{board.uid}.json").read_text())
    numbers = [panel["id"] for panel in data["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken = set()
    for panel in data["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells
        assert panel.get("datasource", {"uid": SOURCE_UID})["uid"] == SOURCE_UID


@pytest.mark.parametrize("case", PANELS, ids=ids)
def test_every_panel_explains_itself(case):
    board, panel = case
    assert panel.queries
    assert panel.unit
    assert len(panel.description) > 10
    assert panel.description.endswith(".")
    colours = [colour for _, colour in steps(panel)]
    begins = [at for at, _ in steps(panel)]
    assert begins[0] is None
    assert begins[1:] == sorted(begins[1:])
    assert len(set(colours)) == len(colours)
    named = {name for query in panel.queries for name in re.findall(r"\$(\w+)", query.expr)}
    builtin = {"__rate_interval", "__range"}
    assert named - builtin <= {variable.name for variable in board.variables}


def test_every_query_parses(tmp_path):
    rules = [
        {"record": f"query:{number}", "expr": filled(query.expr)}
        for number, (_, _, query) in enumerate(QUERIES)
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": rules}]}))
    done = subprocess.run([program("promtool"), "check", "rules", "--lint=none", path],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def filled(expr):
    """*expr* as Grafana would send it."""
    return re.sub(r"\$\w+", lambda m: "1m" if m[0].startswith("$__") else ".*", expr)


def metrics(expr):
    """The names of the series a PromQL expression reads."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', " ", filled(expr))
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])", bare)
    return {word for word in words if ":" in word or "_" in word}


def test_the_names_of_series_are_found():
    found = metrics('sum by (le_x) (rate(a_b_total{c_d="e_f"}[5m])) / on (g_h) x:y:z * 2 or k_l')
    assert found == {"a_b_total", "x:y:z", "k_l"}


def exported():
    """Every name somebody exports: our exporter, the StatsD mapping, the recording rules."""
    names = {"up", "ALERTS", *CATALOGUE}
    for one in yaml.safe_load(MAPPING.read_text())["mappings"]:
        names |= {one["name"] + end for end in ("", "_bucket", "_sum", "_count")}
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            names |= {rule["record"] for rule in group["rules"] if "record" in rule}
    return names | DCGM | INFERENCE


def rule_expressions():
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from (rule["expr"] for rule in group["rules"])


def test_every_metric_that_is_asked_for_is_exported():
    asked = [query.expr for _, _, query in QUERIES] + list(rule_expressions())
    asked += [variable.metric for board in DASHBOARDS for variable in board.variables]
    known = exported()
    for expr in asked:
        for name in metrics(expr):
            assert name in known or name.startswith(FOREIGN), f"{name} in {expr}"


@pytest.mark.parametrize("case", PANELS, ids=ids)
def test_only_what_needs_a_gpu_or_a_model_server_is_exempt(case):
    _, panel = case
    names = {name for query in panel.queries for name in metrics(query.expr)}
    special = {
        Needs.GPU: {name for name in names if "gpu" in name or name in DCGM},
        Needs.INFERENCE: {name for name in names if "inference" in name},
    }
    for need, found in special.items():
        assert (panel.needs is need) == bool(found)


def test_the_exporters_metrics_are_shown_or_used_by_a_rule():
    asked = " ".join([*(query.expr for _, _, query in QUERIES), *rule_expressions()])
    unused = {name for name in CATALOGUE if name not in asked}
    # For questions of one's own; docs/monitoring.md lists them.
    assert unused == {
        "trainyard_run_started_timestamp_seconds", "trainyard_run_phase", "trainyard_run_folders",
        "trainyard_run_last_ended_timestamp_seconds", "trainyard_benchmark_timestamp_seconds",
        "trainyard_source_last_success_timestamp_seconds", "trainyard_source_failures_total",
    }  # fmt: skip


def test_tables_and_stats_ask_for_one_moment():
    for board, panel in PANELS:
        data = json.loads((FOLDER / f"{board.uid}.json").read_text())
        (found,) = [one for one in data["panels"] if one["title"] == panel.title]
        for target in found["targets"]:
            assert target.get("instant", False) == (panel.kind is not Kind.LINES)


def test_what_airflow_really_sends_is_mapped_or_dropped():
    exporter = StatsdExporter()
    exporter.take(RECORDED.read_text().splitlines())
    assert exporter.types["airflow_task_duration_seconds"] == "ms"
    for name in exporter.series:
        assert re.fullmatch(r"airflow_[a-z_]+", name)
        for labels in exporter.series[name]:
            assert not {"run_id", "job_id", "map_index"} & {key for key, _ in labels}
    unseen = {one["match"] for one in exporter.config["mappings"]} - exporter.used
    # Named by Airflow 3.3.2's own registry, and not sent on a night without trouble.
    assert unseen == {
        "airflow.task.queued_duration", "airflow.dagrun.duration.failed", "airflow.triggers.failed",
        "airflow.triggers.blocked_main_thread", ".",
        "airflow.task_instances_without_heartbeats_killed",
    }  # fmt: skip


def test_names_without_a_recording_stand_in_airflows_registry():
    from airflow._shared.observability.metrics.metrics_registry import MetricsRegistry

    registry = MetricsRegistry()
    for one in yaml.safe_load(MAPPING.read_text())["mappings"]:
        if one["match"] != ".":
            assert registry.get(name=one["match"].removeprefix("airflow.")), one["match"]


def test_airflow_is_told_to_send_tags():
    compose = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    environment = compose["services"]["airflow-scheduler"]["environment"]
    assert environment["AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED"] == "True"
    assert environment["AIRFLOW__METRICS__LEGACY_NAMES_ON"] == "False"


def test_the_provisioning_names_what_is_there():
    (sources,) = (PROVISIONING / "datasources").iterdir()
    (boards,) = (PROVISIONING / "dashboards").iterdir()
    data = yaml.safe_load(sources.read_text())
    assert data["apiVersion"] == 1
    uids = {source["uid"] for source in data["datasources"]}
    assert SOURCE_UID in uids
    assert len(uids) == len(data["datasources"])
    assert sum(source.get("isDefault", False) for source in data["datasources"]) == 1
    compose = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    for source in data["datasources"]:
        host = re.sub(r"^\w+://", "", source["url"]).partition(":")[0]
        assert host in compose
    (provider,) = yaml.safe_load(boards.read_text())["providers"]
    mounts = [mount.split(":") for mount in compose["grafana"]["volumes"] if isinstance(mount, str)]
    inside = {where: source for source, where, *_ in mounts}
    assert inside[provider["options"]["path"]] == "./containers/grafana/dashboards"
    assert inside["/etc/grafana/provisioning"] == "./containers/grafana/provisioning"
