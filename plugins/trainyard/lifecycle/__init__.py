"""What the object store keeps, moves to a cheaper tier, and forgets: as rules the store enforces.

``make_policy`` is pure; ``to_json`` gives what ``mc ilm import`` reads, ``to_xml`` what the S3 API
takes; ``ensure_lifecycle`` brings a bucket to it; ``forecast`` says what would expire.
"""

from __future__ import annotations

from trainyard.lifecycle.apply import Applied, Outcome, compare_lifecycle, ensure_lifecycle
from trainyard.lifecycle.forecast import Forecast, forecast
from trainyard.lifecycle.policy import KEPT, Policy, Retention, Rule, make_policy
from trainyard.lifecycle.render import to_json, to_xml

__all__ = [
    "KEPT",
    "Applied",
    "Forecast",
    "Outcome",
    "Policy",
    "Retention",
    "Rule",
    "compare_lifecycle",
    "ensure_lifecycle",
    "forecast",
    "make_policy",
    "to_json",
    "to_xml",
]
