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
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.fixtures.stack import (
    CRASHED,
    PACKAGES_TLS,
    docker,
    ended,
    kill_each_during_two_runs,
    until,
    up,
)
from tests.requirements import need
from trainyard.errors import UnavailableError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# The smallest study there is: one strong point and its baseline.
TINY = {"dataset": "digits", "preset": "demo", "repeats": 1, "steps": 10, "modes": ["strong"],
        "controls": ["none"]}  # fmt: skip
LIMIT_S = 180
IDLE_BYTES = 6e9


def failures(stack, dag_id: str, dag_run_id: str) -> str:
    """Tasks that failed with the end of their logs, for the message of a failed assertion."""
    api = stack.api()
    found = []
    for task in api.tasks(dag_id, dag_run_id):
        if task.state == "failed":
            path = f"/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances/{task.task_id}/logs/1"
            said = api.call("GET", path, params={"map_index": task.map_index})
            lines = [str(line.get("event", line)) for line in said["content"][-25:]]
            found.append("\n".join([f"{task.task_id}[{task.map_index}]", *lines]))
    return "\n\n".join(found)


def rows(stack, dag_run_id: str) -> list[dict[str, str]]:
    names = ["run_id", "status", "sane", "site", "ranks", "nodes", "mlflow_url"]
    found = stack.sql(
        "results", f"SELECT {', '.join(names)} FROM runs WHERE dag_run_id = '{dag_run_id}'"
    )
    return [dict(zip(names, row, strict=True)) for row in found]


def prometheus(stack, question: str) -> list[dict]:
    query = urllib.parse.urlencode({"query": question})
    url = f"{stack.url('PROMETHEUS_PORT')}/api/v1/query?{query}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]["result"]


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
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    url, before = compose_stack.url("AIRFLOW_PORT"), night_runs(compose_stack)
    page.goto(f"{url}/")
    page.locator("input[name=username]").fill("operator")
    page.locator("input[name=password]").fill(compose_stack.values["OPERATOR_PASSWORD"])
    page.locator("input[type=submit]").click()
    page.wait_for_url(f"{url}/", wait_until="networkidle")
    page.goto(f"{url}/dags/nightly_benchmark")
    page.get_by_role("button", name="Trigger").first.click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    dialog.get_by_role("button", name="How much", exact=True).click()
    for name, value in (("ranks", "1"), ("modes", "strong"), ("controls", "none")):
        field = dialog.locator(f"xpath=.//input[@name='element_{name}']/preceding::input[1]")
        field.fill(value)
        field.press("Enter")
    dialog.locator("input[name=element_repeats]").fill("1")
    dialog.get_by_role("button", name="Training", exact=True).click()
    dialog.locator("input[name=element_steps]").fill("10")
    dialog.get_by_role("button", name="Trigger").last.click()
    first = until(lambda: night_runs(compose_stack) - before, 60, "a run from the browser").pop()
    page.context.close()
    second = compose_stack.api().trigger(
        "nightly_benchmark", {**TINY, "site": "slurm", "ranks": [2]}, "over-rest"
    )
    return {"docker": first, "slurm": second}


def night_runs(stack) -> set[str]:
    found = stack.api().call("GET", "/api/v2/dags/nightly_benchmark/dagRuns")
    return {run["dag_run_id"] for run in found["dag_runs"]}


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


# --- crashes --------------------------------------------------------------------------------------


def test_every_service_killed_during_two_runs_loses_nothing_and_doubles_nothing(compose_stack):
    """One run in containers and one over the nodes go on while each service crashes in turn."""
    faults = kill_each_during_two_runs(compose_stack)
    assert faults.states == {"crash-docker": "success", "crash-slurm": "success"}
    assert (faults.lost, faults.doubled) == ((), ())
    assert faults.survived == CRASHED


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


def fetch(url: str, context: ssl.SSLContext, user: str, password: str) -> int:
    manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    manager.add_password(None, url, user, password)
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), urllib.request.HTTPBasicAuthHandler(manager)
    )
    with opener.open(url, timeout=20) as answer:
        return answer.status


def login(stack, secure: str, authority: Path) -> None:
    """Log in as a browser does and look at the cookies: none may travel in the clear."""
    import httpx

    context = ssl.create_default_context(cafile=str(authority))
    with httpx.Client(base_url=secure, verify=context, follow_redirects=False) as client:
        form = client.get("/auth/login/")
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', form.text)
        body = {"username": "admin", "password": stack.values["ADMIN_PASSWORD"],
                "csrf_token": token[1]}  # fmt: skip
        done = client.post("/auth/login/", data=body, headers={"Referer": f"{secure}/auth/login/"})
        assert done.status_code == 302, done.text[:300]
        cookies = done.headers.get_list("set-cookie")
        assert any(cookie.startswith("_token=") for cookie in cookies), cookies
        assert all("secure" in cookie.lower() for cookie in cookies), cookies
        target = done.headers["location"]
        assert not target.startswith("http://"), target


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
