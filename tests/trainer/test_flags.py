"""Flags and metrics from made-up measurements: each threshold from both sides."""

import dataclasses

import pytest

from tests.trainer.conftest import make_spec
from trainer.checks import near_reference, ranks_agree
from trainer.clock import Reading
from trainer.contract import Epoch, Flag, Machine, Precision, Window, WindowKind
from trainer.flags import Evidence, raised, window_cv
from trainer.metrics import Totals, summarise

SPEC = make_spec(ranks=2, per_rank_batch=8, warmup_steps=10, window_steps=20)
MACHINE = Machine(
    hostname="h",
    os="o",
    kernel="k",
    cpu_model="c",
    cores_total=8,
    cores_usable=2,
    memory_bytes=1,
)


def window(seconds=1.0, *, images=320, foreign=0.0, kind=WindowKind.TRAIN, steps=20):
    return Window(
        kind=kind,
        index=0,
        steps=steps,
        images=images,
        seconds_by_rank=(seconds * 0.9, seconds),
        foreign_load=foreign,
    )


def reading(one, *, mhz=(0.0, 0.0), throttled=False, cpu=(0.9, 0.6)):
    return Reading(window=one, cpu_by_rank=cpu, clock_mhz=mhz, throttled=throttled)


def evidence(**changes):
    windows = changes.pop("windows", (window(), window(1.01), window(0.99)))
    readings = changes.pop("readings", tuple(reading(one) for one in windows))
    values = {"spec": SPEC, "device": "cpu", "machines": (MACHINE,), "windows": windows}
    return Evidence(**values | {"readings": readings} | changes)


def flags(**changes) -> dict[Flag, str]:
    return dict(raised(evidence(**changes)))


def test_a_quiet_run_raises_nothing():
    assert flags() == {}


@pytest.mark.parametrize(
    ("cores", "threads", "expected"), [(2, 1, False), (1, 1, True), (3, 2, True), (4, 2, False)]
)
def test_oversubscribed(cores, threads, expected):
    machine = dataclasses.replace(MACHINE, cores_usable=cores)
    spec = dataclasses.replace(SPEC, threads_per_rank=threads)
    found = flags(machines=(machine,), spec=spec)
    assert (Flag.OVERSUBSCRIBED in found) == expected
    assert Flag.OVERSUBSCRIBED not in flags(machines=(machine,), spec=spec, device="cuda")


@pytest.mark.parametrize(
    ("load", "cores", "expected"),
    [(0.19, 2, False), (0.21, 2, True), (1.19, 3, False), (1.21, 3, True), (5.9, 8, False)],
)
def test_foreign_load_beyond_the_idle_cores(load, cores, expected):
    machine = dataclasses.replace(MACHINE, cores_usable=cores)
    windows = tuple(window(foreign=load) for _ in range(3))
    found = flags(machines=(machine,), windows=windows)
    assert (Flag.FOREIGN_LOAD in found) == expected


def test_foreign_load_is_weighted_by_time():
    windows = (window(9.0, foreign=0.0, images=2880), window(1.0, foreign=1.0), window())
    assert Flag.FOREIGN_LOAD not in flags(windows=windows)


@pytest.mark.parametrize(
    ("clocks", "expected"),
    [
        ([(1000.0, 1000.0), (975.0, 1000.0)], False),
        ([(1000.0, 1000.0), (1000.0, 960.0)], True),
        ([(0.0, 0.0), (0.0, 0.0)], False),
    ],
)
def test_clock_drift(clocks, expected):
    readings = tuple(reading(window(), mhz=clock) for clock in clocks)
    assert (Flag.CLOCK_DRIFT in flags(readings=readings)) == expected


def test_throttled_and_resumed():
    found = flags(readings=(reading(window(), throttled=True), reading(window())), resumed_at=40)
    assert found[Flag.THROTTLED].endswith("in 1 windows")
    assert found[Flag.RESUMED].endswith("step 40")


@pytest.mark.parametrize(
    ("spread", "device", "expected"),
    [(0.04, "cpu", False), (0.06, "cpu", True), (0.03, "cuda", True)],
)
def test_unstable(spread, device, expected):
    windows = (window(1.0), window(1.0 - spread), window(1.0 + spread))
    assert window_cv(windows) == pytest.approx(spread)
    assert (Flag.UNSTABLE in flags(windows=windows, device=device)) == expected


def test_a_tail_in_a_window_is_no_instability():
    windows = (window(1.0, images=320), window(0.5, images=160), window(1.0, images=320))
    assert window_cv(windows) == pytest.approx(0.0)
    assert window_cv(windows[:1]) is None


def test_short_names_every_reason():
    spec = dataclasses.replace(SPEC, window_steps=10, warmup_steps=2)
    detail = flags(windows=(window(),), spec=spec)[Flag.SHORT]
    assert detail == (
        "1 timed windows, 3 needed; windows of 10 steps, 20 needed; warm-up of 2 steps, 5 needed"
    )
    found = flags(device="cuda", spec=dataclasses.replace(SPEC, warmup_steps=30))
    assert "60 timed steps in 3.0 s; a GPU needs 200 steps or 30 s" in found[Flag.SHORT]
    long = (window(11.0), window(11.0), window(11.0))
    spec = dataclasses.replace(SPEC, warmup_steps=30)
    assert Flag.SHORT not in flags(device="cuda", spec=spec, windows=long)


TOTALS = Totals(
    setup_s=1,
    time_to_first_step_s=2,
    train_wall_s=3,
    peak_memory_bytes=4,
    parameters=5,
    flops_per_image=1_000_000_000,
    first_window_loss=2.0,
    test_accuracy=None,
    test_loss=None,
    gpu="",
)


def test_metrics_from_windows():
    windows = [
        window(1.0),
        window(3.0),
        window(2.0, images=160),
        window(0.5, kind=WindowKind.SYNTHETIC_INPUT),
        window(0.7, kind=WindowKind.SYNTHETIC_INPUT),
    ]
    epochs = [
        Epoch(index=i, steps=1, images=n, seconds=s, train_loss=1.0 - i, train_accuracy=0.5)
        for i, (n, s) in enumerate([(100, 4.0), (100, 6.0), (40, 1.0)])
    ]
    readings = [reading(one) for one in windows[:3]]
    found = {m.name: m.value for m in summarise(SPEC, windows, epochs, readings, TOTALS, 100)}
    assert found["images_per_second"] == pytest.approx(800 / 6)
    assert found["step_time_s"] == pytest.approx(2.0 / 20)
    assert found["step_time_synthetic_s"] == pytest.approx(0.6 / 20)
    assert found["step_time_paired_s"] == pytest.approx(2.5 / 20)  # the last two train windows
    assert found["epoch_time_s"] == 5.0  # the cut-off third is no whole epoch
    assert found["train_loss"] == -1.0
    assert found["rank_imbalance"] == pytest.approx(1 / 3)
    assert found["cpu_busy_cores"] == pytest.approx(4.5 / 6)
    assert "step_time_no_sync_s" not in found
    assert "test_accuracy" not in found
    assert "mfu" not in found


def test_mfu_on_a_known_gpu_only():
    spec = dataclasses.replace(SPEC, precision=Precision.BF16)

    def mfu(gpu):
        totals = dataclasses.replace(TOTALS, gpu=gpu)
        found = summarise(spec, [window(1.0, images=98_950)], [], [], totals, 100)
        return {m.name: m.value for m in found}.get("mfu")

    assert mfu("NVIDIA H200") == pytest.approx(0.05)
    assert mfu("NVIDIA H100 80GB HBM3") == pytest.approx(0.05)
    assert mfu("Some other GPU") is None


def test_checks():
    assert ranks_agree(["a", "a"]).passed
    bad = ranks_agree(["a", "b", "a"])
    assert not bad.passed
    assert "[1] differ" in bad.detail
    spec = dataclasses.replace(SPEC, loss_reference=2.0, loss_tolerance=0.1)
    assert near_reference(spec, 2.19).passed
    assert not near_reference(spec, 2.21).passed
    assert not near_reference(spec, None).passed
    assert not near_reference(spec, float("nan")).passed
