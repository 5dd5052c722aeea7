"""``python -m trainyard.dashboards [folder]``: write every dashboard as JSON."""

from __future__ import annotations

import sys
from pathlib import Path

from trainyard.dashboards.render import DASHBOARDS, text_of

FOLDER = Path(__file__).resolve().parents[3] / "containers" / "grafana" / "dashboards"


def main(arguments: list[str]) -> int:
    """Write the dashboards to the folder given, else to where Grafana's container finds them."""
    folder = Path(arguments[0]) if arguments else FOLDER
    for dashboard in DASHBOARDS:
        (folder / f"{dashboard.uid}.json").write_text(text_of(dashboard))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
