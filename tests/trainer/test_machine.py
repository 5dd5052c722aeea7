"""What a run finds around it: cgroup limits of both versions, CPU time, clocks, git."""

import ctypes
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.trainer.conftest import REPOSITORY
from trainer.load import LoadMeter, busy_seconds, process_age
from trainer.machine import describe, usable_cores, usable_memory
from trainer.nvml import Nvml
from trainer.provenance import Git
from trainer.usage import resident_bytes


def fake_root(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {
    "proc/self/cgroup": "0::/job/step\n",
    "proc/meminfo": "MemTotal:       16000 kB\n",
    "sys/fs/cgroup/job/cpu.max": "250000 100000\n",
    "sys/fs/cgroup/job/step/cpu.max": "max 100000\n",
    "sys/fs/cgroup/job/memory.max": "max\n",
    "sys/fs/cgroup/job/step/memory.max": "4096000\n",
}
V1 = {
    "proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n",
    "proc/meminfo": "MemTotal:       16000 kB\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "8192000\n",
}
UNLIMITED_V1 = V1 | {
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
}


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        (V2, 2, 4_096_000),
        (V1, 1, 8_192_000),
        (UNLIMITED_V1, 8, 16_384_000),
        ({"proc/meminfo": V1["proc/meminfo"]}, 8, 16_384_000),
        (V2 | {"sys/fs/cgroup/job/cpu.max": "50000 100000\n"}, 1, 4_096_000),
    ],
)
def test_limits_of_both_cgroup_versions(files, cores, memory, tmp_path):
    root = fake_root(tmp_path, files)
    assert usable_cores(root, affinity=8) == cores
    assert usable_memory(root) == memory


def test_affinity_lowers_the_cores():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_this_machine_is_described():
    machine = describe(gpus=False)
    assert machine.hostname
    assert machine.cpu_model
    assert 1 <= machine.cores_usable <= machine.cores_total
    assert machine.memory_bytes > 1e8
    assert machine.gpus == ()


def test_busy_seconds_counts_the_usable_cores_without_idle_and_guest():
    text = (
        "cpu  1 1 1 1 1 1 1 1 1 1\n"
        "cpu0 100 10 20 9000 500 3 4 5 50 6\n"
        "cpu1 200 0 0 9000 0 0 0 0 0 0\n"
        "cpu10 900 0 0 0 0 0 0 0 0 0\n"
        "intr 5 6\n"
    )
    tick = os.sysconf("SC_CLK_TCK")
    assert busy_seconds(text, {0}) == pytest.approx(142 / tick)
    assert busy_seconds(text, {0, 1}) == pytest.approx(342 / tick)


def test_load_meter_sees_own_work_and_the_work_of_children():
    meter = LoadMeter()
    meter.start()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    busy, own = meter.stop()
    assert own == pytest.approx(0.2, abs=0.05)
    assert busy >= own - 0.05
    meter.start()
    child = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        own, deadline = 0.0, time.monotonic() + 30
        while own < 0.2 and time.monotonic() < deadline:
            time.sleep(0.1)
            _, own = meter.stop()
    finally:
        child.kill()
        child.wait()
    assert own >= 0.2  # a loader worker's work is the run's own, not foreign load


def test_process_age_is_the_age_of_the_process():
    age = process_age()
    time.sleep(0.05)
    assert process_age() - age == pytest.approx(0.05, abs=0.04)


class FakeDriver:
    """Stands in for libnvidia-ml: answers by writing through the given pointers."""

    def __init__(self, reasons=0, code=0):
        self.reasons, self.code = reasons, code

    def nvmlInit_v2(self):  # noqa: N802  the library's own name
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):  # noqa: N802
        return 0 if uuid.value == b"GPU-1" else 6

    def nvmlDeviceGetClockInfo(self, _device, kind, value):  # noqa: N802
        assert kind.value == 1
        value._obj.value = 1980
        return self.code

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _device, value):  # noqa: N802
        value._obj.value = self.reasons
        return self.code

    def nvmlDeviceGetUtilizationRates(self, _device, rates):  # noqa: N802
        rates._obj.gpu, rates._obj.memory = 42, 7
        return self.code

    def nvmlSystemGetDriverVersion(self, text, size):  # noqa: N802
        assert size.value >= 80
        ctypes.memmove(text, b"570.1\0", 6)
        return 0


@pytest.mark.parametrize(
    ("reasons", "throttled"), [(0x0, False), (0x1, False), (0x2, False), (0x4, True), (0x41, True)]
)
def test_gpu_clock_and_throttling(reasons, throttled):
    gpu = Nvml("GPU-1", FakeDriver(reasons))
    assert gpu.clock_mhz() == 1980
    assert gpu.throttled() is throttled
    assert gpu.utilisation() == pytest.approx(0.42)
    assert gpu.driver() == "570.1"


def test_gpu_that_does_not_answer():
    gpu = Nvml("GPU-1", FakeDriver(reasons=4, code=3))
    assert gpu.clock_mhz() == 0
    assert not gpu.throttled()
    assert gpu.utilisation() is None, "an idle GPU and one that does not answer are two things"
    with pytest.raises(OSError, match="answered 6"):
        Nvml("GPU-2", FakeDriver())


def test_resident_memory_is_what_the_kernel_counts():
    status = Path("/proc/self/status").read_text()
    kib = next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS:"))
    assert resident_bytes() == pytest.approx(kib * 1024, rel=0.05)


def test_git_state(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert Git(tmp_path).answers() == ("", False)
    git("init", "-q")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-q", "-m", "m")
    commit, dirty = Git(tmp_path).answers()
    assert len(commit) == 40
    assert not dirty
    (tmp_path / "file").write_text("b")
    assert Git(tmp_path).answers() == (commit, True)
    assert (REPOSITORY / "trainer").is_dir()


def test_an_image_says_its_commit_and_a_repository_says_it_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_COMMIT", "a" * 40)
    assert Git(tmp_path).answers() == ("a" * 40, False)
    monkeypatch.setenv("TRAINYARD_COMMIT", f"{'a' * 40}-dirty")
    assert Git(tmp_path).answers() == ("a" * 40, True)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert Git(tmp_path).answers()[0] == "", "a repository without a commit, not the image's"
