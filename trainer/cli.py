"""``python -m trainer spec.json run_dir [--data DIR]``: one training run, alone or under torchrun.

Reads the spec and the prepared data, writes metrics.jsonl, epochs.csv, result.json and, where
asked, checkpoints into *run_dir*. Exit code 0: completed (result.json says whether sane); 1: the
run failed; 2: it could never have started as asked. A failed run leaves a result.json with phase
and reason whenever the folder can be written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from trainer import nsight
from trainer.contract import ContractError, Profiler, RunResult, RunSpec, Status, loads
from trainer.failures import BadInputError, RunError
from trainer.journal import Journal
from trainer.last_words import LastWords
from trainer.place import Place
from trainer.provenance import Git
from trainer.stage import DEFAULT_LIMIT, local_copy


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one training run and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        place = Place.from_environment(os.environ)
        options.run_dir.mkdir(parents=True, exist_ok=True)
    except (BadInputError, OSError) as error:
        print(f"trainer: {error}", file=sys.stderr)  # noqa: T201
        return BadInputError.exit_code
    if (spec := _profiled(options.spec)) is not None:
        return _outside(spec, options, place, sys.argv[1:] if arguments is None else arguments)
    journal = Journal(run_dir=options.run_dir.absolute(), place=place, git=Git())
    last_words = LastWords(journal)
    last_words.watch()
    try:
        return _run(options, journal)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  whatever ends a run is recorded
        last_words.fail(error)
        sys.stdout.flush()
        # Not `return`: the interpreter's own end would wait in the destructors of a broken group.
        os._exit(error.exit_code if isinstance(error, RunError) else 1)


def _profiled(path: Path) -> RunSpec | None:
    """Return the spec in *path* when this process is to start its rank under Nsight."""
    try:
        spec = _read_spec(path)
    except BadInputError:
        return None  # said again, and recorded, on the ordinary way
    return spec if nsight.is_outer(spec, os.environ) else None


def _outside(
    spec: RunSpec, options: argparse.Namespace, place: Place, arguments: Sequence[str]
) -> int:
    try:
        return nsight.run(spec, options.run_dir.absolute(), place.rank, arguments)
    except RunError as error:
        journal = Journal(run_dir=options.run_dir.absolute(), place=place, git=Git(), spec=spec)
        LastWords(journal).fail(error)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("spec", type=Path, help="RunSpec as JSON")
    parser.add_argument("run_dir", type=Path, help="folder of this run; created when missing")
    parser.add_argument("--data", type=Path, help="folder of the prepared data set")
    parser.add_argument("--cache", type=Path, help="read --data through this node's cache in here")
    parser.add_argument("--cache-limit", default=DEFAULT_LIMIT, help="bytes, a size, or 50%%")
    return parser


def _run(options: argparse.Namespace, journal: Journal) -> int:
    nsight.say(nsight.BEGUN, os.environ)
    completed = _completed_before(journal)
    if journal.place.first:
        journal.result_path.unlink(missing_ok=True)
    spec = journal.spec = _read_spec(options.spec)
    journal.place.check(spec)
    if journal.place.first and (completed or not spec.checkpoint_every):
        _start_over(journal.run_dir)
    _set_environment(spec)
    # These import torch: seconds that a bad spec need not wait for.
    from trainer.startup import without_compiler

    without_compiler()
    from trainer.run import execute

    # Held until this process ends: what it reads is not evicted before.
    with local_copy(options.data, options.cache, options.cache_limit) as data:
        result = execute(spec, journal, data)
    if journal.place.first:
        journal.write_csv()
        journal.write_result(result)
        _print_summary(result)
    nsight.say(nsight.COMPLETED, os.environ)
    if spec.profiler is Profiler.TORCH:
        _leave_at_once()
    return 0


def _leave_at_once() -> NoReturn:
    """End without tearing the interpreter down: everything is written.

    Native threads that torch.profiler has seen may ask for the interpreter while it ends. Before
    Python 3.14 that unwinds them, which aborts the process ("terminate called without an active
    exception") after a good run: pytorch/kineto#1051 has the same stack.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _completed_before(journal: Journal) -> bool:
    """Whether the folder holds a completed run: running again starts anew, resuming nothing."""
    try:
        text = journal.result_path.read_text()
        return loads(RunResult, text).status is Status.COMPLETED
    except (OSError, ContractError):
        return False


def _start_over(run_dir: Path) -> None:
    """Remove what an earlier run left that this one would otherwise add to or continue."""
    for name in ("metrics.jsonl", "epochs.csv"):
        (run_dir / name).unlink(missing_ok=True)
    for checkpoint in (run_dir / "checkpoints").glob("step-*.pt"):
        checkpoint.unlink()


def _read_spec(path: Path) -> RunSpec:
    """Return the spec in *path*; raises ``BadInputError`` when it is unreadable or wrong."""
    try:
        return loads(RunSpec, path.read_bytes(), str(path))
    except OSError as error:
        raise BadInputError(f"spec {path}: {error.strerror}") from error
    except ContractError as error:
        raise BadInputError(str(error)) from error


def _set_environment(spec: RunSpec) -> None:
    """Set what must stand in the environment before torch is imported.

    OMP_NUM_THREADS in every run: torchrun sets it to 1 only for more than one rank, which would
    inflate the one-rank base.
    """
    os.environ["OMP_NUM_THREADS"] = str(spec.threads_per_rank)
    if spec.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is exact only with it


def _print_summary(result: RunResult) -> None:
    speed, accuracy = result.metric("images_per_second"), result.metric("test_accuracy")
    parts = [f"{result.status.value}", "sane" if result.sane else "NOT sane"]
    if speed is not None:
        parts.append(f"{speed:.1f} image/s")
    if accuracy is not None:
        parts.append(f"test accuracy {accuracy:.4f}")
    parts += [f"flagged {flag.value}" for flag in result.flags]
    print("trainer: " + ", ".join(parts))  # noqa: T201
