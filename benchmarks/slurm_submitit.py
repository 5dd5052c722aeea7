"""submitit watches jobs, as its own ``helpers.as_completed`` does: ``slurm_submitit.py PLAN``.

PLAN is JSON: ``folder`` and ``jobs`` (ids). Prints one JSON line for each job as it is noticed:
id, our time, and what submitit then says of it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from submitit import helpers
from submitit.core import utils
from submitit.slurm.slurm import SlurmJob


def verdict(job: SlurmJob) -> str:
    """Return what submitit concludes: by the job's result, else by the state it last read."""
    if job.paths.result_pickle.exists():
        outcome, _ = utils.pickle_load(job.paths.result_pickle)
        return "succeeded" if outcome == "success" else "failed"
    return job.watcher.get_state(job.job_id, mode="cache").split()[0].lower()


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    jobs = [SlurmJob(folder=plan["folder"], job_id=str(number)) for number in plan["jobs"]]
    for job in helpers.as_completed(jobs):
        line = {"job_id": int(job.job_id), "at": time.time(), "verdict": verdict(job)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
