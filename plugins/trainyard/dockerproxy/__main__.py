"""``python -m trainyard.dockerproxy [--check | --ping]``: serve, or check the policy or a proxy."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from trainyard.dockerproxy.policy import Policy, load_policy
from trainyard.errors import ConfigurationError

DEFAULT = "/etc/trainyard/docker-proxy.toml"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal ends the process; return 2 for a policy that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m trainyard.dockerproxy", description=__doc__)
    named = os.environ.get("TRAINYARD_DOCKER_PROXY", DEFAULT)
    parser.add_argument("--policy", type=Path, default=Path(named), help="TOML file (%(default)s)")
    parser.add_argument("--check", action="store_true", help="read the policy and stop")
    parser.add_argument("--ping", action="store_true", help="ask a running proxy and its engine")
    options = parser.parse_args(argv)
    try:
        policy = load_policy(options.policy)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if options.ping:
        return 0 if answers(policy) else 1
    if not options.check:
        serve(policy)
    return 0


def answers(policy: Policy) -> bool:
    """Return whether a proxy with *policy* runs on this host and reaches its engine."""
    from http.client import HTTPConnection, HTTPException

    host, port = policy.address()
    everywhere = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
    connection = HTTPConnection("127.0.0.1" if host in everywhere else host, port, timeout=4)
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def serve(policy: Policy) -> None:
    """Listen and answer; one line when ready, as every other line a JSON object."""
    from aiohttp import web

    from trainyard.dockerproxy.server import Proxy

    proxy = Proxy(policy)
    logging.basicConfig(handlers=[proxy.audit.handler()], force=True)
    host, port = policy.address()

    def ready(_: str) -> None:
        proxy.audit.line("listening", "info", address=policy.listen, images=list(policy.images))

    web.run_app(
        proxy.application(),
        host=host,
        port=port,
        print=ready,
        access_log=None,
        handler_cancellation=True,
        # A run that is waited for must not hold up the end of the proxy.
        shutdown_timeout=2.0,
    )


if __name__ == "__main__":
    sys.exit(main())
