"""Resolve every ``*.in`` into its hash-pinned lock; the test locks add to the runtime locks.

No lock names a package index: where packages come from is the machine's affair.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
UV = HERE.parent / ".trainyard" / "boot" / "bin" / "uv"

# lock -> (inputs, the lock whose versions it must keep)
LOCKS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "airflow": (("airflow",), None),
    "trainer": (("trainer",), None),
    "airflow-test": (("airflow", "test"), "airflow"),
    "trainer-test": (("trainer", "test-trainer"), "trainer"),
    "lint": (("lint",), None),
    # Locks of container images alone.
    "mlflow": (("mlflow",), "airflow"),
    "trainer-on-torch": (("trainer-on-torch",), "trainer"),
    "wheel": (("wheel",), "trainer"),
    "hta": (("hta",), None),
    "docker-proxy": (("docker-proxy",), "airflow"),
    "audit": (("audit",), None),
}


def compile_lock(name: str) -> None:
    inputs, base = LOCKS[name]
    command = [str(UV), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"]
    command += ["--output-file", f"{name}.txt", *(f"{item}.in" for item in inputs)]
    if base:
        command += ["--constraint", f"{base}.txt"]
    subprocess.run(command, cwd=HERE, check=True)


def main(names: list[str]) -> None:
    for name in names or list(LOCKS):
        compile_lock(name)


if __name__ == "__main__":
    main(sys.argv[1:])
