"""Every line of ``.env``: choices a person may change, secrets that are random from the start."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass

FORMAT = "1"
"""Format of ``.env``; a higher one was written by a newer Trainyard."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Key:
    """One line of ``.env``."""

    name: str
    """Its name, which is also that of the environment variable."""
    make: Callable[[], str]
    """Returns the first value."""
    text: str
    """What it is, for the comment above it."""
    secret: bool = False
    """Whether nobody may read it; such a value reaches a container only as a file."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Port:
    """One address that the stack publishes on this machine."""

    variable: str
    """The key that holds its number."""
    number: int
    """The usual number."""
    service: str
    """Service behind it."""
    what: str
    """What a person finds there."""
    scheme: str = "http"
    """``https`` behind the TLS proxy."""


PORTS = (
    Port(variable="AIRFLOW_PORT", number=8080, service="airflow-apiserver", what="Airflow"),
    Port(variable="MLFLOW_PORT", number=5000, service="mlflow", what="MLflow"),
    Port(variable="GRAFANA_PORT", number=3000, service="grafana", what="Grafana"),
    Port(variable="PROMETHEUS_PORT", number=9090, service="prometheus", what="Prometheus"),
    Port(variable="ALERTMANAGER_PORT", number=9093, service="alertmanager", what="Alertmanager"),
    Port(variable="MINIO_PORT", number=9000, service="minio", what="MinIO, S3 API"),
    Port(variable="MINIO_CONSOLE_PORT", number=9001, service="minio", what="MinIO, console"),
)
TLS_PORTS = tuple(
    Port(variable=variable, number=number, service="tls-proxy", what=what, scheme="https")
    for variable, number, what in (
        ("AIRFLOW_TLS_PORT", 8443, "Airflow"),
        ("MLFLOW_TLS_PORT", 8444, "MLflow"),
        ("GRAFANA_TLS_PORT", 8445, "Grafana"),
        ("PROMETHEUS_TLS_PORT", 8446, "Prometheus"),
        ("ALERTMANAGER_TLS_PORT", 8447, "Alertmanager"),
        ("MINIO_TLS_PORT", 8448, "MinIO, S3 API"),
        ("MINIO_CONSOLE_TLS_PORT", 8449, "MinIO, console"),
    )
)
ROLES = {"viewer": "Viewer", "operator": "User", "admin": "Admin"}
"""Accounts made at the first start, and their role in Airflow's FAB auth manager."""


def password() -> str:
    """Return 24 characters that need no quoting in a shell, a URL, INI, TOML or SQL: 142 bits."""
    return _characters(24)


def signing_key() -> str:
    """Return as many bytes as SHA-512's digest has: what RFC 7518, 3.2, asks of HS512."""
    return _characters(64)


def _characters(count: int) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(secrets.choice(alphabet) for _ in range(count))


def fernet_key() -> str:
    """Return a key for Fernet: 32 random bytes, URL-safe Base64 (the specification's form)."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def munge_key() -> str:
    """Return 128 random bytes in Base64: what `create-munge-key` makes."""
    return base64.b64encode(secrets.token_bytes(128)).decode()


def _fixed(value: object) -> Callable[[], str]:
    return lambda: str(value)


def _choice(name: str, value: object, text: str) -> Key:
    return Key(name=name, make=_fixed(value), text=text)


def _secret(name: str, text: str, make: Callable[[], str] = password) -> Key:
    return Key(name=name, make=make, text=text, secret=True)


KEYS: tuple[Key, ...] = (
    _choice("TRAINYARD_ENV", FORMAT, "Format of this file"),
    _choice("TRAINYARD_TAG", "dev", "Tag of Trainyard's own images"),
    _choice("TRAINYARD_REGISTRY", "", "Prefix of all other images, for a mirror: host/path/"),
    _choice("COMPOSE_PROFILES", "", "Optional parts, with commas: celery, gpu, slurm"),
    _choice("COMPOSE_FILE", "docker-compose.yaml",
            "Files of the stack; with TLS: docker-compose.yaml:docker-compose.tls.yaml"),
    _choice("DOCKER_SOCKET", "/var/run/docker.sock",
            "Socket of the engine; of a rootless one: /run/user/1000/docker.sock"),
    *(_choice(port.variable, port.number, f"{port.what}, on 127.0.0.1") for port in PORTS),
    _choice("TLS_BIND", "127.0.0.1", "Address the TLS proxy listens on; 0.0.0.0: every interface"),
    _choice("TLS_NAMES", "localhost,127.0.0.1", "Names and addresses in the generated certificate"),
    *(_choice(port.variable, port.number, f"{port.what} through TLS") for port in TLS_PORTS),
    _choice("NIGHTLY_SCHEDULE", "0 2 * * *", "Cron line of nightly_benchmark in UTC; empty: never"),
    _choice("TRAINER_CORES", "", "Cores of one run in containers; empty: all of this machine"),
    _choice("TRAINER_GPUS", "0", "GPUs of one run in containers"),
    _choice("TRAINER_TOOLS", "",
            "Host folders that runs may read, with commas: /opt/nvidia/nsight-systems"),
    _choice("SLURM_NODE_CPUS", 1, "Cores of each node of the profile slurm"),
    _choice("SLURM_NODE_MEMORY_MB", 2048, "Memory of each of these nodes in MiB"),
    _secret("POSTGRES_PASSWORD", "Superuser of PostgreSQL; no service uses it"),
    _secret("AIRFLOW_DB_PASSWORD", "Owner of Airflow's metadata database"),
    _secret("MLFLOW_DB_PASSWORD", "Owner of MLflow's database"),
    _secret("RESULTS_DB_PASSWORD", "Owner of the results database"),
    _secret("RESULTS_READER_PASSWORD", "Reads the results database and writes nothing"),
    _secret("REDIS_PASSWORD", "Celery's queue"),
    _secret("AIRFLOW_FERNET_KEY", "Encrypts connections in the metadata database", fernet_key),
    _secret("AIRFLOW_JWT_SECRET", "Signs the tokens of tasks and users", signing_key),
    _secret("AIRFLOW_API_SECRET", "Signs the sessions of the web UI", signing_key),
    *(_secret(f"{account.upper()}_PASSWORD", f"Password of the user {account}")
      for account in ROLES),
    _secret("GRAFANA_ADMIN_PASSWORD", "Password of Grafana's user admin"),
    _secret("MINIO_ROOT_PASSWORD", "MinIO's user root; no service but minio-setup uses it"),
    _secret("S3_SECRET_KEY", "MinIO's user trainyard: its own bucket, nothing else"),
    _secret("MLFLOW_S3_SECRET_KEY", "MinIO's user mlflow: its own bucket, nothing else"),
    _secret("SLURM_DB_ROOT_PASSWORD", "Superuser of Slurm's accounting database; unused"),
    _secret("SLURM_DB_PASSWORD", "Owner of Slurm's accounting database"),
    _secret("SLURM_MUNGE_KEY", "What the nodes of a Slurm cluster trust each other by", munge_key),
)  # fmt: skip
