"""A rank under Nsight: ``python -m trainer`` starts itself again below ``nsys`` or ``ncu``.

So no launcher knows of profilers: whatever starts a rank, in a container or not, starts this. The
outer process waits, passes SIGTERM on, ends with the trainer's exit code, and then turns what the
profiler left into the file that analysis reads: ``profiles/rank<r>.sqlite`` or
``profiles/rank<r>.ncu.csv``. Where that fails the training still counts; ``rank<r>.problem.txt``
says what is wrong and what to do, and the analysis reports it.

On a CPU nsys traces NVTX ranges alone: its operating-system calls of one ``import torch`` alone
fill 2 GB (nsys 2023.4), and without CUDA nothing tells it when to begin.

nsys can end with exit code 0 while the trainer goes on ("Connection to Agent lost"), or before it
began. So the trainer itself says when it begins and that it completed, in the file ``INSIDE``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from trainer.contract import Device, Profiler, RunSpec
from trainer.failures import BadInputError, ProfileError
from trainer.files import write_atomic

INSIDE = "TRAINYARD_UNDER_PROFILER"
"""In the environment of the process that is profiled: the file in which it says how far it is."""
BEGUN, COMPLETED = "begun", "completed"
_ATTEMPTS, _KILL_S = 3, 10
_HOMES = {
    "nsys": (
        "/opt/nvidia/nsight-systems/*/bin",
        "/opt/nvidia/nsight-systems-cli/*/bin",
        "/usr/local/cuda/bin",
        "/usr/lib/nsight-systems/bin",
    ),
    "ncu": ("/opt/nvidia/nsight-compute/*", "/usr/local/cuda/bin"),
}
"""Where NVIDIA's packages and Debian's put the tools, one folder for each version."""
_NCU_SECTIONS = (
    "SpeedOfLight",
    "Occupancy",
    "MemoryWorkloadAnalysis",
    "ComputeWorkloadAnalysis",
)
_EXPORT_LIMIT_S = 600
_SECRET = re.compile(
    r"TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|(ACCESS|API|AUTH|SSH|_)_?KEY|COOKIE|AUTHORIZATION|DSN$",
    re.IGNORECASE,
)


def is_outer(spec: RunSpec, environ: Mapping[str, str]) -> bool:
    """Whether this process is to start the profiled one, rather than to be it."""
    return spec.profiler in {Profiler.NSYS, Profiler.NCU} and INSIDE not in environ


def uses_gpu(spec: RunSpec, environ: Mapping[str, str], root: Path = Path("/")) -> bool:
    """Whether the rank will run on a GPU, as far as can be told without importing torch."""
    hidden = environ.get("CUDA_VISIBLE_DEVICES") == ""
    present = (root / "dev/nvidiactl").exists()
    return spec.device is not Device.CPU and present and not hidden


@dataclass(kw_only=True, slots=True, frozen=True)
class Tool:
    """An Nsight command line and how it is called for one rank."""

    path: str
    profiler: Profiler
    gpu: bool
    folder: Path
    rank: int

    @property
    def stem(self) -> Path:
        """Output file without its suffix."""
        return self.folder / f"rank{self.rank}"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What stands before the trainer's command."""
        output = ("-o", str(self.stem))
        if self.profiler is Profiler.NCU:
            sections = [part for name in _NCU_SECTIONS for part in ("--section", name)]
            fixed = ("--profile-from-start", "off", "--clock-control", "none", "-f")
            return (self.path, *fixed, *sections, *output)
        quiet = ("--sample=none", "--cpuctxsw=none", "--force-overwrite=true")
        if not self.gpu:
            return (self.path, "profile", "--trace=nvtx", *quiet, *output)
        capture = ("--capture-range=cudaProfilerApi", "--capture-range-end=stop")
        traced = ("--trace=cuda,nvtx,osrt", "--cuda-graph-trace=node")
        return (self.path, "profile", *traced, *capture, *quiet, *output)


def find(name: str, environ: Mapping[str, str], homes: Sequence[str] = ()) -> str:
    """Return the path of the tool *name*, from PATH or where its packages put it.

    Raises ``BadInputError`` when it is nowhere.
    """
    homes = homes or _HOMES[name]
    found = shutil.which(name, path=environ.get("PATH"))
    for home in () if found else homes:
        for folder in sorted(Path("/").glob(home.lstrip("/")), reverse=True):
            found = found or shutil.which(name, path=str(folder))
    if found:
        return found
    raise BadInputError(
        f"profiler = {name!r}: no {name} on PATH nor in {', '.join(homes)}. Install Nsight "
        f"{'Compute' if name == 'ncu' else 'Systems'} where the run happens, mount it into its "
        "container (docs/profiling.md), load its module, or set profiler = 'torch'"
    )


def check_permission(root: Path = Path("/")) -> None:
    """Raise ``BadInputError`` when the driver keeps GPU counters for administrators alone."""
    try:
        text = (root / "proc/driver/nvidia/params").read_text()
    except OSError:
        return
    if "RmProfilingAdminOnly: 1" in text and os.geteuid() != 0:
        raise BadInputError(
            "profiler = 'ncu': the driver restricts GPU counters to administrators "
            "(ERR_NVGPUCTRPERM). Have NVreg_RestrictProfilingToAdminUsers=0 set for the nvidia "
            "module, or set profiler = 'nsys'"
        )


def run(spec: RunSpec, run_dir: Path, rank: int, arguments: Sequence[str]) -> int:
    """Run ``python -m trainer`` with *arguments* under the spec's profiler; return its exit code.

    Raises ``BadInputError`` when the profiler is missing or not permitted, and ``ProfileError``
    when it ends before the training does.
    """
    if spec.profiler is Profiler.NCU:
        check_permission()
    tool = Tool(
        path=find(spec.profiler.value, os.environ),
        profiler=spec.profiler,
        gpu=uses_gpu(spec, os.environ),
        folder=run_dir / "profiles",
        rank=rank,
    )
    tool.folder.mkdir(parents=True, exist_ok=True)
    for stale in tool.folder.glob(f"rank{rank}.*"):
        stale.unlink()
    code = _supervised(tool, [*tool.prefix, sys.executable, "-m", "trainer", *arguments])
    problem = finish(tool)
    if problem:
        write_atomic(tool.folder / f"rank{rank}.problem.txt", f"{problem}\n".encode())
        print(f"trainer: rank {rank}: {problem}", file=sys.stderr)  # noqa: T201
    return code


def say(words: str, environ: Mapping[str, str]) -> None:
    """Tell the outer process, if there is one, that the trainer has *words* (begun, completed)."""
    if INSIDE in environ:
        write_atomic(Path(environ[INSIDE]), words.encode())


def _supervised(tool: Tool, command: Sequence[str]) -> int:
    """Return the exit code of the trainer in *command*, of which nothing is left running.

    A profiler that gives up before the trainer has begun is started again: other ranks wait.
    """
    # Called a draft, since files of a run are sent to the object store while it goes on.
    said, told = tool.folder / f"rank{tool.rank}.said.partial", threading.Event()
    for _ in range(_ATTEMPTS):
        said.unlink(missing_ok=True)
        process = subprocess.Popen(command, env=harmless(os.environ) | {INSIDE: str(said)})

        def pass_on(*_: object, pid: int = process.pid) -> None:
            told.set()
            _pass_on(pid)

        signal.signal(signal.SIGTERM, pass_on)
        code = process.wait()
        words = said.read_text() if said.exists() else ""
        said.unlink(missing_ok=True)
        if words == COMPLETED:
            return 0
        _end_what_is_left(said)
        if words and code:
            return code if code > 0 else 128 - code
        if words or told.is_set():
            break
    what = "ended before the training did" if words else "gave up before the training began"
    raise ProfileError(
        f"{tool.path} {what} (exit code {code}), so the run ends too; standard error has its own "
        "words. Run it again, or set profiler = 'torch'"
    )


def _end_what_is_left(said: Path) -> None:
    """Kill the processes that were started with *said* in their environment."""
    killed = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(INSIDE) == str(said):
                process.kill()
                killed.append(process)
    psutil.wait_procs(killed, timeout=_KILL_S)


def harmless(environ: Mapping[str, str]) -> dict[str, str]:
    """Return *environ* without what may be secret: nsys writes all of it into its report."""
    return {name: value for name, value in environ.items() if not _SECRET.search(name)}


def _pass_on(pid: int) -> None:
    """Tell the trainer itself to end: the profiler closes its file once that is gone."""
    with contextlib.suppress(psutil.Error):
        profiler = psutil.Process(pid)
        for process in profiler.children(recursive=True) or [profiler]:
            with contextlib.suppress(psutil.Error):
                process.terminate()


def finish(tool: Tool) -> str:
    """Turn the profiler's report into what analysis reads; return what went wrong, or nothing."""
    try:
        return _csv(tool) if tool.profiler is Profiler.NCU else _sqlite(tool)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{tool.stem}: the profile could not be exported: {error}"


def _sqlite(tool: Tool) -> str:
    report, raw = tool.stem.with_suffix(".nsys-rep"), tool.stem.with_suffix(".qdstrm")
    if raw.exists() and not report.exists():
        _import(tool, raw)
    if not report.exists():
        return (
            f"{tool.path} left no {report.name}: nothing was captured, or its importer is missing. "
            "Read standard error above; on a GPU the capture begins at cudaProfilerStart"
        )
    target = tool.stem.with_suffix(".sqlite")
    said = _call(tool.path, "export", "--type", "sqlite", "--force-overwrite", "true",
                 "--output", str(target), str(report))  # fmt: skip
    if not target.exists() or not target.stat().st_size:
        return f"{report}: nsys export made no SQLite file: {said or 'it says nothing'}"
    raw.unlink(missing_ok=True)
    return ""


def _import(tool: Tool, raw: Path) -> None:
    """Make the report as nsys would: Debian's package does not look where it keeps its importer."""
    path = Path(tool.path)
    homes = (path.parent.parent, path.resolve().parent.parent, Path("/usr/lib/nsight-systems"))
    found = [file for home in homes for file in home.glob("host-linux-*/QdstrmImporter")]
    if found:
        _call(str(found[0]), "-i", str(raw), libraries=found[0].parent)


def _csv(tool: Tool) -> str:
    report = tool.stem.with_suffix(".ncu-rep")
    if not report.exists():
        return (
            f"{tool.path} left no {report.name}: no kernel was counted. ERR_NVGPUCTRPERM above "
            "means that the counters are not permitted; profiler = 'nsys' needs none"
        )
    target = tool.folder / f"rank{tool.rank}.ncu.csv"
    text = _call(tool.path, "--import", str(report), "--csv", "--page", "raw")
    write_atomic(target, text.encode())
    return "" if text.strip() else f"{report}: holds no kernel; capture more profile_steps"


def _call(*command: str, libraries: Path | None = None) -> str:
    """Return what *command* prints; raises ``OSError`` or ``SubprocessError``."""
    more = {"LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    done = subprocess.run(
        command,
        env=os.environ | (more if libraries else {}),
        capture_output=True,
        text=True,
        timeout=_EXPORT_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise OSError(f"{command[0]}: exit code {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout
