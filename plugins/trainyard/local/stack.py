"""Start the whole local stack, in the order that loses the least time, and stop it again."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.local.api import AirflowApi
from trainyard.local.services import Service, Services, adopt_orphans, answers, executable
from trainyard.local.state import (
    REPOSITORY,
    Ports,
    Secrets,
    StackPaths,
    free_ports,
    load_secrets,
    write_configuration,
)

POOLS = {
    "trainyard_cpu": (1, "Measured runs on this machine's cores, one at a time"),
    "trainyard_gpu": (1, "Measured runs on this machine's GPUs, one at a time"),
    # Give it as many slots as jobs may be in the queue where the nodes are real.
    "trainyard_slurm": (1, "Jobs on this machine's throw-away cluster, one at a time"),
}
_MLFLOW_BUCKET = "trainyard-mlflow"
_AIRFLOW_PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")


@dataclass(kw_only=True, slots=True, frozen=True)
class Stack:
    """A running stack."""

    paths: StackPaths
    ports: Ports
    secrets: Secrets
    services: Services
    api: AirflowApi

    @property
    def url(self) -> str:
        """Address of the Airflow web UI."""
        return f"http://localhost:{self.ports.airflow}"

    @property
    def mlflow_url(self) -> str:
        """Address of the MLflow UI."""
        return f"http://localhost:{self.ports.mlflow}"


@contextmanager
def running_stack(
    root: Path,
    *,
    schedule: str = "",
    extra: Mapping[str, str] | None = None,
    more_sites: str = "",
) -> Iterator[Stack]:
    """Start the stack whose state is in *root*, yield it ready for use, stop it at the end.

    *schedule* is the cron line of the nightly benchmark (empty: triggered only); *extra* adds
    environment variables for every Airflow component, *more_sites* tables to the site file. Raises
    ``ConfigurationError`` when another process already runs a stack in *root*,
    ``UnavailableError`` when a service does not come up.
    """
    paths = StackPaths(root=root.resolve())
    paths.root.mkdir(parents=True, exist_ok=True)
    with _locked(paths):
        adopt_orphans()
        ports, keys = free_ports(), load_secrets(paths)
        write_configuration(paths, ports, keys, schedule, more_sites)
        env = airflow_environment(paths, ports, keys) | dict(extra or {})
        _write_environment(paths, env)
        services = Services(paths)
        url = f"http://127.0.0.1:{ports.airflow}"
        with AirflowApi(url, "admin", keys.admin_password) as api:
            stack = Stack(paths=paths, ports=ports, secrets=keys, services=services, api=api)
            try:
                _start(stack, env)
                yield stack
            finally:
                services.stop()


def _start(stack: Stack, env: dict[str, str]) -> None:
    paths, ports, keys, services = stack.paths, stack.ports, stack.secrets, stack.services
    services.start(_s3(paths, ports, keys))
    _make_buckets(paths, services, ports)
    services.start(_mlflow(paths, ports, keys))
    _migrate(paths, env)
    for part in _AIRFLOW_PARTS:
        argv = [executable("airflow"), part]
        services.start(Service(name=f"airflow-{part}", argv=argv, env=env))
    services.wait_until(stack.api.healthy, "Airflow", 180)
    _make_pools(stack.api)
    health = f"http://127.0.0.1:{ports.mlflow}/health"
    services.wait_until(lambda: answers(health), "MLflow", 180)


@contextmanager
def _locked(paths: StackPaths) -> Iterator[IO[str]]:
    with paths.lock.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            owner = stream.read().strip() or "an unknown process"
            raise ConfigurationError(
                f"a Trainyard stack already runs in {paths.root} (process {owner}); wait for it, "
                "stop it, or choose another folder: make demo STATE_DIR=/path/to/folder"
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        # The services must not inherit the lock, or it would outlive this process.
        os.set_inheritable(stream.fileno(), False)
        yield stream


def _s3(paths: StackPaths, ports: Ports, keys: Secrets) -> Service:
    argv = [executable("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{ports.s3}",
            "--config", "/dev/null", "--vfs-cache-mode", "off", str(paths.s3_data)]  # fmt: skip
    # The key pair goes through the environment, since every user can read a command line; rclone
    # reads a list from there as CSV, hence the quotes.
    pair = f'"{keys.s3_access_key},{keys.s3_secret_key}"'
    return Service(name="object-store", argv=argv, env={"RCLONE_AUTH_KEY": pair})


def _make_buckets(paths: StackPaths, services: Services, ports: Ports) -> None:
    url = f"http://127.0.0.1:{ports.s3}/"
    services.wait_until(lambda: answers(url), "the object store", 30)
    (paths.s3_data / _MLFLOW_BUCKET).mkdir(exist_ok=True)
    (paths.s3_data / "trainyard").mkdir(exist_ok=True)


def _mlflow(paths: StackPaths, ports: Ports, keys: Secrets) -> Service:
    argv = [executable("mlflow"), "server", "--host", "127.0.0.1", "--port", str(ports.mlflow),
            "--workers", "1", "--backend-store-uri", _sqlite(paths.mlflow_db),
            "--artifacts-destination", f"s3://{_MLFLOW_BUCKET}"]  # fmt: skip
    env = {
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{ports.s3}",
        "AWS_ACCESS_KEY_ID": keys.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": keys.s3_secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        # Its seven background job consumers serve features that no benchmark uses.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return Service(name="mlflow", argv=argv, env=env)


def _sqlite(path: Path) -> str:
    """Return the URL of a database that is waited for a minute while another writes to it.

    After 5 s, SQLite's own measure, a scheduler would end: a disk that is busy takes longer.
    """
    return f"sqlite:///{path}?timeout=60"


def airflow_environment(paths: StackPaths, ports: Ports, keys: Secrets) -> dict[str, str]:
    """Return the environment of every Airflow component of this stack."""
    settings: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": REPOSITORY / "dags",
            "plugins_folder": REPOSITORY / "plugins",
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": 4,
            "fernet_key": keys.fernet_key,
            "execution_api_server_url": f"http://127.0.0.1:{ports.airflow}/execution/",
            "simple_auth_manager_users": "admin:admin",
            "simple_auth_manager_passwords_file": paths.passwords,
            "test_connection": "Enabled",
        },
        "database": {"sql_alchemy_conn": _sqlite(paths.airflow_db)},
        "api": {
            "host": "127.0.0.1",
            "port": ports.airflow,
            "workers": 1,
            "base_url": f"http://localhost:{ports.airflow}",
            "secret_key": keys.api_secret,
        },
        "api_auth": {"jwt_secret": keys.jwt_secret},
        # A finished benchmark that is cleared is meant to run again.
        "state_store": {"clear_on_success": True},
        "logging": {
            "worker_log_server_port": ports.worker_logs,
            "trigger_log_server_port": ports.trigger_logs,
        },
        # Parsing unchanged files again and again would load the cores that runs are measured on.
        "dag_processor": {"min_file_process_interval": 300, "refresh_interval": 30},
        "usage_data_collection": {"enabled": False},
    }
    env = {
        f"AIRFLOW__{section.upper()}__{key.upper()}": str(value)
        for section, values in settings.items()
        for key, value in values.items()
    }
    places = {"AIRFLOW_HOME": paths.airflow_home, "TRAINYARD_SETTINGS": paths.settings,
              "TRAINYARD_SITES": paths.sites}  # fmt: skip
    return env | {name: str(place) for name, place in places.items()}


def _write_environment(paths: StackPaths, env: Mapping[str, str]) -> None:
    from trainyard.local.state import write_private

    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(env.items())]
    write_private(paths.environment, "".join(lines))


def _migrate(paths: StackPaths, env: Mapping[str, str]) -> None:
    from trainyard.store import migrate, open_store

    with open_store(f"sqlite:///{paths.results_db}") as store:
        migrate(store)
    wanted = version("apache-airflow")
    if paths.migrated.is_file() and paths.migrated.read_text() == wanted:
        return
    done = subprocess.run(
        [executable("airflow"), "db", "migrate"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UnavailableError(f"airflow db migrate failed:\n{done.stderr[-2000:]}")
    paths.migrated.write_text(wanted)


def _make_pools(api: AirflowApi) -> None:
    pools = [
        {"name": name, "slots": slots, "description": text, "include_deferred": True}
        for name, (slots, text) in POOLS.items()
    ]
    body = {
        "actions": [{"action": "create", "entities": pools, "action_on_existence": "overwrite"}]
    }
    api.call("PATCH", "/api/v2/pools", json=body)
