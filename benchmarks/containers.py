"""``make bench-containers``: what containers and the stack cost, one JSON object on the last line.

Each part is a benchmark of its own and runs in a process of its own; ``--only`` chooses some. Needs
a Docker engine; the parts say what else. Images are built first where they are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import machine, missed

HERE = Path(__file__).resolve().parent
PARTS = {
    "images": "containers_images.py",
    "cache": "containers_cache.py",
    "docker": "containers_throughput.py",
    "apptainer": "containers_apptainer.py",
    "stack": "containers_stack.py",
}
GIB = 1 << 30
TARGETS: dict[str, tuple[str, float]] = {
    "healthy_s": ("<=", 180),
    "idle_bytes": ("<=", 6 * GIB),
    "container_vs_process": (">=", 0.98),
    "apptainer_vs_process": (">=", 0.98),
    "rebuild_s": ("<=", 20),
    "cache_hit_vs_plain": (">=", 0.9),
    "cache_miss_vs_raw_get": ("<=", 1.2),
    "faults_lost": ("<=", 0),
    "faults_doubled": ("<=", 0),
}
"""What issue and documentation promise of each figure."""


def part(script: str) -> dict[str, Any]:
    """Run one benchmark and return its JSON object; its progress goes to our stderr."""
    print(f"running {script} …", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, str(HERE / script)],
        cwd=HERE.parent,
        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def promised(parts: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the promised figures among the *parts* that ran."""
    flat: dict[str, Any] = {}
    for found in parts.values():
        flat |= found
    faults = flat.get("faults")
    if faults is not None:
        flat |= {f"faults_{name}": faults[name] for name in ("lost", "doubled")}
    values = {name: flat[name] for name in TARGETS if flat.get(name) is not None}
    return {name: float(_one(value)) for name, value in values.items()}


def _one(value: Any) -> Any:
    """Return the number that is held against its target: a ratio, or the worst of several."""
    if not isinstance(value, dict):
        return value
    return value["ratio"] if "ratio" in value else value["largest"]


def main() -> None:
    """Measure and print the JSON object."""
    parser = argparse.ArgumentParser(description="What containers and the stack cost.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    chosen = parser.parse_args()
    place = machine()
    parts = {name: part(PARTS[name]) for name in chosen.only}
    figures = promised(parts)
    print(
        json.dumps(
            {**figures, "missed": missed(figures, TARGETS), "machine": place, "parts": parts}
        )
    )


if __name__ == "__main__":
    main()
