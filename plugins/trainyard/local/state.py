"""The local stack's folder: every file it owns, and the configuration it writes there."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(kw_only=True, slots=True, frozen=True)
class Ports:
    """TCP ports of the stack's servers, all on 127.0.0.1."""

    airflow: int
    worker_logs: int
    trigger_logs: int
    mlflow: int
    s3: int


@dataclass(kw_only=True, slots=True, frozen=True, repr=False)
class Secrets:
    """Random values made once per state folder; none is a default anybody could know."""

    admin_password: str
    fernet_key: str
    jwt_secret: str
    api_secret: str
    s3_access_key: str
    s3_secret_key: str


@dataclass(kw_only=True, slots=True, frozen=True)
class StackPaths:
    """Every file of one local stack."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held by the one process that runs the stack."""
        return self.root / "lock"

    @property
    def secrets(self) -> Path:
        """The stack's secrets, readable by the owner alone."""
        return self.root / "secrets.json"

    @property
    def settings(self) -> Path:
        """``trainyard.settings`` for every task."""
        return self.root / "settings.toml"

    @property
    def sites(self) -> Path:
        """``trainyard.sites``: where runs happen."""
        return self.root / "sites.toml"

    @property
    def airflow_home(self) -> Path:
        """AIRFLOW_HOME."""
        return self.root / "airflow"

    @property
    def passwords(self) -> Path:
        """Password file of Airflow's simple auth manager."""
        return self.airflow_home / "passwords.json"

    @property
    def migrated(self) -> Path:
        """Holds the Airflow version whose schema the metadata database has."""
        return self.airflow_home / "migrated"

    @property
    def airflow_db(self) -> Path:
        """Airflow's metadata database."""
        return self.airflow_home / "airflow.db"

    @property
    def results_db(self) -> Path:
        """Results database."""
        return self.root / "results.db"

    @property
    def mlflow_db(self) -> Path:
        """Tracking database."""
        return self.root / "mlflow.db"

    @property
    def s3_data(self) -> Path:
        """Folder behind the embedded object store."""
        return self.root / "s3"

    @property
    def runs(self) -> Path:
        """Run folders."""
        return self.root / "runs"

    @property
    def data(self) -> Path:
        """Prepared data sets."""
        return self.root / "data"

    @property
    def reports(self) -> Path:
        """Reports."""
        return self.root / "reports"

    @property
    def downloads(self) -> Path:
        """Interrupted downloads."""
        return self.root / "downloads"

    @property
    def logs(self) -> Path:
        """One log per service."""
        return self.root / "logs"

    @property
    def processes(self) -> Path:
        """Services that are running now: pid and start time, for the next start's clean-up."""
        return self.root / "processes.json"

    @property
    def environment(self) -> Path:
        """Shell lines that point the ``airflow`` command at this stack."""
        return self.root / "env.sh"


def free_ports() -> Ports:
    """Return five different ports that nothing listens on at the moment."""
    with ExitStack() as stack:
        numbers = []
        for _ in range(5):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            numbers.append(int(listener.getsockname()[1]))
    airflow, worker_logs, trigger_logs, mlflow, s3 = numbers
    return Ports(
        airflow=airflow, worker_logs=worker_logs, trigger_logs=trigger_logs, mlflow=mlflow, s3=s3
    )


def load_secrets(paths: StackPaths) -> Secrets:
    """Return the stack's secrets, made at the first call."""
    if paths.secrets.is_file():
        return Secrets(**json.loads(paths.secrets.read_text()))
    from cryptography.fernet import Fernet

    made = Secrets(
        admin_password=secrets.token_urlsafe(12),
        fernet_key=Fernet.generate_key().decode(),
        jwt_secret=secrets.token_urlsafe(48),
        api_secret=secrets.token_urlsafe(32),
        s3_access_key=secrets.token_hex(10),
        s3_secret_key=secrets.token_urlsafe(30),
    )
    write_private(paths.secrets, json.dumps(asdict(made), indent=2))
    return made


def write_private(path: Path, text: str) -> None:
    """Write *text* in one step into a file that its owner alone can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    partial.replace(path)


def write_configuration(
    paths: StackPaths, ports: Ports, keys: Secrets, schedule: str, more_sites: str = ""
) -> None:
    """Write settings, sites and the password file for this start of the stack.

    *more_sites* are tables of the site file beside that of this machine.
    """
    for folder in (paths.runs, paths.data, paths.reports, paths.downloads, paths.logs,
                   paths.s3_data, paths.airflow_home):  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, str | int] = {
        "results_url": f"sqlite:///{paths.results_db}",
        "s3_endpoint": f"127.0.0.1:{ports.s3}",
        "s3_access_key": keys.s3_access_key,
        "s3_secret_key": keys.s3_secret_key,
        "mlflow_url": f"http://127.0.0.1:{ports.mlflow}",
        "mlflow_public_url": f"http://localhost:{ports.mlflow}",
        "airflow_public_url": f"http://localhost:{ports.airflow}",
        "reports_dir": str(paths.reports),
        "downloads_dir": str(paths.downloads),
        "sites_file": str(paths.sites),
        "nightly_schedule": schedule,
    }
    write_private(paths.settings, toml(settings))
    paths.sites.write_text("[local]\n" + toml(local_site(paths)) + more_sites)
    write_private(paths.passwords, json.dumps({"admin": keys.admin_password}))


def local_site(paths: StackPaths) -> dict[str, str | int]:
    """Return the fields of the site that runs plain processes on this machine."""
    cores = len(os.sched_getaffinity(0))
    return {
        "launcher": "process",
        "python": str(REPOSITORY / ".trainyard" / "envs" / "trainer" / "bin" / "python"),
        "runs_dir": str(paths.runs),
        "data_dir": str(paths.data),
        "cores": cores,
        "gpus_per_node": count_gpus(),
        "largest_ranks": max(4, 2 * cores),
    }


def count_gpus() -> int:
    """Return how many NVIDIA GPUs the driver shows; 0 without a driver."""
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def toml(values: Mapping[str, str | int]) -> str:
    """Return *values* as lines of TOML."""
    # JSON's strings and whole numbers are written as TOML writes them.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
