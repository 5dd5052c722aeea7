"""Every panel against a real Prometheus, filled by a real training run, a stored study, a real
cluster's queue and the node exporter.

Airflow's part comes from a recorded night through the stand-in for statsd_exporter
(tests/fakes/statsd_exporter.py); Grafana itself cannot be installed here.
"""

from __future__ import annotations

import http.server
import json
import math
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tests.fakes.statsd_exporter import RECORDED, StatsdExporter
from tests.fixtures.airflow import TRAINER
from tests.fixtures.nights import measured
from tests.fixtures.prometheus import alertmanager, fetch, node_exporter, prometheus, wait_until
from tests.fixtures.samples import make_spec, make_study
from tests.fixtures.settings import make_settings
from tests.requirements import need
from tests.trainer.conftest import DIGEST, separable
from tests.trainyard.monitoring.test_dashboards import (
    FOREIGN,
    PANELS,
    QUERIES,
    ids,
    metrics,
    rule_expressions,
)
from trainer.contract import dumps
from trainyard.dashboards.model import Kind
from trainyard.dashboards.render import DASHBOARDS
from trainyard.exporter.results import NIGHTLY
from trainyard.store import migrate, open_store

pytestmark = pytest.mark.slow
RUN = "nightly_benchmark.live.run_on_cpu.0-0badcafe"


@contextmanager
def recorded_airflow():
    """Serve a recorded night of Airflow's StatsD lines, a stretch of it at every scrape."""
    exporter, lines = StatsdExporter(), RECORDED.read_text().splitlines()
    lines.reverse()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            for _ in range(min(len(lines), 60)):
                exporter.take([lines.pop()])
            body = exporter.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def training(runs):
    """A real run of the small network that goes on until the block ends."""
    folder = runs / RUN
    folder.mkdir(parents=True)
    data = separable(runs.parent / "data" / "digits")
    spec = make_spec(
        name="live", dataset_digest=DIGEST, ranks=1, per_rank_batch=16, global_batch=16,
        epochs=100_000, warmup_steps=1, window_steps=5, controls=(),
    )  # fmt: skip
    (folder / "spec.json").write_text(dumps(spec))
    argv = [str(TRAINER), "-m", "trainer", str(folder / "spec.json"), str(folder),
            "--data", str(data)]  # fmt: skip
    with (folder / "stderr.log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield process, folder
    finally:
        process.kill()
        process.wait()


def fill(url):
    """Seven quiet nights of three runs, and two that were a fifth slower."""
    spec = make_spec(name="strong-n2")
    with open_store(url) as store:
        migrate(store)
        for back in range(9, 0, -1):
            at = (datetime.now(UTC) - timedelta(days=back)).isoformat()
            name = f"night-{back}"
            planned = [{"run_id": f"{name}.{repeat}"} for repeat in range(3)]
            store.save_study(
                make_study(name, created_at=at, ended_at=at, status="completed", plan=planned)
            )
            rate = (80.0 if back <= 2 else 100.0) + back % 3 / 5
            for repeat, factor in enumerate((0.998, 1.0, 1.002)):
                run = measured(f"{name}.{repeat}", rate * factor, spec, study_id=name,
                               dag_id=NIGHTLY, ended_at=at)  # fmt: skip
                store.save_run(run)


@contextmanager
def exporting(folder):
    argv = [sys.executable, "-m", "trainyard.exporter", "--settings",
            str(folder / "settings.toml"), "--port", "0", "--runs-interval", "1",
            "--results-interval", "5"]  # fmt: skip
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stderr if "listening" in line)
        yield re.search(r"http://([\d.:]+)/", line)[1]
    finally:
        process.terminate()
        process.communicate(timeout=15)


@pytest.fixture(scope="module")
def live(tmp_path_factory, slurm_cluster):
    """A Prometheus that has watched everything for a while, and the run it watches."""
    need(TRAINER.exists(), f"the trainer's environment is missing ({TRAINER}): make setup-test")
    folder = tmp_path_factory.mktemp("live")
    sites = {
        "local": {"python": "python", "runs_dir": str(folder / "runs"), "data_dir": "/data",
                  "cores": 2},
        "cluster": {"launcher": "slurm", "python": "python", "runs_dir": "/srv/no-runs-yet",
                    "data_dir": "/data", "cores": 2},
    }  # fmt: skip
    text = "".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in sites.items()
    )
    text += f"[cluster.slurm]\nslurm_conf = {json.dumps(str(slurm_cluster.config.conf))}\n"
    (folder / "sites.toml").write_text(text)
    settings = make_settings(folder, sites_file=str(folder / "sites.toml"))
    fill(settings.results_url)
    with (
        training(folder / "runs") as (process, run_dir),
        exporting(folder) as exporter,
        node_exporter(folder) as node,
        alertmanager(folder) as alerts,
        recorded_airflow() as airflow,
        prometheus(folder, {"trainyard": exporter, "airflow": airflow, "node": node}, alerts) as p,
    ):

        def ready():
            assert process.poll() is None, (run_dir / "stderr.log").read_text()[-2000:]
            epoch = p.query("trainyard_run_train_accuracy_ratio")
            over = p.query("airflow_dagrun_duration_seconds_count")  # the recording's last lines
            return epoch and over and p.query("trainyard_queue_jobs")

        wait_until("run, queue and Airflow in Prometheus", ready, 180)
        yield p


def asked(expr):
    """*expr* with the variables filled as Grafana fills them when a page is opened."""
    if "$metric" in expr:
        expr = expr.replace("$metric", "images_per_second")
    expr = expr.replace("$__rate_interval", "30s").replace("$__range", "1m")
    return re.sub(r"\$\w+", ".*", expr)


@pytest.mark.parametrize("case", PANELS, ids=ids)
def test_every_panel_returns_data(live, case):
    _, panel = case
    for query in panel.queries:
        expr = asked(query.expr)
        if panel.kind is Kind.LINES:
            series = live.query_range(expr, 60)
            values = [float(value) for one in series for _, value in one["values"]]
        else:
            values = [float(one["value"][1]) for one in live.query(expr)]
        found = [value for value in values if math.isfinite(value)]
        if panel.needs is not None:
            assert not values, f"{panel.title}: it has data, so it needs no exemption"
        else:
            assert found, f"{panel.title}: {expr} returns nothing"


def test_every_choice_of_every_variable_has_values(live):
    for board in DASHBOARDS:
        for variable in board.variables:
            query = f"count by ({variable.key}) ({asked(variable.metric)})"
            assert live.query(query), f"{board.title}: {variable.name}"


def test_the_numbers_are_those_of_the_run(live):
    (step,) = live.query(f'trainyard_run_step{{run="{RUN}"}}')
    assert float(step["value"][1]) > 0
    assert step["metric"]["site"] == "local"
    (loss,) = live.query(f'trainyard_run_loss{{run="{RUN}"}}')
    assert 0 < float(loss["value"][1]) < 10
    (busy,) = live.query(f'trainyard_run_cpu_busy_cores{{run="{RUN}"}}')
    assert 0 < float(busy["value"][1]) <= os.cpu_count()


def test_the_planted_regression_raises_the_alarm(live):
    def pending():
        alerts = live.api("alerts")["alerts"]
        return [one for one in alerts if one["labels"]["alertname"] == "RegressionConfirmed"]

    (alert,) = wait_until("the alert", pending)
    assert alert["labels"]["metric"] == "images_per_second"
    assert alert["annotations"]["summary"].startswith("strong-n2-")
    assert "error" not in json.dumps(alert["annotations"])


def test_every_rule_is_evaluated_without_an_error(live):
    rules = [rule for group in live.api("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 25
    assert {rule["health"] for rule in rules} == {"ok"}


def test_everything_that_is_scraped_answers(live):
    up = {one["metric"]["job"]: float(one["value"][1]) for one in live.query("up")}
    assert up == {job: 1 for job in ("trainyard", "airflow", "node", "prometheus", "alertmanager")}
    sources = {
        o["metric"]["source"]: float(o["value"][1]) for o in live.query("trainyard_source_up")
    }
    assert sources == {"runs": 1, "results": 1, "slurm:cluster": 1}


def test_foreign_metrics_that_are_asked_for_exist(live):
    """Those of the node exporter, Prometheus and Alertmanager: a scrape shows them all."""
    asked_for = [query.expr for _, _, query in QUERIES] + list(rule_expressions())
    named = {name for expr in asked_for for name in metrics(expr) if name.startswith(FOREIGN)}
    assert len(named) > 8
    missing = {name for name in named if not live.query(f"{name}")}
    assert missing == set()


def test_cardinality_is_bounded(live):
    """Series of one run, which is what grows with use; --max-runs bounds how many have them."""
    (count,) = live.query(f'count({{run="{RUN}"}})')
    assert float(count["value"][1]) < 40


def test_alerts_reach_alertmanager(live):
    def there():
        return json.loads(fetch(f"{live.url}/api/v1/alertmanagers"))["data"]["activeAlertmanagers"]

    assert len(wait_until("Alertmanager", there)) == 1
