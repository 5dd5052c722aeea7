"""Bring environments to exactly what their locks say, and register this repository in each.

An environment whose lock and Python are those of the last sync is left alone, so that a second
``make demo`` starts at once.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
STATE = ROOT / ".trainyard"
UV = STATE / "boot" / "bin" / "uv"

# lock -> the environment it describes; a test lock is its runtime lock and more
ENVIRONMENTS = {
    "airflow": "airflow",
    "airflow-test": "airflow",
    "trainer": "trainer",
    "trainer-test": "trainer",
    "lint": "lint",
    "hta": "hta",
    "audit": "audit",
}


def stamp_of(lock: str) -> str:
    text = (HERE / f"{lock}.txt").read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(text + sys.version.encode() + str(ROOT).encode()).hexdigest()


def is_current(lock: str, env: Path) -> bool:
    """A runtime lock is also satisfied by the test environment built on the same versions."""
    accepted = {stamp_of(lock)}
    wider = f"{lock}-test"
    if wider in ENVIRONMENTS:
        accepted.add(stamp_of(wider))
    marker = env / "trainyard.stamp"
    return marker.is_file() and marker.read_text() in accepted


def sync(lock: str) -> None:
    env = STATE / "envs" / ENVIRONMENTS[lock]
    if is_current(lock, env):
        return
    began = time.monotonic()
    print(f"environment {env.name}: installing from requirements/{lock}.txt", flush=True)
    python = env / "bin" / "python"
    marker = env / "trainyard.stamp"
    marker.unlink(missing_ok=True)
    if not python.exists():
        run("venv", "--quiet", "--clear", "--python", sys.executable, str(env))
    run(
        "pip",
        "sync",
        "--quiet",
        "--require-hashes",
        "--python",
        str(python),
        str(HERE / f"{lock}.txt"),
    )
    if env.name not in {"lint", "hta", "audit"}:
        run(
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--python",
            str(python),
            "--editable",
            str(ROOT),
        )
    marker.write_text(stamp_of(lock))
    print(f"environment {env.name}: ready after {time.monotonic() - began:.0f} s", flush=True)


def _environment() -> dict[str, str]:
    # Every Airflow task is a fresh process: without compiled modules each would compile them again.
    return {**os.environ, "UV_NO_PROGRESS": "1", "UV_COMPILE_BYTECODE": "1"}


def run(*arguments: str) -> None:
    subprocess.run([str(UV), *arguments], check=True, env=_environment())


def main(locks: list[str]) -> None:
    unknown = [lock for lock in locks if lock not in ENVIRONMENTS]
    if unknown:
        sys.exit(f"no lock named {unknown[0]!r}; choose from {', '.join(ENVIRONMENTS)}")
    for lock in locks:
        sync(lock)


if __name__ == "__main__":
    main(sys.argv[1:])
