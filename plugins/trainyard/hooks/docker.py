"""A Docker engine as an Airflow connection of type ``docker``, through the provider's hook.

The connection is the provider's own: host, login and password are those of a registry, and are used
only where the site pulls. Which engine it is, its extras say: ``docker_url``, and for TLS
``ca_cert``, ``client_cert`` and ``client_key``, paths on every host that runs tasks and triggers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseHook

from trainyard.docker.engine import DEFAULT_HOST, TIMEOUT_S, Engine
from trainyard.docker.render import docker_of
from trainyard.docker.site import DockerSite, Pull
from trainyard.errors import ConfigurationError
from trainyard.sites import Site

_TLS = ("ca_cert", "client_cert", "client_key")


def engine_of(site: Site) -> Engine:
    """Return the engine of a Docker *site*: the one it names, or its connection, or DOCKER_HOST.

    Reads the connection, and asks the engine nothing. Raises ``ConfigurationError`` naming
    connection and field.
    """
    docker = docker_of(site)
    extra: Mapping[str, Any] = {}
    login = ""
    if docker.connection:
        # Here and not when first used: a trigger may read connections here, but not in a thread.
        found = BaseHook.get_connection(docker.connection)
        if found.conn_type != "docker":
            raise ConfigurationError(
                f"connection {docker.connection!r} of site {site.name!r} is of type "
                f"{found.conn_type!r}; choose one of type docker"
            )
        extra = found.extra_dejson
        login = docker.connection if found.login and docker.pull is not Pull.NEVER else ""
    host = _host(docker, extra)
    tls = _tls(docker, extra, host)

    def connect() -> Any:
        from airflow.providers.docker.hooks.docker import DockerHook
        from airflow.sdk.exceptions import AirflowException

        options = DockerHook.construct_tls_config(*tls) if tls else None
        hook = DockerHook(
            docker_conn_id=login or None, base_url=host, tls=options, timeout=TIMEOUT_S
        )
        try:
            return hook.get_conn()
        except AirflowException as error:
            raise ConnectionError(str(error)) from error

    return Engine(host, connect)


def _host(docker: DockerSite, extra: Mapping[str, Any]) -> str:
    return str(
        docker.host or extra.get("docker_url") or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    )


def _tls(docker: DockerSite, extra: Mapping[str, Any], host: str) -> tuple[str, str, str] | None:
    given = {name: str(extra[name]) for name in _TLS if extra.get(name)}
    if given and len(given) < len(_TLS):
        missing = ", ".join(name for name in _TLS if name not in given)
        raise ConfigurationError(
            f"connection {docker.connection!r}: TLS needs {', '.join(_TLS)}; {missing} is missing"
        )
    if given and host.startswith("unix:"):
        raise ConfigurationError(
            f"connection {docker.connection!r}: TLS files are for tcp://host:port, and the engine "
            f"is {host}; set docker_url, or remove them"
        )
    return (given["ca_cert"], given["client_cert"], given["client_key"]) if given else None
