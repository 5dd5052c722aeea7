"""The stack of docker-compose.yaml: ``python benchmarks/containers_stack.py``.

``healthy_s``: seconds from built images to every service healthy, with empty volumes: databases
made and migrated, accounts and pools made. ``idle_bytes``: working sets of all containers as the
engine shows them (usage less page cache that can be dropped), summed a minute after that, with
nothing running. ``faults``: each service killed with SIGKILL from outside while a run trains in
containers and another over the two Slurm nodes; survived: the engine started it again, it became
healthy, and both runs completed, each trained and recorded exactly once; then each of the two
nodes while a run of its own trains over them; survived: the run was started again and completed.
lost: runs without a completed row. Prints one JSON object as the last line.

Third-party services are Debian's packages (tests/compose), without Grafana and statsd_exporter,
which a stack from public images runs beside them: ``left_out`` names what the figures lack.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "containers"))

import build  # noqa: E402 - found in the folder named above

from tests.fixtures.stack import (  # noqa: E402
    CRASHED,
    NODES,
    OURS,
    ComposeStack,
    docker,
    kill_each_during_two_runs,
    kill_node_during_its_run,
    running_compose_stack,
)

TAG = "bench"
LONGEST_S = 180.0
MOST_BYTES = 6e9
_SETTLE_S = 60.0
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def measure() -> dict[str, Any]:
    """Return seconds to healthy, idle bytes, and what killing each service did."""
    base, _ = build.choose_base(os.environ.get("BASE", ""))
    choice = build.Choice(base=base, tag=TAG, gpu="no")
    for name in OURS:
        build.ensure(name, choice)
    os.environ["TRAINYARD_BASE"] = base
    with (
        tempfile.TemporaryDirectory(prefix="trainyard-bench-") as folder,
        running_compose_stack(Path(folder), TAG, "slurm") as stack,
    ):
        time.sleep(_SETTLE_S)
        idle = memory(stack)
        faults = kill_each_during_two_runs(stack)
        nodes = [kill_node_during_its_run(stack, node) for node in NODES]
    tried = len(CRASHED) + len(NODES)
    survived = len(faults.survived) + sum(crash.ended_right for crash in nodes)
    lost = len(faults.lost) + sum("completed" not in crash.rows for crash in nodes)
    doubled = len(faults.doubled) + sum(bool(crash.doubled) for crash in nodes)
    return {
        "healthy_s": round(stack.seconds, 1),
        "idle_bytes": sum(idle.values()),
        "idle_bytes_by_service": idle,
        "services": len(idle),
        "left_out": ["grafana", "statsd-exporter"],
        "faults": {
            "tried": tried,
            "survived": survived,
            "lost": lost,
            "doubled": doubled,
        },
        "within_promise": (
            stack.seconds <= LONGEST_S
            and sum(idle.values()) <= MOST_BYTES
            and survived == tried
            and not lost
            and not doubled
        ),
    }


def memory(stack: ComposeStack) -> dict[str, int]:
    """Return the working set of each running container in bytes."""
    running = {i.name: i.service for i in stack.containers().values() if i.state == "running"}
    shown = docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", *running)
    found = {}
    for line in shown.stdout.splitlines():
        name, used = line.split()[:2]
        number, unit = re.fullmatch(r"([\d.]+)(\w+)", used).groups()  # type: ignore[union-attr]
        found[running[name]] = round(float(number) * _UNITS[unit])
    return found


if __name__ == "__main__":
    print(json.dumps(measure()))
