"""The stack of docker-compose.yaml, as `make up` starts it: roles, training, crashes, TLS.

In order, since one stack serves all: starting takes a minute of the two cores that the tests share.
"""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request

import pytest

from tests.fixtures.profiles import profiled_spec
from tests.fixtures.stack import (
    CRASHED,
    NODES,
    PACKAGES_TLS,
    docker,
    ended,
    kill_each_during_two_runs,
    kill_node_during_its_run,
    until,
    up,
)
from tests.fixtures.stack_users import (
    failures,
    fetch,
    login,
    night_from_the_browser,
    prometheus,
    rows,
)
from tests.requirements import need
from trainer.contract import Profiler
from trainyard.errors import UnavailableError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# The smallest study there is: one strong point and its baseline.
TINY = {"dataset": "digits", "preset": "demo", "repeats": 1, "steps": 10, "modes": ["strong"],
        "controls": ["none"]}  # fmt: skip
LIMIT_S = 180
IDLE_BYTES = 6e9


# --- the start -----------------------------------------------------------------------------------


def test_the_stack_is_well_in_time_and_says_where_everything_is(compose_stack):
    # On a machine that others fill, a share of it is what the promise is about.
    assert compose_stack.seconds <= LIMIT_S * compose_stack.crowd
    assert compose_stack.is_well()
    output = compose_stack.output
    assert "services are well" in output
    assert compose_stack.url("AIRFLOW_PORT") in output
    assert "ADMIN_PASSWORD" in output
    for name, value in compose_stack.values.items():
        if name.endswith(("_PASSWORD", "_KEY", "_SECRET")):
            assert value not in output, f"{name} is printed"


def test_it_takes_less_memory_than_claimed(compose_stack):
    names = [item.name for item in compose_stack.containers().values() if item.state == "running"]
    shown = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", *names).stdout
    units = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    used = [re.match(r"([\d.]+)(\w+)", line) for line in shown.splitlines()]
    assert len(used) == len(names)
    assert sum(float(found[1]) * units[found[2]] for found in used) <= IDLE_BYTES


def test_no_secret_is_visible_in_the_description_of_a_container(compose_stack):
    names = [item.name for item in compose_stack.containers().values()]
    shown = docker("inspect", *names).stdout
    logged = "".join(docker("logs", name).stdout + docker("logs", name).stderr for name in names)
    for name, value in compose_stack.values.items():
        if name.endswith(("_PASSWORD", "_KEY", "_SECRET")):
            assert value not in shown, f"{name}: docker inspect shows it"
            assert value not in logged, f"{name}: a log holds it"


def test_each_database_opens_for_its_owner_alone(compose_stack):
    users = {name: f"{name.upper()}_DB_PASSWORD" for name in ("airflow", "mlflow", "results")}
    users["results_reader"] = "RESULTS_READER_PASSWORD"
    name = compose_stack.containers()["postgres"].name

    def ask(user: str, database: str, question: str) -> subprocess.CompletedProcess[str]:
        word = f"PGPASSWORD={compose_stack.values[users[user]]}"
        return docker("exec", "-e", word, name, "psql", "-h", "127.0.0.1", "-U", user, "-Atc",
                      question, database)  # fmt: skip

    for user in users:
        own = user.removesuffix("_reader")
        for database in ("airflow", "mlflow", "results", "postgres"):
            done = ask(user, database, "SELECT 1")
            assert (done.returncode == 0) == (database == own), (user, database, done.stderr)
    assert "read-only" in ask("results_reader", "results", "DELETE FROM runs").stderr
    forced = "SET transaction_read_only = off; DELETE FROM runs"
    assert "permission denied" in ask("results_reader", "results", forced).stderr
    assert ask("results_reader", "results", "SELECT count(*) FROM runs").returncode == 0
    wrong = docker("exec", "-e", "PGPASSWORD=airflow", name, "psql", "-h", "127.0.0.1", "-U",
                   "airflow", "-c", "SELECT 1", "airflow")  # fmt: skip
    assert "password authentication failed" in wrong.stderr


@pytest.mark.parametrize(
    ("account", "method", "path", "body", "allowed"),
    [
        ("viewer", "GET", "/api/v2/dags", None, True),
        ("viewer", "POST", "/api/v2/dags/train/dagRuns", {"logical_date": None, "conf": {}}, False),
        ("viewer", "PATCH", "/api/v2/dags/train", {"is_paused": False}, False),
        ("viewer", "GET", "/api/v2/connections", None, False),
        ("operator", "PATCH", "/api/v2/dags/train", {"is_paused": False}, True),
        ("operator", "GET", "/api/v2/connections", None, False),
        ("operator", "PATCH", "/api/v2/pools/trainyard_cpu", {"slots": 9}, False),
        ("admin", "GET", "/api/v2/connections", None, True),
        ("admin", "POST", "/api/v2/variables", {"key": "made_by_admin", "value": "x"}, True),
        ("admin", "GET", "/auth/fab/v1/users", None, True),
        ("operator", "GET", "/auth/fab/v1/users", None, False),
    ],
)
def test_each_role_may_do_what_it_is_for(compose_stack, account, method, path, body, allowed):
    options = {"json": body} if body else {}
    if allowed:
        compose_stack.api(account).call(method, path, **options)
        return
    with pytest.raises(UnavailableError, match=r": 40[13] "):
        compose_stack.api(account).call(method, path, **options)


def test_nobody_gets_in_without_a_password(compose_stack):
    for path in ("/api/v2/dags", "/api/v2/connections"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(compose_stack.url("AIRFLOW_PORT") + path, timeout=10)
    api = compose_stack.api("admin")
    body = {"username": "admin", "password": "admin"}
    assert api._client.post("/auth/token", json=body).status_code == 401


# --- both ways to train ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nightly(compose_stack, browser):
    """Two nights: in containers, started in the browser; over two nodes, started through REST."""
    first = night_from_the_browser(compose_stack, browser)
    second = compose_stack.api().trigger(
        "nightly_benchmark", {**TINY, "site": "slurm", "ranks": [2]}, "over-rest"
    )
    return {"docker": first, "slurm": second}


@pytest.mark.parametrize("site", ["docker", "slurm"])
def test_a_night_ends_with_a_report_runs_in_mlflow_rows_and_metrics(compose_stack, nightly, site):
    dag_run_id = nightly[site]
    state = ended(compose_stack, "nightly_benchmark", dag_run_id)
    assert state == "success", failures(compose_stack, "nightly_benchmark", dag_run_id)
    found = rows(compose_stack, dag_run_id)
    assert found
    assert {(row["status"], row["sane"], row["site"]) for row in found} == {
        ("completed", row["sane"], site) for row in found
    }
    if site == "slurm":
        assert {(row["ranks"], row["nodes"]) for row in found} >= {("2", "2")}
    report = compose_stack.sql(
        "results", f"SELECT report_path FROM studies WHERE dag_run_id = '{dag_run_id}'"
    )[0][0]
    assert "digits" in compose_stack.exec("airflow-scheduler", "cat", report)
    for row in found:
        run = row["mlflow_url"].rpartition("/")[2]
        address = f"{compose_stack.url('MLFLOW_PORT')}/api/2.0/mlflow/runs/get?run_id={run}"
        with urllib.request.urlopen(address, timeout=20) as answer:
            logged = json.load(answer)["run"]
        assert logged["info"]["status"] == "FINISHED"
        tags = {tag["key"]: tag["value"] for tag in logged["data"]["tags"]}
        assert tags["trainyard.run_id"] == row["run_id"]


def test_runs_in_containers_name_the_image_that_ran(compose_stack, nightly):
    ended(compose_stack, "nightly_benchmark", nightly["docker"])
    expected = docker("inspect", "--format", "{{.Id}}", "trainyard/trainer:test").stdout.strip()
    for row in rows(compose_stack, nightly["docker"]):
        text = compose_stack.exec(
            "airflow-scheduler", "cat", f"/srv/trainyard/runs/{row['run_id']}/result.json"
        )
        assert json.loads(text)["provenance"]["image"] == expected


def test_runs_on_the_cluster_used_both_nodes(compose_stack, nightly):
    ended(compose_stack, "nightly_benchmark", nightly["slurm"])
    two = [row["run_id"] for row in rows(compose_stack, nightly["slurm"]) if row["nodes"] == "2"]
    listed = compose_stack.sql(
        "results", f"SELECT state, node_list FROM run_jobs WHERE run_id = '{two[0]}'"
    )
    assert listed == [["COMPLETED", "slurm-node-[1-2]"]]


def test_prometheus_has_the_runs_and_nothing_that_can_run_is_down(compose_stack, nightly):
    for site in nightly:
        question = f'trainyard_runs_ended_total{{site="{site}",status="completed"}} > 0'
        until(lambda q=question: prometheus(compose_stack, q), 120, f"metrics of {site}")
    # Not in the replacements: no package of Grafana and of statsd_exporter; rclone has no metrics.
    down = {item["metric"]["job"] for item in prometheus(compose_stack, "up == 0")}
    assert down <= {"grafana", "airflow", "minio"}
    assert {item["metric"]["job"] for item in prometheus(compose_stack, "up == 1")} >= {
        "trainyard", "node", "prometheus", "alertmanager",
    }  # fmt: skip


# --- profiles -------------------------------------------------------------------------------------


def test_profile_run_over_the_nodes_names_the_stall_with_the_hosts_profiler(compose_stack):
    """TRAINER_TOOLS is all that it needs, also in containers that are the cluster's nodes."""
    profiled_spec(Profiler.NSYS)  # skips without nsys
    conf = {"site": "slurm", "dataset": "synthetic", "ranks": [2], "per_rank_batch": 16,
            "steps": 40, "repeats": 1, "profile_steps": 10, "profiler": "nsys",
            "threads_per_rank": 1, "stall": "input", "stall_ms": 120}  # fmt: skip
    compose_stack.api().trigger("profile_run", conf, "profiled")
    state = ended(compose_stack, "profile_run", "profiled", 300)
    assert state == "success", failures(compose_stack, "profile_run", "profiled")
    found = compose_stack.sql(
        "results",
        "SELECT profiler, bound, runs.nodes FROM profiles JOIN runs USING (run_id) "
        "WHERE runs.dag_run_id = 'profiled'",
    )
    assert found == [["nsys", "input", "2"]]


# --- crashes --------------------------------------------------------------------------------------


def test_every_service_killed_during_two_runs_loses_nothing_and_doubles_nothing(compose_stack):
    """One run in containers and one over the nodes go on while each service crashes in turn."""
    faults = kill_each_during_two_runs(compose_stack)
    assert faults.states == {"crash-docker": "success", "crash-slurm": "success"}
    assert (faults.lost, faults.doubled) == ((), ())
    assert faults.survived == CRASHED


@pytest.mark.parametrize("node", NODES)
def test_a_run_one_of_whose_nodes_is_killed_starts_again_and_ends_right(compose_stack, node):
    crash = kill_node_during_its_run(compose_stack, node)
    assert crash.ended_right, crash


# --- TLS ------------------------------------------------------------------------------------------


def test_with_tls_everything_goes_through_the_certificate_and_nothing_in_the_clear(compose_stack):
    from dataclasses import replace

    need(shutil.which("openssl"), "openssl (apt-get install openssl)")
    options = replace(compose_stack.options, files=PACKAGES_TLS, profiles="slurm")
    _, output = up(options)
    assert compose_stack.url("AIRFLOW_TLS_PORT", "https") in output
    folder = options.env_file.parent / ".trainyard" / "stack" / "tls"
    trusting = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    secure = compose_stack.url("AIRFLOW_TLS_PORT", "https")

    with urllib.request.urlopen(f"{secure}/api/v2/version", context=trusting, timeout=20) as answer:
        assert answer.status == 200
        assert "max-age" in answer.headers["Strict-Transport-Security"]
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"{secure}/api/v2/version", timeout=20)
    old = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    # Without it the client itself would refuse, and the proxy would not be asked.
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(urllib.error.URLError, match="ALERT_PROTOCOL_VERSION"):
        urllib.request.urlopen(f"{secure}/api/v2/version", context=old, timeout=20)
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(compose_stack.url("AIRFLOW_PORT"), timeout=5)

    login(compose_stack, secure, folder / "ca.crt")
    for variable, path in (("MLFLOW_TLS_PORT", "/health"), ("PROMETHEUS_TLS_PORT", "/-/ready"),
                           ("ALERTMANAGER_TLS_PORT", "/-/ready")):  # fmt: skip
        address = compose_stack.url(variable, "https") + path
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(address, context=trusting, timeout=20)
        assert fetch(address, trusting, "viewer", compose_stack.values["VIEWER_PASSWORD"]) == 200
        with pytest.raises(urllib.error.HTTPError, match="401"):
            fetch(address, trusting, "viewer", compose_stack.values["ADMIN_PASSWORD"])


# --- the end --------------------------------------------------------------------------------------


def test_down_keeps_the_data_and_up_finds_it_again(compose_stack, capsys):
    from trainyard.compose import stack as commands

    options = compose_stack.options
    before = compose_stack.sql("results", "SELECT count(*) FROM runs")
    assert commands.down(options, volumes=False) == 0
    assert compose_stack.containers() == {}
    listed = docker("volume", "ls", "--quiet").stdout.split()
    assert f"{options.project}_postgres" in listed
    assert "Data and .env are kept" in capsys.readouterr().out
    assert commands.status(options) == 1
    assert "not created" in capsys.readouterr().out
    compose_stack.forget()
    up(options)
    assert compose_stack.sql("results", "SELECT count(*) FROM runs") == before
    compose_stack.api("admin").call("GET", "/api/v2/variables/made_by_admin")
