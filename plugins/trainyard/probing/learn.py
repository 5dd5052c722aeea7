"""Learning references from the first good nights: a file for a person to review. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from trainer.contract import ProbeReport
from trainyard.errors import ConfigurationError
from trainyard.probing.judge import device_of
from trainyard.probing.references import Direction, Reference, References, generic

LEAST_REPORTS = 5
"""Valid reports a reference needs: of fewer, median and deviation say little."""
WIDTH = 4.0
"""Half width of the band in standard deviations: with normal nights one false alarm in 30,000."""
LEAST_BAND = 0.05
"""Half width at least, as a share: smaller changes are no defect of a machine."""
_MAD_TO_DEVIATION = 1.4826  # for a normal distribution


def learn(
    reports: Sequence[ProbeReport], known: References, *, least: int = LEAST_REPORTS
) -> References:
    """Return *known* with references learned from *reports*; what somebody set by hand stays.

    A measurement that was invalid does not count; quick probes repeat less and measure the same.
    Raises ``ConfigurationError`` when nothing has *least*
    valid values yet, saying how many there are.
    """
    values: dict[tuple[str, str, str], list[float]] = {}
    for report in reports:
        for one in report.measurements:
            if one.valid and one.value > 0:
                key = (device_of(report, one.name), generic(one.name), one.unit)
                values.setdefault(key, []).append(one.value)
    set_by_hand = [one for one in known.references if not one.learned_from]
    taken = {(one.device, one.name) for one in set_by_hand}
    learned = [
        _reference(device, name, unit, found)
        for (device, name, unit), found in sorted(values.items())
        if len(found) >= least and (device, name) not in taken
    ]
    if not learned:
        most = max((len(found) for found in values.values()), default=0)
        raise ConfigurationError(
            f"{least} valid values of a measurement are needed and there are at most {most}, in "
            f"{len(reports)} reports of site {known.site!r}; verify on more quiet nights first"
        )
    return replace(known, references=(*set_by_hand, *learned))


def _reference(device: str, name: str, unit: str, values: Sequence[float]) -> Reference:
    middle = statistics.median(values)
    spread = statistics.median(abs(value - middle) for value in values)
    half = max(WIDTH * _MAD_TO_DEVIATION * spread, LEAST_BAND * middle)
    return Reference(
        device=device,
        name=name,
        unit=unit,
        value=middle,
        lower=max(middle - half, 0.01 * middle),
        upper=middle + half,
        direction=Direction.LOWER if unit == "s" else Direction.HIGHER,
        learned_from=len(values),
    )
