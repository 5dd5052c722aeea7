"""What the containers read, as a pure function of ``.env``: secrets, settings, sites, pools.

Every file lies below one folder that its owner alone may enter. The files themselves may be read by
any user: each container sees those mounted into it, and its user has another number than theirs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainyard.compose.keys import PORTS, ROLES, TLS_PORTS

RUNS, DATA = "/srv/trainyard/runs", "/srv/trainyard/data"
_SLURM_CONNECTION, _LOGIN_CONNECTION = "slurm_stack", "slurm_stack_login"
_LOGIN_USER, _LOGIN_PORT = "trainyard", 2222
SLURM_NODES = 2


@dataclass(kw_only=True, slots=True, frozen=True)
class LoginKeys:
    """Both ends of SSH to the login node; public keys as ``ssh-ed25519 AAAA…``."""

    host_public: str = ""
    host_private: str = ""
    user_public: str = ""
    user_private: str = ""


@dataclass(kw_only=True, slots=True, frozen=True)
class Place:
    """What rendering must know beside ``.env``."""

    project: str
    """Compose project, which names networks and volumes."""
    cores: int
    """Cores of the engine's machine."""
    profiles: frozenset[str]
    """Optional parts that run."""
    tls: bool = False
    """Whether the TLS proxy stands before the web interfaces."""
    login: LoginKeys = LoginKeys()
    """Keys of the Slurm login node; empty without that part."""


def files(values: Mapping[str, str], place: Place) -> dict[str, str | bytes]:
    """Return the content of each file by its name below the stack's ``secrets`` folder."""
    rendered: dict[str, str | bytes] = {name: values[key] for name, key in _AS_THEY_ARE.items()}
    rendered |= _urls(values)
    rendered |= {
        "mlflow_s3_credentials": _aws("mlflow", values["MLFLOW_S3_SECRET_KEY"]),
        "slurm_munge_key": base64.b64decode(values["SLURM_MUNGE_KEY"]),
        "slurm_ssh_key": place.login.user_private,
        "slurm_ssh_host_key": place.login.host_private,
        "slurm_ssh_authorized_keys": place.login.user_public + "\n",
        "settings.toml": toml(settings(values, place)),
        "settings-reader.toml": toml(reader_settings(values, place)),
        "sites.toml": sites(values, place),
        "docker-proxy.toml": toml(proxy_policy(values, place)),
        "accounts.json": json.dumps(accounts(values), indent=1),
        "pools.json": json.dumps(pools(place), indent=1),
        "connections.json": json.dumps(connections(place), indent=1),
        "web_users": "".join(_htpasswd(entry) for entry in accounts(values)),
    }
    return rendered


_AS_THEY_ARE = {
    "postgres_password": "POSTGRES_PASSWORD",
    "airflow_db_password": "AIRFLOW_DB_PASSWORD",
    "mlflow_db_password": "MLFLOW_DB_PASSWORD",
    "results_db_password": "RESULTS_DB_PASSWORD",
    "results_reader_password": "RESULTS_READER_PASSWORD",
    "redis_password": "REDIS_PASSWORD",
    "airflow_fernet_key": "AIRFLOW_FERNET_KEY",
    "airflow_jwt_secret": "AIRFLOW_JWT_SECRET",
    "airflow_api_secret": "AIRFLOW_API_SECRET",
    "viewer_password": "VIEWER_PASSWORD",
    "grafana_admin_password": "GRAFANA_ADMIN_PASSWORD",
    "minio_root_password": "MINIO_ROOT_PASSWORD",
    "s3_secret_key": "S3_SECRET_KEY",
    "mlflow_s3_secret_key": "MLFLOW_S3_SECRET_KEY",
    "slurm_db_root_password": "SLURM_DB_ROOT_PASSWORD",
    "slurm_db_password": "SLURM_DB_PASSWORD",
}


def _urls(values: Mapping[str, str]) -> dict[str, str]:
    airflow = f"airflow:{values['AIRFLOW_DB_PASSWORD']}@postgres:5432/airflow"
    return {
        "airflow_db_url": f"postgresql+psycopg2://{airflow}",
        "celery_broker_url": f"redis://:{values['REDIS_PASSWORD']}@redis:6379/0",
        "celery_result_url": f"db+postgresql+psycopg2://{airflow}",
        "mlflow_db_url": (
            f"postgresql+psycopg://mlflow:{values['MLFLOW_DB_PASSWORD']}@postgres:5432/mlflow"
        ),
    }


def settings(values: Mapping[str, str], place: Place) -> dict[str, object]:
    """Return the fields of ``trainyard.settings`` as the containers see the services."""
    return {
        "results_url": f"postgresql://results:{values['RESULTS_DB_PASSWORD']}@postgres:5432/results",
        "s3_endpoint": "minio:9000",
        "s3_access_key": "trainyard",
        "s3_secret_key": values["S3_SECRET_KEY"],
        "mlflow_url": "http://mlflow:5000",
        "mlflow_public_url": public_url(values, "MLflow", tls=place.tls),
        "airflow_public_url": public_url(values, "Airflow", tls=place.tls),
        "reports_dir": "/srv/trainyard/reports",
        "downloads_dir": "/srv/trainyard/downloads",
        "sites_file": "/etc/trainyard/sites.toml",
        "nightly_schedule": values["NIGHTLY_SCHEDULE"],
        "default_site": "docker",
    }


def reader_settings(values: Mapping[str, str], place: Place) -> dict[str, object]:
    """Return settings for who only reads results: their role in the database, no object store."""
    reader = f"results_reader:{values['RESULTS_READER_PASSWORD']}"
    return settings(values, place) | {
        "results_url": f"postgresql://{reader}@postgres:5432/results",
        "s3_access_key": "none",
        "s3_secret_key": "none",
    }


def public_url(values: Mapping[str, str], what: str, *, tls: bool) -> str:
    """Return the address at which a browser on this machine finds *what*."""
    port = next(port for port in (TLS_PORTS if tls else PORTS) if port.what == what)
    return f"{port.scheme}://localhost:{values[port.variable]}"


def sites(values: Mapping[str, str], place: Place) -> str:
    """Return the site file: containers of this engine, and the cluster where it runs."""
    cores = int(values["TRAINER_CORES"] or place.cores)
    gpus = int(values["TRAINER_GPUS"])
    here: dict[str, object] = {
        "launcher": "docker",
        "python": "/opt/trainer/bin/python",
        "runs_dir": RUNS,
        "data_dir": DATA,
        "cores": cores,
        "gpus_per_node": gpus,
        "largest_ranks": gpus or max(4, 2 * cores),
    }
    engine: dict[str, object] = {
        "image": f"trainyard/trainer:{values['TRAINYARD_TAG']}",
        "host": "tcp://docker-proxy:2375",
        "network": f"{place.project}-ranks",
        "mounts": [
            f"{place.project}_runs:{RUNS}",
            f"{place.project}_data:{DATA}",
            *(f"{folder}:{folder}:ro" for folder in tools(values)),
        ],
    }
    text = _tables("docker", here, engine)
    text += _tables("docker-ranks", here, engine | {"containers": "per_rank"})
    return text + (_slurm_site(values, here) if "slurm" in place.profiles else "")


def tools(values: Mapping[str, str]) -> list[str]:
    """Return the host's folders that runs see under the same path, to read: profilers."""
    return [part.strip() for part in values["TRAINER_TOOLS"].split(",") if part.strip()]


def _tables(name: str, here: Mapping[str, object], engine: Mapping[str, object]) -> str:
    return f"[{name}]\n{toml(here)}[{name}.docker]\n{toml(engine)}"


def _slurm_site(values: Mapping[str, str], here: Mapping[str, object]) -> str:
    cpus = int(values["SLURM_NODE_CPUS"])
    nodes = {**here, "launcher": "slurm", "cores": cpus, "gpus_per_node": 0}
    nodes["largest_ranks"] = SLURM_NODES * cpus
    # A container is back before Slurm misses it: its ranks are given up soon after the first one.
    way = {"connection": _SLURM_CONNECTION, "wait_time_s": 30}
    return f"[slurm]\n{toml(nodes)}[slurm.slurm]\n{toml(way)}"


def proxy_policy(values: Mapping[str, str], place: Place) -> dict[str, object]:
    """Return what the Docker socket proxy permits: our trainer, its network, volumes and tools."""
    return {
        "listen": "0.0.0.0:2375",  # on a network that only those who launch runs are in
        "images": [f"trainyard/trainer:{values['TRAINYARD_TAG']}"],
        "networks": [f"{place.project}-ranks", "none"],
        "volumes": [f"{place.project}_runs", f"{place.project}_data"],
        "binds": tools(values),
        "gpus": int(values["TRAINER_GPUS"]) > 0,
        "user": "10001:10001",
    }


def accounts(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the accounts of Airflow and of the TLS proxy."""
    return [
        {"username": name, "password": values[f"{name.upper()}_PASSWORD"], "role": role}
        for name, role in ROLES.items()
    ]


def pools(place: Place) -> list[dict[str, Any]]:
    """Return the pools that runs wait in: one slot each, since two runs measure each other."""
    found: list[dict[str, Any]] = [
        {"name": "trainyard_cpu", "slots": 1, "description": "Runs on this machine's cores"},
        {"name": "trainyard_gpu", "slots": 1, "description": "Runs on this machine's GPUs"},
    ]
    if "slurm" in place.profiles:
        text = "Jobs on the stack's cluster"
        found.append({"name": "trainyard_slurm", "slots": 1, "description": text})
    return found


def connections(place: Place) -> dict[str, dict[str, Any]]:
    """Return the connections of the cluster: its login node, and how often it is asked."""
    if "slurm" not in place.profiles:
        return {}
    login = {
        "conn_type": "ssh",
        "host": "slurmctld",
        "port": _LOGIN_PORT,
        "login": _LOGIN_USER,
        "extra": {
            "key_file": "/run/secrets/slurm_ssh_key",
            "host_key": place.login.host_public,
            "no_host_key_check": False,
        },
    }
    cluster = {
        "conn_type": "slurm",
        # It is nobody else's cluster: it may be asked often.
        "extra": {"transport": "ssh", "ssh_conn_id": _LOGIN_CONNECTION,
                  "commands_per_s": 2, "min_poll_s": 1},
    }  # fmt: skip
    return {_LOGIN_CONNECTION: login, _SLURM_CONNECTION: cluster}


def _aws(access: str, secret: str) -> str:
    return f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"


def _htpasswd(entry: Mapping[str, str]) -> str:
    """Return a line that nginx's auth_basic reads: salted SHA-1, of passwords with 142 random bits.

    The salt follows from the password, so that the file is the same at every start.
    """
    password = entry["password"].encode()
    salt = hashlib.sha256(b"trainyard web users" + password).digest()[:8]
    digest = hashlib.sha1(password + salt, usedforsecurity=False).digest()
    return f"{entry['username']}:{{SSHA}}{base64.b64encode(digest + salt).decode()}\n"


def toml(values: Mapping[str, object]) -> str:
    """Return *values* (text, numbers, booleans, lists of texts) as lines of TOML."""
    # JSON writes each of these as TOML does.
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
