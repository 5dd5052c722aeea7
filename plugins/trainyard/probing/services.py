"""What only the orchestrating side can time: the services that keep what runs leave behind.

The same rule of validity as on the nodes: repeats whose interquartile range is above 15 % of their
median do not count.
"""

from __future__ import annotations

import io
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trainer.contract import Measurement, Problem
from trainyard.settings import Settings

if TYPE_CHECKING:
    from trainyard.lineage.client import TrackingClient

EXPERIMENT = "trainyard-probes"
"""Tracking experiment of the measurements; each run in it is deleted when it has been measured."""
_BYTES = 8 << 20
_METRICS = 200
"""Metrics of a log-batch call: about what recording a run sends at once."""
_ROWS = 500
_REPEATS = 7
_SPREAD = 0.15


def median_of(name: str, values: Sequence[float], unit: str, why: str = "") -> Measurement:
    """Return the median of *values* with its bootstrap interval; *why*: it does not count."""
    from trainyard.analysis.statistics import estimate

    found = estimate(values)
    if found is None:
        raise ValueError(f"{name}: no finite value among {list(values)}")
    low = found.value if found.low is None else found.low  # one value has no interval
    high = found.value if found.high is None else found.high
    why = "; ".join(reason for reason in (why, _unstable(values)) if reason)
    return Measurement(
        name=name,
        value=found.value,
        unit=unit,
        low=min(low, found.value),
        high=max(high, found.value),
        repeats=len(values),
        limit_source="the network and the disks behind it are not known",
        valid=not why,
        why=why,
    )


def _unstable(values: Sequence[float]) -> str:
    if len(values) < 2:  # noqa: PLR2004 - one value agrees with itself
        return ""
    quarter, middle, three = statistics.quantiles(values, n=4, method="inclusive")
    spread = (three - quarter) / middle
    if spread <= _SPREAD:
        return ""
    return f"unstable: interquartile range {spread:.0%} of the median, limit {_SPREAD:.0%}"


def measure_services(settings: Settings) -> tuple[list[Measurement], list[Problem]]:
    """Return what every service reaches, and which could not be measured; that costs no other."""
    made: list[Measurement] = []
    problems: list[Problem] = []
    for what, measure in SERVICES.items():
        try:
            made += measure(settings)
        except Exception as error:  # noqa: BLE001 - any client's error is this service's alone
            told = f"{what} not measured: {type(error).__name__}: {error}"
            fix = "see the check of that service in this verification"
            problems.append(Problem(probe="services", what=told, fix=fix))
    return made, problems


def object_store(settings: Settings) -> list[Measurement]:
    """Measure writing and reading an object of 8 MiB; the object goes afterwards.

    Raises what the client raises when the store does not answer.
    """
    from trainyard.s3client import make, pool

    client, key = make(settings, pool(10.0)), f"probes/{uuid.uuid4().hex}"
    body = uuid.uuid4().bytes * (_BYTES // 16)
    times: dict[str, list[float]] = {"objectstore.put": [], "objectstore.get": []}
    try:
        for _ in range(_REPEATS):
            begin = time.perf_counter()
            client.put_object(settings.s3_bucket, key, io.BytesIO(body), _BYTES)
            middle = time.perf_counter()
            answer = client.get_object(settings.s3_bucket, key)
            answer.read()
            answer.close()
            answer.release_conn()
            times["objectstore.put"].append(_BYTES / (middle - begin))
            times["objectstore.get"].append(_BYTES / (time.perf_counter() - middle))
    finally:
        client.remove_object(settings.s3_bucket, key)
    return [median_of(name, values, "B/s") for name, values in times.items()]


def tracking(settings: Settings) -> list[Measurement]:
    """Measure metrics per second in log-batch calls, as the recording of runs makes them.

    They go into a run that is deleted afterwards. Raises as ``TrackingClient`` does.
    """
    from trainyard.lineage.client import TrackingClient

    client = TrackingClient(settings.mlflow_url)
    try:
        now = int(time.time() * 1000)
        run = client.create_run(client.experiment_id(EXPERIMENT), "throughput", now, {})
        run_id = str(run["info"]["run_id"])
        try:
            values = [_METRICS / _logged(client, run_id, turn, now) for turn in range(_REPEATS + 1)]
        finally:
            client.delete_run(run_id)
    finally:
        client.close()
    return [median_of("tracking.log_batch", values[1:], "1/s")]  # the first call warms up


def _logged(client: TrackingClient, run_id: str, turn: int, now: int) -> float:
    steps = range(turn * _METRICS, (turn + 1) * _METRICS)
    metrics = [
        {"key": f"probe_{step % 10}", "value": step, "timestamp": now, "step": step}
        for step in steps
    ]
    begin = time.perf_counter()
    client.log(run_id, params={}, tags={}, metrics=metrics)
    return time.perf_counter() - begin


def results_database(settings: Settings) -> list[Measurement]:
    """Measure rows per second inserted and read back, in transactions that are rolled back.

    Raises as every method of ``Store`` does.
    """
    from trainyard.store import open_store
    from trainyard.store.throughput import round_trip

    with open_store(settings.results_url) as store:
        values = [_ROWS / round_trip(store, _ROWS) for _ in range(_REPEATS + 1)]
    return [median_of("results.round_trip", values[1:], "1/s")]


SERVICES: dict[str, Callable[[Settings], list[Measurement]]] = {
    "object store": object_store,
    "tracking": tracking,
    "results database": results_database,
}
"""What is measured, by the name of its check in the verification."""
