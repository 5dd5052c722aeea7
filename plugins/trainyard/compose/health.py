"""Health of a component over HTTP, for Compose: ``health.py URL [COMPONENT]``.

Airflow's own ``jobs check`` loads Airflow, seconds of CPU each time, on the cores that runs are
measured on; this needs a twentieth of one. With COMPONENT the answer must be Airflow's health
record, and that component's heartbeat fresh in it.
"""

from __future__ import annotations

import json
import sys
from http.client import HTTPException
from urllib.request import urlopen

_TIMEOUT_S = 6


def judge(status: int, body: bytes, component: str) -> str:
    """Return what is wrong with an answer; empty when nothing is."""
    if status != 200:  # noqa: PLR2004 - HTTP's "OK"
        return f"HTTP status {status}"
    if not component:
        return ""
    try:
        found = json.loads(body)[component]["status"]
    except (ValueError, KeyError, TypeError):
        return f"the answer says nothing of {component}"
    return "" if found == "healthy" else f"{component} is {found}"


def main(arguments: list[str]) -> int:
    """Ask once; return 0 when healthy, and 1 with the reason on standard output."""
    url, component = arguments[0], arguments[1] if len(arguments) > 1 else ""
    try:
        # The address is a constant of the Compose file.
        with urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            wrong = judge(answer.status, answer.read(1 << 20), component)
    except (OSError, HTTPException) as error:
        wrong = f"{url}: {error}"
    if wrong:
        print(wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
