"""A report from many stored runs: ``python benchmarks/report_scale.py [--runs N]``.

Fills a SQLite results database through the store's own API with complete records (spec, result,
16 timed windows, epochs, checks, machine, provenance) of one strong and weak study: 30
configurations on 1 to 16 ranks, with flagged and failed runs among them. Then a fresh process
reads the study and writes the report with HTML, PDF, every figure and every table; ``seconds`` is
that process from start to end, interpreter and imports included (their bytecode compiled before,
as an install leaves it). Filling is not in it.

Prints progress on stderr and one JSON object as the last line of stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.stored_study import STUDY, fill, say
from trainyard.store import open_store

GOAL_SECONDS = 10.0


def measure(runs: int = 10_000) -> dict[str, Any]:
    """Return the seconds from *runs* stored runs to a whole report, and what they went into."""
    with tempfile.TemporaryDirectory(prefix="trainyard-report-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'results.db'}"
        began = time.perf_counter()
        fill(url, runs)
        say(f"filled {runs} runs in {time.perf_counter() - began:.0f} s, reporting …")
        env = compiled(folder / "bytecode")
        command = [sys.executable, str(Path(__file__).resolve())]
        command += ["--report", url, str(folder / "made")]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        parts = json.loads(done.stdout.strip().splitlines()[-1])
        sizes = {
            path.name: path.stat().st_size for path in sorted((folder / "made").glob("report.*"))
        }
    return {
        "runs": runs,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "goal_seconds": GOAL_SECONDS,
        "met": seconds <= GOAL_SECONDS,
        "parts": parts | {"start": round(seconds - sum(parts.values()), 2)},
        "bytes": sizes,
    }


def compiled(folder: Path) -> dict[str, str]:
    """Return an environment in which every module is compiled already, as an install leaves it."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(folder)
    imports = "import trainyard.report.pdf, trainyard.store, typst; from trainyard.report import *;"
    imports += "import matplotlib.backends.backend_svg, matplotlib.backends.backend_agg, jinja2"
    subprocess.run([sys.executable, "-c", imports], check=True, env=env)
    return env


def report(url: str, folder: Path) -> dict[str, float]:
    """Make the report as the pipeline does; return seconds by part."""
    began = time.perf_counter()
    from trainyard.analysis import StudyData
    from trainyard.report import build

    imported = time.perf_counter()
    with open_store(url) as store:
        frames: dict[str, Any] = {
            name: store.frame(f"study_{name}", study_id=STUDY)
            for name in ("runs", "windows", "epochs", "checks")
        }
        data = StudyData.of(study=store.query("study", study_id=STUDY)[0], **frames)
    read = time.perf_counter()
    timings: dict[str, float] = {}
    build(data, folder, timings=timings)
    parts = {"import": imported - began, "read": read - imported, **timings}
    return {name: round(value, 2) for name, value in parts.items()}


def main() -> None:
    """Measure, or with ``--report`` be the measured process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--report", nargs=2, metavar=("URL", "FOLDER"))
    given = parser.parse_args()
    if given.report:
        print(json.dumps(report(given.report[0], Path(given.report[1]))))
        return
    print(json.dumps(measure(given.runs)))


if __name__ == "__main__":
    main()
