"""Make a virtual environment that holds uv alone, from the Python that runs this file."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
OLDEST = (3, 11)


def main(target: Path) -> None:
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(
            f"Trainyard needs Python 3.11 or newer, {sys.executable} is {found}.\n"
            "Next step: make PYTHON=/path/to/a/newer/python3 demo"
        )
    try:
        venv.create(target, with_pip=True, clear=True)
    except (subprocess.CalledProcessError, ModuleNotFoundError) as error:
        sys.exit(
            f"Python's venv module could not make {target}: {error}\n"
            "Next step, on Debian and Ubuntu: apt-get install python3-venv"
        )
    pip = [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--require-hashes", "-r", str(HERE / "boot.txt")], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
