"""A run while its engine is restarted or killed: on an engine of the test's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.docker_runs import Run
from tests.fixtures.docker_shell import packed
from tests.requirements import need
from trainyard.backends import State
from trainyard.docker.engine import Engine, local_engine
from trainyard.docker.site import DockerSite
from trainyard.errors import UnavailableError

pytestmark = pytest.mark.slow
IMAGE = "shell:1"


class OwnEngine:
    """A dockerd with data, socket and containerd of its own; its containers have no network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def engine(self) -> Engine:
        return local_engine(DockerSite(image=IMAGE, host=self.host))

    def start(self) -> None:
        program = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin:/sbin")
        need(program and os.getuid() == 0, "dockerd, started by root (apt-get install docker.io)")
        for left in ("pid", "exec"):  # of one that was killed
            place = self.folder / left
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        arguments = [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec",
                     f"--pidfile={self.folder}/pid", f"--host={self.host}", "--bridge=none",
                     "--iptables=false", "--ip-forward=false"]  # fmt: skip
        # Namespaces of its own: with --bridge=none dockerd deletes the docker0 it sees, which would
        # be that of the machine's engine; mounts and containers end with it, however it ends.
        apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*apart, str(program), *arguments], stdout=log, stderr=log
            )
        end = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < end
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            return bool(self.engine.version())
        except UnavailableError:
            return False

    def stop(self) -> None:
        """End it as a shutdown of the host does."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        os.kill(int(children.read_text().split()[0]), signal.SIGTERM)
        self.process.wait(60)

    def crash(self) -> None:
        """End it and all of its containers as a power cut does."""
        self.process.kill()
        self.process.wait(60)


@pytest.fixture(scope="module")
def own_engine() -> Iterator[OwnEngine]:
    import docker

    with tempfile.TemporaryDirectory(prefix="ty-engine-", ignore_cleanup_errors=True) as folder:
        made = OwnEngine(Path(folder))
        made.start()
        try:
            client = docker.APIClient(base_url=made.host)
            client.import_image_from_data(packed(), repository="shell", tag="1")
            client.close()
            yield made
        finally:
            if made.process.poll() is None:
                made.stop()


@pytest.mark.parametrize(
    ("how", "words"),
    [("stop", "told to end from outside"), ("crash", "the engine was restarted")],
)
def test_a_run_whose_engine_goes_down_is_first_unknown_and_then_lost(
    own_engine, tmp_path, how, words
):
    body = "trap 'exit 143' TERM; echo up >> starts; sleep 60 & wait; exit 1"
    run = Run(tmp_path, IMAGE, body, host=own_engine.host)
    run.start()
    run.wait_for("starts")
    getattr(own_engine, how)()
    try:
        assert run.observe().state is State.UNKNOWN
        with pytest.raises(UnavailableError, match=r"Start it|does not answer"):
            run.backend.cancel(run.paths, why="test", grace_s=0.1)
        run.paths.cancelled.unlink()
    finally:
        own_engine.start()
    seen = run.until(State.LOST, State.EXITED)
    assert (seen.state, words in seen.detail) == (State.LOST, True), seen.detail
    assert run.start().state is State.LOST
    assert run.starts() == 1
    run.backend.sweep(run.paths)
    assert run.left() == []
