"""``make bench-pipeline``: what the pipeline costs beside the work it runs.

Every figure is measured in this call, on this machine; ratios are against something run beside
the measured thing. Progress goes to standard error; the last line of standard output is one JSON
object.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENVS = ROOT / ".trainyard" / "envs"


def say(text: str) -> None:
    """Print progress where it does not mix with the result."""
    print(text, file=sys.stderr, flush=True)


def clean_clone(folder: Path) -> Path:
    """Clone the committed state of this repository, with nothing that was installed."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    return clone


def timed_demo(clone: Path, cache: Path) -> dict[str, Any]:
    """Run ``make demo`` in *clone*; return its seconds and the peak memory of all its processes."""
    import psutil

    kept = ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    env |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))}
    env["UV_CACHE_DIR"] = str(cache)
    log = clone / "demo.log"
    began = time.monotonic()
    with log.open("wb") as stream:
        demo = subprocess.Popen(["make", "demo"], cwd=clone, env=env, stdout=stream,
                                stderr=subprocess.STDOUT)  # fmt: skip
        peak = 0
        watched = psutil.Process(demo.pid)
        while demo.poll() is None:
            peak = max(peak, memory_of(watched))
            time.sleep(1)
    seconds = time.monotonic() - began
    if demo.returncode:
        raise RuntimeError(f"make demo failed:\n{log.read_text()[-3000:]}")
    return {"seconds": round(seconds, 1), "peak_memory_bytes": peak}


def memory_of(process: Any) -> int:
    """Return the proportional set size of a process and its descendants: shared pages once."""
    import psutil

    total = 0
    for item in [process, *process.children(recursive=True)]:
        try:
            total += item.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def module_result(environment: str, script: str) -> dict[str, Any]:
    """Run another benchmark in its environment and return its JSON object."""
    say(f"running {script} …")
    done = subprocess.run(
        [str(ENVS / environment / "bin" / "python"), str(ROOT / "benchmarks" / script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Measure everything and print the JSON object."""
    from overhead import measure_overhead

    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as text:
        folder = Path(text)
        clone = clean_clone(folder)
        say("make demo in a clean clone, with an empty package cache …")
        cold = timed_demo(clone, folder / "cache")
        say(f"  {cold}\nmake demo again …")
        warm = timed_demo(clone, folder / "cache")
        say(f"  {warm}\nthe same study beside Airflow's floor …")
        shutil.rmtree(folder / "cache")
        overhead = measure_overhead(folder / "state")
    result = {
        "demo_cold_s": cold["seconds"],
        "demo_warm_s": warm["seconds"],
        "peak_memory_bytes": max(cold["peak_memory_bytes"], warm["peak_memory_bytes"]),
        **overhead,
        "trainer_vs_bare_loop": module_result("trainer", "trainer_vs_bare_loop.py"),
        "staging": module_result("airflow", "staging.py"),
        "report_scale": module_result("airflow", "report_scale.py"),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
