"""Stand-ins for the trainer's python: real programs that end in the ways a trainer can end.

Each is a bash script that takes the place of ``site.python``; it is started exactly as the real one
would be, and its last argument is the run folder.
"""

from __future__ import annotations

from pathlib import Path

OK = "exit 0"
FAILS = "echo 'CUDA error: device-side assert' >&2; exit 1"
SLEEPS = "sleep 60 & wait"
"""Ends at SIGTERM, as a trainer does."""
STUBBORN = (
    "trap '' TERM; "
    "setsid bash -c 'trap \"\" TERM; echo $$ > rank.pid; sleep 60; sleep 60' & wait; wait"
)
"""Ignores SIGTERM and has a rank in a session of its own, as torchrun's ranks are."""
ORPHANS = "setsid sleep 60 & echo $! > rank.pid; exit 1"
"""Dies and leaves a rank behind."""
COUNTS = "echo $$ >> starts; exit 0"
SHOWS_ENVIRONMENT = "env -0 > environment; exit 0"


def leaves(result: Path) -> str:
    """Return what leaves a copy of the file *result* as its result.json and ends well."""
    return f"cp {result} result.json; exit 0"


def trainer(folder: Path, body: str) -> str:
    """Return the path of a stand-in that does *body* in its run folder."""
    path = folder / "stand-in"
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
    return str(path)
