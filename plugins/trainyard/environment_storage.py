"""Checks of the object store beyond "it answers": its clock, its lifecycle rules."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from trainyard.environment import Finding
from trainyard.lifecycle import Outcome, compare_lifecycle
from trainyard.settings import Settings
from trainyard.store import Verdict


def clock(settings: Settings, patience_s: float) -> Finding:
    """Compare with the object store, whose signatures need clocks that agree."""
    scheme = "https" if settings.s3_secure else "http"
    request = urllib.request.Request(f"{scheme}://{settings.s3_endpoint}/", method="HEAD")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=patience_s) as answer:  # noqa: S310
            said = answer.headers.get("Date")
    except urllib.error.HTTPError as refused:
        said = refused.headers.get("Date")
    if not said:
        return Finding(
            verdict=Verdict.SKIPPED,
            measured="the object store names no time",
            requirement="at most 60 s apart",
        )
    apart = abs((datetime.now(UTC) - parsedate_to_datetime(said)).total_seconds())
    near = apart <= 60  # noqa: PLR2004 - named in the requirement
    return Finding(
        verdict=Verdict.PASSED if near else Verdict.FAILED,
        measured=f"{apart:.0f} s from the object store's clock",
        requirement="at most 60 s apart",
        fix="" if near else "set the clock: timedatectl set-ntp true",
    )


_VERDICTS = {
    Outcome.UNCHANGED: Verdict.PASSED,
    Outcome.DIFFERENT: Verdict.WARNING,
    Outcome.UNSUPPORTED: Verdict.SKIPPED,
}


def lifecycle(settings: Settings) -> Finding:
    """Compare the bucket's lifecycle rules with the settings; never a reason not to measure."""
    from trainyard.objectstore import ObjectStore

    # The first task of a new installation may be this one: nothing has made the bucket yet.
    ObjectStore(settings).ensure_bucket()
    found = compare_lifecycle(settings)
    different = found.outcome is Outcome.DIFFERENT
    return Finding(
        verdict=_VERDICTS[found.outcome],
        measured=found.outcome if different else found.detail,
        requirement="the rules that the settings ask for, where the store has rules",
        fix=found.detail if different else "",
    )
