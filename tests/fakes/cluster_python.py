"""A stand-in for the trainer's python on a cluster: does what a file named after the seed says.

The words, one a line in ``<control>/<seed>``: ``wait`` (until ``<seed>.go`` exists), ``slow``,
``fail``. It leaves a valid result of the run it was started for; each start leaves a line in
``<seed>.starts``.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAINER = ROOT / ".trainyard/envs/trainer/bin/python"

PROGRAM = """#!{python}
import json, os, pathlib, sys, time
sys.path.insert(0, {root!r})
control = pathlib.Path({control!r})
if "-c" in sys.argv:  # a question about the environment: answered by the trainer's own
    os.execv({trainer!r}, [{trainer!r}, *sys.argv[1:]])
spec = next(word for word in sys.argv if word.endswith("/spec.json"))
run_dir = pathlib.Path(spec).parent
seed = json.loads(pathlib.Path(spec).read_text())["seed"]
with (control / f"{{seed}}.starts").open("a") as starts:
    starts.write(f"{{os.environ['SLURM_JOB_ID']}} {{os.environ.get('SLURM_RESTART_COUNT', 0)}}\\n")
words = (control / str(seed)).read_text().split()
with (run_dir / "metrics.jsonl").open("a") as metrics:
    metrics.write('{{"event": "phase", "name": "train"}}\\n')
if "slow" in words:
    time.sleep(10)
while "wait" in words and not (control / f"{{seed}}.go").exists():
    time.sleep(0.1)
if "fail" in words:
    sys.exit("the trainer gave up")
from tests.fakes.runs import result
from trainer.contract import RunSpec, dumps, loads
made = result(run_dir.name, loads(RunSpec, pathlib.Path(spec).read_text(), spec))
(run_dir / "result.json").write_text(dumps(made))
"""


def cluster_python(folder: Path) -> str:
    """Write the program into *folder*, whose files it takes its orders from; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "python"
    file.write_text(
        PROGRAM.format(
            python=sys.executable, root=str(ROOT), control=str(folder), trainer=str(TRAINER)
        )
    )
    file.chmod(0o755)
    return str(file)
