"""A policy as text: JSON for ``mc ilm import``, XML for the S3 API. Pure, with golden files.

Two dialects. MinIO refuses a rule that does nothing but abort incomplete uploads, and ignores that
element elsewhere (its server clears them itself, ``api stale_uploads_expiry``); everything else
takes one rule for the whole bucket.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

from trainyard.lifecycle.policy import ID_PREFIX, Policy, Rule

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
ABORT_ID = f"{ID_PREFIX}incomplete-uploads"


def to_json(policy: Policy) -> str:
    """Return what ``mc ilm import`` reads."""
    return json.dumps({"Rules": documents(policy, minio=True)}, indent=2) + "\n"


def to_xml(policy: Policy, *, minio: bool = False) -> str:
    """Return the body of PutBucketLifecycleConfiguration, for MinIO or for every other store."""
    root = ET.Element("LifecycleConfiguration", xmlns=_NAMESPACE)
    for document in documents(policy, minio=minio):
        _element(root, "Rule", document)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def documents(policy: Policy, *, minio: bool) -> list[dict[str, Any]]:
    """Return the rules with the names of the S3 API, in its order of elements."""
    made = [_rule(rule, policy) for rule in policy.rules]
    if not minio:
        made.append(
            {
                "AbortIncompleteMultipartUpload": {
                    "DaysAfterInitiation": policy.abort_uploads_days
                },
                "ID": ABORT_ID,
                "Filter": {"Prefix": ""},
                "Status": "Enabled",
            }
        )
    return made


def _rule(rule: Rule, policy: Policy) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if rule.expire_days is not None:
        made["Expiration"] = {"Days": rule.expire_days}
    made |= {"ID": rule.rule_id, "Filter": {"Prefix": rule.prefix}, "Status": "Enabled"}
    if rule.warm_days is not None:
        made["Transition"] = {"Days": rule.warm_days, "StorageClass": policy.warm_tier}
    return made


def _element(parent: ET.Element, name: str, value: object) -> None:
    made = ET.SubElement(parent, name)
    if isinstance(value, dict):
        for key, inner in value.items():
            _element(made, key, inner)
    else:
        made.text = str(value)
