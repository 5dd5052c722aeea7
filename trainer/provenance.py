"""What code ran, with what, when: the part of a result that lets somebody repeat it."""

from __future__ import annotations

import datetime as dt
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from trainer.contract import Provenance

_REPOSITORY = Path(__file__).resolve().parent.parent
_GIT_TIMEOUT_S = 20


def now() -> str:
    """Return the time in UTC, ISO 8601 with milliseconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")


_BAKED = "TRAINYARD_COMMIT"
_DIRTY = "-dirty"


class Git:
    """The state of the repository the trainer lies in, asked for in the background.

    Started before torch is imported and read at the end, so that it costs the run no time. In an
    image there is no repository: its build wrote the commit into ``TRAINYARD_COMMIT``, with
    ``-dirty`` behind it when there were uncommitted changes.
    """

    def __init__(self, repository: Path = _REPOSITORY) -> None:
        """Ask git, unless the trainer was installed without its repository."""
        self._baked = "" if (repository / ".git").exists() else os.environ.get(_BAKED, "")
        self._questions = [
            self._ask(repository, "rev-parse", "HEAD"),
            self._ask(repository, "status", "--porcelain", "--untracked-files=no"),
        ]
        self._answers: tuple[str, bool] | None = None

    @staticmethod
    def _ask(repository: Path, *arguments: str) -> subprocess.Popen[str] | None:
        if not (repository / ".git").exists():
            return None
        try:
            return subprocess.Popen(
                ["git", "--no-optional-locks", "-C", str(repository), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:  # no git here
            return None

    def answers(self) -> tuple[str, bool]:
        """Return (commit, uncommitted changes present); ("", False) when unknown."""
        if self._answers is None and self._baked:
            self._answers = (self._baked.removesuffix(_DIRTY), self._baked.endswith(_DIRTY))
        if self._answers is None:
            commit, changes = (self._answer(question) for question in self._questions)
            self._answers = ((commit or "").strip(), bool((changes or "").strip()))
        return self._answers

    @staticmethod
    def _answer(question: subprocess.Popen[str] | None) -> str | None:
        if question is None:
            return None
        try:
            text, _ = question.communicate(timeout=_GIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            question.kill()
            question.communicate()
            return None
        return text if question.returncode == 0 else None


@functools.cache
def version_of(package: str) -> str:
    """Return the installed version of *package* without importing it, empty when absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def provenance(git: Git, *, backend: str, device: str, started_at: str) -> Provenance:
    """Return what ran from *started_at* until now."""
    commit, dirty = git.answers()
    cuda, nccl = _cuda_versions()
    return Provenance(
        git_commit=commit,
        git_dirty=dirty,
        python=platform.python_version(),
        torch=version_of("torch"),
        torchvision=version_of("torchvision"),
        numpy=version_of("numpy"),
        cuda=cuda,
        nccl=nccl,
        backend=backend,
        device=device,
        argv=tuple(sys.argv),
        job_id=os.environ.get("SLURM_JOB_ID", ""),
        image=os.environ.get("TRAINYARD_IMAGE_DIGEST", ""),
        started_at=started_at,
        ended_at=now(),
    )


def _cuda_versions() -> tuple[str, str]:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "version"):  # failed before or while importing it
        return "", ""
    cuda = torch.version.cuda or ""
    if not cuda or not torch.cuda.is_available():
        return cuda, ""
    return cuda, ".".join(str(part) for part in torch.cuda.nccl.version())
