"""The process in which probes happen: reads one request per line, answers one line per request.

A process of its own, since a probe that hangs (a driver that never answers, a dead network file
system) can only be ended from outside. Answers go to the descriptor that was standard output at
the start; whatever libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from trainer.contract import encode
from trainer.probes.found import Found, Place
from trainer.probes.registry import find


def answer(request: dict[str, object]) -> Found:
    """Make the probe that *request* names; what it raises is its finding."""
    name = str(request["probe"])
    place = Place(
        root=Path(str(request["root"])),
        run_dir=Path(str(request["run_dir"])),
        data_dir=Path(str(request["data_dir"])),
        quick=bool(request["quick"]),
        foreign=str(request["foreign"]),
    )
    try:
        return find(name)(place)
    except Exception as error:  # noqa: BLE001 - any library's error is this probe's finding alone
        found = Found()
        found.problem(name, f"{type(error).__name__}: {error}")
        return found


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        found = answer(json.loads(line))
        data = {
            name: [encode(one) for one in getattr(found, name)]
            for name in ("facts", "measurements", "problems")
        }
        answers.write(json.dumps(data) + "\n")


if __name__ == "__main__":
    main()
