from __future__ import annotations

import json
import subprocess
import sys
import time

import psutil
import pytest

from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.local.services import Service, Services, stop_leftovers
from trainyard.local.stack import running_stack
from trainyard.local.state import StackPaths


@pytest.fixture
def paths(tmp_path):
    made = StackPaths(root=tmp_path)
    made.logs.mkdir()
    return made


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition did not come true"
        time.sleep(0.05)


def test_a_dead_service_is_reported_with_its_logs_tail(paths):
    services = Services(paths)
    services.start(Service(name="db", argv=["bash", "-c", "echo no space left >&2; exit 3"]))
    with pytest.raises(UnavailableError, match=r"(?s)db stopped with exit code 3.*no space left"):
        services.wait_until(lambda: False, "db", 10)
    services.stop()


def test_a_service_that_never_gets_ready_names_itself_and_its_logs(paths):
    services = Services(paths)
    services.start(Service(name="db", argv=["sleep", "30"]))
    try:
        with pytest.raises(UnavailableError, match="the database did not become ready within 0 s"):
            services.wait_until(lambda: False, "the database", 0.3)
    finally:
        services.stop()


@pytest.mark.slow
def test_stop_reaches_grandchildren_and_those_that_ignore_sigterm(paths):
    # In a process of its own: stop() ends every descendant of the process that calls it.
    script = f"""
import time, sys
from pathlib import Path
from trainyard.local.services import Service, Services, adopt_orphans
from trainyard.local.state import StackPaths
adopt_orphans()
paths = StackPaths(root=Path({str(paths.root)!r}))
services = Services(paths)
inner = "trap '' TERM; setsid sleep 300 & echo $! > grandchild; sleep 300 & wait; sleep 300"
services.start(Service(name="stubborn", argv=["bash", "-c", inner]))
while not (paths.root / "grandchild").exists(): time.sleep(0.05)
print(services._running["stubborn"].process.pid, flush=True)
services.stop()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=True, timeout=60)  # fmt: skip
    assert gone(int(done.stdout))
    assert gone(int((paths.root / "grandchild").read_text()))
    assert not paths.processes.exists()


def test_the_next_start_stops_what_a_killed_stack_left(paths):
    left = subprocess.Popen(["sleep", "300"], start_new_session=True)
    started = psutil.Process(left.pid).create_time()
    paths.processes.write_text(json.dumps({"mlflow": {"pid": left.pid, "started": started}}))
    stop_leftovers(paths)
    left.wait(timeout=5)
    assert gone(left.pid)
    assert not paths.processes.exists()


def test_a_reused_pid_is_left_alone(paths):
    other = subprocess.Popen(["sleep", "300"])
    try:
        paths.processes.write_text(json.dumps({"mlflow": {"pid": other.pid, "started": 1.0}}))
        stop_leftovers(paths)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_two_stacks_in_one_folder_are_refused_with_the_way_out(tmp_path):
    script = (
        "import fcntl, os, sys, time\n"
        f"stream = open({str(tmp_path / 'lock')!r}, 'a+')\n"
        "fcntl.flock(stream, fcntl.LOCK_EX)\n"
        "stream.write(str(os.getpid())); stream.flush()\n"
        "print('locked', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        before = set(tmp_path.iterdir())
        refused = pytest.raises(ConfigurationError, match=rf"process {holder.pid}.*STATE_DIR=")
        with refused, running_stack(tmp_path):
            pass
        assert set(tmp_path.iterdir()) == before
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
