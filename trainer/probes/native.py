"""Building the probes' C sources with the compiler of the machine, into a folder that goes again.

A machine without a compiler is not wrong: what needs one is then not measured there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

_BUILD_S = 10.0


class BuildError(Exception):
    """A compiler is there and does not build what its probe needs; the text is its last word."""


def find_program(*names: str) -> str | None:
    """Return the path of the first program of *names* that there is."""
    return next((found for name in names if (found := shutil.which(name))), None)


def build(compiler: str, source: str, out: Path, flags: Sequence[str]) -> Path:
    """Compile *source*, a file beside this module, to *out* and return that.

    Raises ``BuildError`` with the compiler's first error.
    """
    path = Path(__file__).with_name(source)
    command = [compiler, "-O3", *flags, "-o", str(out), str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_BUILD_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{compiler} did not build {source} within {_BUILD_S:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        first = next((line for line in lines if "error" in line), lines[-1])
        raise BuildError(f"{compiler} does not build {source}: {first}")
    return out
