"""``python -m trainyard.lineage replay``: record what the tracking server missed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainyard.errors import ConfigurationError, TrainyardError
from trainyard.lineage.record import replay
from trainyard.paths import RunPaths
from trainyard.settings import load_settings
from trainyard.sites import Site, load_sites
from trainyard.store import RunRow, open_store


def main(argv: Sequence[str] | None = None) -> int:
    """Record every stored run and study that the tracking server lacks; return 0, or 1."""
    parser = argparse.ArgumentParser(prog="python -m trainyard.lineage", description=__doc__)
    parser.add_argument("command", choices=["replay"])
    parser.parse_args(argv)
    try:
        settings = load_settings()
        sites = _sites(Path(settings.sites_file))
        with open_store(settings.results_url) as store:
            done = replay(settings, store, lambda row: _folder(row, sites))
    except TrainyardError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print("\n".join(f"recorded {name}" for name in done) or "nothing to do")  # noqa: T201
    return 0


def _sites(path: Path) -> dict[str, Site]:
    """Return the sites; without them runs are recorded from the database alone, which is told."""
    try:
        return load_sites(path)
    except ConfigurationError as error:
        note = f"note: {error}; runs are recorded without the files of their folders"
        print(note, file=sys.stderr)  # noqa: T201
        return {}


def _folder(row: RunRow, sites: dict[str, Site]) -> Path | None:
    site = sites.get(row.site)
    return RunPaths(root=Path(site.runs_dir), run_id=row.run_id).run_dir if site else None


if __name__ == "__main__":
    sys.exit(main())
