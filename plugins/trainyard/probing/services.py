"""What only the orchestrating side can time: the object store, and starting things on a site."""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Sequence

from trainer.contract import Measurement
from trainyard.settings import Settings

_BYTES = 8 << 20
_REPEATS = 5


def median_of(name: str, values: Sequence[float], unit: str, why: str = "") -> Measurement:
    """Return the median of *values* with its bootstrap interval; *why*: it does not count."""
    from trainyard.analysis.statistics import estimate

    found = estimate(values)
    if found is None:
        raise ValueError(f"{name}: no finite value among {list(values)}")
    low = found.value if found.low is None else found.low  # one value has no interval
    high = found.value if found.high is None else found.high
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
