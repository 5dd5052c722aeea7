"""Run the test suites, each in its own environment: tests/trainer first and alone, then the rest.

What needs Airflow runs in two lanes side by side: real Slurm clusters mostly wait (for time limits,
requeues, dead controllers), and each lane starts services of its own; one Docker engine serves the
first. The second lane's output comes when it is over. Exits 0 only when every lane passed and ran
at least one test.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVS = ROOT / ".trainyard" / "envs"
SECOND = [
    *(f"tests/e2e/test_{name}.py" for name in ("slurm", "faults")),
    *(
        f"tests/trainyard/{name}"
        for name in ("slurm", "apptainer", "profile", "probing", "streaming", "exporter")
    ),
]
LANES = {
    "trainer": ("trainer", ["tests/trainer"]),
    "airflow": ("airflow", ["tests", *(f"--ignore={path}" for path in ("tests/trainer", *SECOND))]),
    "clusters": ("airflow", SECOND),
}
"""Environment and paths of each lane."""


def command(lane: str, *, fast: bool, arguments: list[str]) -> list[str]:
    environment, paths = LANES[lane]
    found = [str(ENVS / environment / "bin" / "python"), "-m", "pytest", *paths, *arguments]
    return [*found, "-m", "not slow"] if fast else found


def start(lane: str, *, fast: bool, arguments: list[str], output: int | None) -> subprocess.Popen:
    line = command(lane, fast=fast, arguments=arguments)
    # Two lanes must not share pytest's cache folder.
    line += ["-o", f"cache_dir=.pytest_cache/{lane}"]
    return subprocess.Popen(line, cwd=ROOT, env=dict(os.environ), stdout=output, stderr=output)


def main(arguments: list[str]) -> int:
    fast = "--fast" in arguments
    rest = [item for item in arguments if item != "--fast"]
    print("\n== trainer ==", flush=True)
    codes = {"trainer": start("trainer", fast=fast, arguments=rest, output=None).wait()}
    with tempfile.TemporaryFile("w+", errors="replace") as kept:
        print("\n== airflow, beside it clusters ==", flush=True)
        beside = start("clusters", fast=fast, arguments=rest, output=kept.fileno())
        codes["airflow"] = start("airflow", fast=fast, arguments=rest, output=None).wait()
        codes["clusters"] = beside.wait()
        kept.seek(0)
        print(f"\n== clusters ==\n{kept.read()}", flush=True)
    failed = [name for name, code in codes.items() if code]
    if failed:
        print(f"\nfailed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
