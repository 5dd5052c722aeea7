"""``make bench-slurm``: the figures of the Slurm engine, one JSON object on the last line.

Two parts, measured in this call on this machine. ``simulated`` (``slurm_engine.py``): the engine
against a fake cluster that lies, forgets and fails, in simulated time, at numbers no single
machine can run for real. ``real`` (``slurm_real.py``): a real Slurm, 200 jobs in flight, watched
by Trainyard and beside it by submitit. Options shorten it: ``--submissions``, ``--watched``,
``--jobs``, ``--skip-real``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import machine, missed

HERE = Path(__file__).resolve().parent
TARGETS: dict[str, tuple[str, float]] = {
    "duplicates": ("<=", 0),
    "orphans": ("<=", 0),
    "false_verdicts": ("<=", 0),
    "detect_p95_s": ("<=", 10),
    "commands_per_s": ("<=", 0.2),
    "loop_lag_max_s": ("<=", 0.1),
    "submit_to_deferred_p95_s": ("<=", 2),
    "real_wrong_verdicts": ("<=", 0),
}
"""What issue and documentation promise of each figure."""


def part(script: str, *arguments: str) -> dict[str, Any]:
    """Run another benchmark and return its JSON object; its progress goes to our stderr."""
    print(f"running {script} …", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def figures(simulated: dict[str, Any], real: dict[str, Any] | None) -> dict[str, Any]:
    """Return the named figures; a real one's name or its record says that it is real."""
    lives, watching, loop = (simulated[key] for key in ("submissions", "watching", "loop"))
    named = {name: lives[name] for name in ("duplicates", "orphans", "false_verdicts")}
    named |= {name: watching[name] for name in ("detect_p95_s", "commands_per_s")}
    named |= {"loop_lag_max_s": loop["loop_lag_max_s"], "bytes_per_job": loop["bytes_per_job"]}
    if real:
        ours, theirs = real["trainyard"], real["submitit"]
        named |= {
            "submit_to_deferred_p95_s": real["submit"]["submit_to_deferred_p95_s"],
            "real_in_flight": real["in_flight"],
            "real_wrong_verdicts": ours["wrong_verdicts"],
            "real_detect_p95_s": ours["detect_p95_s"],
            "real_commands_per_s": ours["commands_per_s"],
            "submitit_detect_p95_s": theirs["detect_p95_s"],
            "submitit_commands_per_s": theirs["commands_per_s"],
            "submitit_wrong_verdicts": theirs["wrong_verdicts"],
        }
    return named


def main() -> None:
    """Measure everything and print the JSON object."""
    parser = argparse.ArgumentParser(description="The figures of the Slurm engine.")
    parser.add_argument("--submissions", type=int, default=1000)
    parser.add_argument("--watched", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--skip-real", action="store_true", help="where no Slurm is installed")
    chosen = parser.parse_args()
    place = machine()
    simulated = part(
        "slurm_engine.py", f"--submissions={chosen.submissions}", f"--jobs={chosen.watched}"
    )
    real = None if chosen.skip_real else part("slurm_real.py", f"--jobs={chosen.jobs}")
    named = figures(simulated, real)
    print(
        json.dumps(
            {
                **named,
                "missed": missed(named, TARGETS),
                "machine": place,
                "simulated": simulated,
                "real": real,
            }
        )
    )


if __name__ == "__main__":
    main()
