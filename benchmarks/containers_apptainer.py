"""What an Apptainer image costs a training run: its images per second over those of a process.

Run in the Airflow environment, on a machine with Apptainer and an image:

    python benchmarks/containers_apptainer.py --image /shared/images/trainer.sif

Without ``--image``, as root on Debian, the real Apptainer and the image of the tests are made
(tests/fixtures/apptainer.py): the image's own interpreter runs this checkout's torch, bound in.

Pairs of whole runs alternate, and the interval is that of ``containers_throughput``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from containers_throughput import measure, plain_site  # noqa: E402 - benchmarks are no package

from trainyard.apptainer.identity import identified  # noqa: E402
from trainyard.apptainer.site import ApptainerSite  # noqa: E402
from trainyard.sites import Site  # noqa: E402
from trainyard.slurm.transport import LocalTransport  # noqa: E402


def measure_apptainer(
    *, image: str = "", executable: str = "apptainer", pairs: int = 8, ranks: int = 1
) -> dict[str, Any]:
    """Return ``apptainer_vs_process`` with its interval and what it was made from.

    *image*: an image of the trainer; empty: that of the tests. Raises ``RuntimeError`` when a run
    does not complete, and what ``identify`` raises about the image.
    """
    with _given(image, executable) if image else _made() as site:
        found = measure(pairs=pairs, ranks=ranks, contained=site)
        container = site.apptainer
    return {
        "apptainer_vs_process": found.pop("container_vs_process"),
        **found,
        "image": container.identity.digest if container and container.identity else "",
        "torch": "of the image" if image else "bound into the image",
    }


@contextmanager
def _given(image: str, executable: str) -> Iterator[Site]:
    container = ApptainerSite(image=str(Path(image).resolve()), executable=executable)
    with tempfile.TemporaryDirectory(prefix="ty-bench-") as name:
        folder = Path(name)
        site = plain_site(
            folder,
            name="apptainer",
            python="/opt/trainer/bin/python",
            runs_dir=str(folder / "apptainer"),
            apptainer=container,
        )
        for part in (site.runs_dir, site.data_dir):
            Path(part).mkdir()
        yield identified(site, LocalTransport())


@contextmanager
def _made() -> Iterator[Site]:
    from tests.fixtures.apptainer import real_apptainer

    before = os.umask(0)  # the image's processes run as another user than this one
    try:
        with real_apptainer() as apptainer:
            site = apptainer.site("apptainer", network_interface="")
            yield replace(site, cores=len(os.sched_getaffinity(0)))
    finally:
        os.umask(before)


def main() -> None:
    """Measure and print one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="", help="image of the trainer (default: the tests')")
    parser.add_argument("--executable", default="apptainer", help="the program")
    parser.add_argument("--pairs", type=int, default=8, help="interleaved pairs of runs")
    parser.add_argument("--ranks", type=int, default=1, help="ranks of every run")
    options = parser.parse_args()
    print(json.dumps(measure_apptainer(**vars(options))))


if __name__ == "__main__":
    main()
