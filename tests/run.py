"""Run the test suites, each in its own environment: tests/trainer alone, the rest with Airflow.

Exits 0 only when every suite passed and ran at least one test.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVS = ROOT / ".trainyard" / "envs"
SUITES = {
    "trainer": ["tests/trainer"],
    "airflow": ["tests", "--ignore=tests/trainer"],
}


def run(name: str, *, fast: bool, arguments: list[str]) -> int:
    command = [str(ENVS / name / "bin" / "python"), "-m", "pytest", *SUITES[name], *arguments]
    if fast:
        command += ["-m", "not slow"]
    print(f"\n== tests in the {name} environment ==", flush=True)
    return subprocess.run(command, cwd=ROOT, env=dict(os.environ), check=False).returncode


def main(arguments: list[str]) -> int:
    fast = "--fast" in arguments
    rest = [item for item in arguments if item != "--fast"]
    codes = {name: run(name, fast=fast, arguments=rest) for name in SUITES}
    failed = [name for name, code in codes.items() if code]
    if failed:
        print(f"\nfailed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
