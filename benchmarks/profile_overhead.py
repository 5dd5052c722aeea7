"""What profiling costs on the CPU demo: paired, interleaved runs with and without a profiler.

``nsys_overhead`` and ``torch_profiler_overhead`` are the slowdown of timed steps, which the
profiler merely accompanies; ``…_captured_overhead`` that of the captured steps, against the timed
ones of the same runs. Each with its 95 % interval over runs; None where nsys is not installed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainer import nsight
from trainer.contract import Profiler, RunResult, RunSpec, dumps, loads
from trainer.failures import BadInputError
from trainyard.paths import RunPaths
from trainyard.presets import demo
from trainyard.profiling.collect import mean_step_s
from trainyard.profiling.pairs import Overhead, overhead_of
from trainyard.profiling.traces import trace_files
from trainyard.suites import profile

if TYPE_CHECKING:
    from trainyard.analysis.statistics import Estimate
    from trainyard.profile.result import ProfileAnalysis

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHON = REPOSITORY / ".trainyard" / "envs" / "trainer" / "bin" / "python"
LIMIT_S = 300.0
ORDER_SEED = 1


@dataclass(kw_only=True, slots=True, frozen=True)
class Ended:
    """A run that is over."""

    paths: RunPaths
    code: int
    output: str
    result: RunResult | None


def write_digits(folder: Path) -> str:
    """Write the UCI digits, as scikit-learn ships them, as runs read them; return their digest.

    32 x 32 grey pixels as uint8, 1437 for training and 360 for the test, in a fixed random order.
    """
    import numpy as np
    import sklearn

    archive = Path(sklearn.__file__).parent / "datasets" / "data" / "digits.csv.gz"
    content = archive.read_bytes()
    table = np.loadtxt(gzip.decompress(content).decode().splitlines(), delimiter=",")
    pixels = np.kron(table[:, :64].reshape(-1, 8, 8), np.ones((1, 4, 4))) * 255 / 16
    order = np.random.default_rng(1).permutation(len(table))
    digest = hashlib.sha256(content).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    for split, chosen in (("train", order[360:]), ("test", order[:360])):
        np.save(folder / f"{split}_images.npy", pixels[chosen].astype(np.uint8)[..., None])
        np.save(folder / f"{split}_labels.npy", table[chosen, 64].astype(np.int64))
    described = {"name": "digits", "digest": digest, "classes": [str(i) for i in range(10)]}
    (folder / "dataset.json").write_text(json.dumps(described))
    return digest


def train(spec: RunSpec, root: Path, data: Path, *, name: str = "run", **more: str) -> Ended:
    """Run *spec* as a user would by hand, its files below *root*; *more* is environment."""
    paths = RunPaths(root=root, run_id=name)
    paths.run_dir.mkdir(parents=True)
    paths.spec.write_text(dumps(spec))
    command = [str(PYTHON), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(spec.ranks), "-m", "trainer", str(paths.spec), str(paths.run_dir)]
    done = subprocess.run(
        [*command, "--data", str(data)],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | more,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    found = paths.result
    result = loads(RunResult, found.read_text()) if found.exists() else None
    return Ended(paths=paths, code=done.returncode, output=done.stdout + done.stderr, result=result)


def analysed(ended: Ended, spec: RunSpec) -> ProfileAnalysis:
    """Return what the traces of a run say; raises ``ProfileError`` when there are none."""
    from trainyard.profile.analysis import analyse
    from trainyard.profile.readers import read_trace

    return analyse(read_trace(trace_files(ended.paths, spec)), spec=spec)


def measure(*, pairs: int = 5, steps: int = 200, ranks: int = 2) -> dict[str, Any]:
    """Return the figures of both profilers over *pairs* interleaved pairs of runs.

    Raises ``RuntimeError`` when a run fails.
    """
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        digest = write_digits(data)
        for profiler, name in ((Profiler.NSYS, "nsys"), (Profiler.TORCH, "torch_profiler")):
            parameters = replace(
                demo(),
                dataset_digest=digest,
                ranks=(ranks,),
                epochs=0,
                steps=steps,
                repeats=pairs,
                profiler=profiler,
                controls=(),
            )
            found = None
            if profiler is Profiler.TORCH or there("nsys"):
                plan = profile(parameters, ORDER_SEED)
                found = _overhead([run.spec for run in plan.runs], Path(folder) / name, data)
            figures |= _named(name, found)
    return figures


def there(tool: str) -> bool:
    """Say whether a run here would find *tool*."""
    try:
        nsight.find(tool, os.environ)
    except BadInputError:
        return False
    return True


def _overhead(specs: list[RunSpec], root: Path, data: Path) -> Overhead:
    plain, watched, captured = [], [], []
    for place, spec in enumerate(specs):
        ended = train(spec, root, data, name=f"run-{place}")
        if ended.code or ended.result is None:
            raise RuntimeError(f"{spec.name} failed:\n{ended.output[-3000:]}")
        step_s = ended.result.metric("step_time_s")
        if step_s is None:
            raise RuntimeError(f"{spec.name}: no timed window in {spec.steps} steps")
        if spec.profiler is Profiler.NONE:
            plain.append(step_s)
        else:
            watched.append(step_s)
            captured.append(mean_step_s(analysed(ended, spec)))
    return overhead_of(plain, watched, captured)


def _named(name: str, found: Overhead | None) -> dict[str, Any]:
    def ends(estimate: Estimate | None) -> list[float | None] | None:
        return None if estimate is None else [estimate.low, estimate.high]

    outside = found.outside if found else None
    inside = found.inside if found else None
    return {
        f"{name}_overhead": outside.value if outside else None,
        f"{name}_overhead_ci95": ends(outside),
        f"{name}_captured_overhead": inside.value if inside else None,
        f"{name}_captured_overhead_ci95": ends(inside),
        f"{name}_pairs": found.pairs if found else 0,
    }


def main() -> None:
    """Print the figures as one JSON object."""
    print(json.dumps(measure()))


if __name__ == "__main__":
    main()
