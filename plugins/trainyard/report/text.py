"""Numbers and times as text: one place, so that HTML and PDF cannot disagree."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainyard.analysis.statistics import Estimate

NOTHING = "–"
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_BIDI = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Return *text* without terminal colours, control and direction-changing characters.

    They could hide or reorder what a log says; none of them has a meaning on paper.
    """
    return _CONTROL.sub("\ufffd", _BIDI.sub("", _ANSI.sub("", text)))


def number(value: float | None, digits: int = 3) -> str:
    """Return *value* with about *digits* significant digits and thin-space thousands."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    decimals = max(0, digits - 1 - magnitude)
    if decimals > 7:  # noqa: PLR2004 - beyond this, powers of ten read better
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return minus(f"{mantissa}×10^{int(exponent)}")
    return minus(f"{value:,.{decimals}f}".replace(",", "\u202f"))


def whole(count: int) -> str:
    """Return a count with thin-space thousands."""
    return f"{count:,}".replace(",", "\u202f")


def p_value(value: float | None) -> str:
    """Return a p-value with two decimals; a tiny one as a bound."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else number(value, 2)  # noqa: PLR2004 - the usual bound


def minus(text: str) -> str:
    """Return *text* with a typographic minus instead of a hyphen."""
    return text.replace("-", "−")


def percent(value: float | None, decimals: int = 1) -> str:
    """Return a share as per cent."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return minus(f"{100 * value:.{decimals}f}\u202f%")


def interval(low: str, high: str) -> str:
    """Return two formatted ends as an interval."""
    return f"[{low}, {high}]"


def scaled(estimate: Estimate | None, factor: float = 1.0, digits: int = 4) -> tuple[str, str]:
    """Return value and interval of *estimate* times *factor*, equally many decimals in both."""
    if estimate is None:
        return NOTHING, NOTHING
    value = estimate.value * factor
    decimals = _decimals(value, digits)
    if estimate.low is None or estimate.high is None:
        return fixed(value, decimals), NOTHING
    ends = interval(fixed(estimate.low * factor, decimals), fixed(estimate.high * factor, decimals))
    return fixed(value, decimals), ends


def fixed(value: float, decimals: int) -> str:
    """Return *value* with so many decimals; very wide interval ends in powers of ten."""
    if abs(value) >= 1e7:  # noqa: PLR2004 - an end without meaning must not widen a table
        return number(value, 2)
    return minus(f"{value:,.{decimals}f}".replace(",", "\u202f"))


def _decimals(value: float, digits: int) -> int:
    if value == 0 or not math.isfinite(value):
        return digits - 1
    return min(6, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def shares(estimate: Estimate | None, decimals: int = 1) -> tuple[str, str]:
    """Return value and interval of a share as per cent."""
    if estimate is None:
        return NOTHING, NOTHING
    if estimate.low is None or estimate.high is None:
        return percent(estimate.value, decimals), NOTHING
    ends = interval(
        minus(f"{100 * estimate.low:.{decimals}f}"), minus(f"{100 * estimate.high:.{decimals}f}")
    )
    return percent(estimate.value, decimals), f"{ends}\u202f%"


def with_unit(pair: tuple[str, str], unit: str) -> str:
    """Return ``value [low, high] unit`` in one text."""
    value, ends = pair
    return f"{value} {unit}" if ends == NOTHING else f"{value} {ends} {unit}"


def size(count: float | None) -> str:
    """Return bytes in binary units."""
    if count is None or not math.isfinite(count) or count <= 0:
        return NOTHING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:  # noqa: PLR2004 - binary units
            return f"{number(count)} {unit}"
        count /= 1024
    return f"{number(count)} TiB"


def moment(text: str) -> str:
    """Return an ISO 8601 time to the minute, as it was written otherwise."""
    found = re.match(r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2})", text)
    zone = " UTC" if found and re.search(r"(Z|\+00:00)$", text) else ""
    return f"{found[1]} {found[2]}{zone}" if found else (text or NOTHING)


def count_of(number_: int, noun: str, plural: str = "") -> str:
    """Return ``1 run`` or ``2 runs``."""
    return f"{number_} {noun if number_ == 1 else plural or noun + 's'}"


def listed(items: list[str]) -> str:
    """Return ``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
