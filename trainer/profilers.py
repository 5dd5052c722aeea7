"""Which profilers a rank started here would find: asked before runs that need one.

``python -c "from trainer import profilers; profilers.main()"`` prints one JSON object. Needs no
torch, and looks with the very functions that the run uses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from trainer.failures import BadInputError
from trainer.nsight import check_permission, find

NSIGHT = ("nsys", "ncu")


def look(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> dict[str, str]:
    """Return each Nsight tool's path, empty when missing, and what hinders it (``_problem``)."""
    found: dict[str, str] = {}
    for tool in NSIGHT:
        found[tool] = found[f"{tool}_problem"] = ""
        try:
            found[tool] = find(tool, environ)
            if tool == "ncu":
                check_permission(root)
        except BadInputError as error:
            found[f"{tool}_problem"] = str(error)
    return found


def main() -> None:
    """Print what ``look`` finds."""
    print(json.dumps(look()))  # noqa: T201 - the answer to the program that asks
