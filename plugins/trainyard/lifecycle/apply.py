"""Bringing a bucket to a policy, and saying so where a store has no lifecycle at all."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from trainyard import s3client
from trainyard.errors import UnavailableError
from trainyard.lifecycle.policy import ID_PREFIX, Policy, Retention, make_policy
from trainyard.lifecycle.render import to_xml

if TYPE_CHECKING:
    from minio import Minio
    from minio.lifecycleconfig import LifecycleConfig, Rule

    from trainyard.settings import Settings

_TIMEOUT_S = 20.0


class Outcome(StrEnum):
    """What became of a bucket's rules."""

    UNCHANGED = "unchanged"
    """They are as the policy says."""
    APPLIED = "applied"
    """They were brought to it."""
    DIFFERENT = "different"
    """They are not, and nothing was changed."""
    UNSUPPORTED = "unsupported"
    """The store has no lifecycle (``rclone serve s3``): nothing expires by itself."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Applied:
    """Answer of ``ensure_lifecycle`` and ``compare_lifecycle``."""

    outcome: Outcome
    """What was found or done."""
    detail: str
    """In words."""


def ensure_lifecycle(settings: Settings, policy: Policy | None = None) -> Applied:
    """Bring the bucket's rules to *policy* (default: what *settings* say); repeatable.

    Rules whose id does not begin with ``trainyard-`` stay. Raises ``UnavailableError`` when the
    store does not answer or refuses the rules, ``ConfigurationError`` without permission
    (s3:PutLifecycleConfiguration).
    """
    return _Bucket(settings).bring_to(policy or make_policy(Retention.of(settings)))


def compare_lifecycle(settings: Settings, policy: Policy | None = None) -> Applied:
    """Say whether the bucket's rules are those of *policy*; changes nothing. Raises the same."""
    return _Bucket(settings).compare(policy or make_policy(Retention.of(settings)))


class _Bucket:
    """The bucket of an installation and its rules."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._name = settings, settings.s3_bucket
        self._client: Minio = s3client.make(settings, s3client.pool(_TIMEOUT_S))

    def compare(self, policy: Policy) -> Applied:
        found = self._rules()
        if found is None:
            return _unsupported(self._name)
        if any(_ours(found) == _ours(_config(policy, minio=kind).rules) for kind in (True, False)):
            return Applied(outcome=Outcome.UNCHANGED, detail=f"{len(policy.rules)} rules in force")
        named = sorted(str(rule[0]) for rule in _ours(found))
        return Applied(
            outcome=Outcome.DIFFERENT,
            detail=f"bucket {self._name} has {', '.join(named) or 'no rule'} of ours, not those of "
            "the settings; `python -m trainyard.lifecycle apply` brings it to them",
        )

    def bring_to(self, policy: Policy) -> Applied:
        before = self.compare(policy)
        if before.outcome is not Outcome.DIFFERENT:
            return before
        foreign = [rule for rule in self._rules() or () if not _is_ours(rule)]
        for minio in (False, True):
            try:
                self._put(_config(policy, minio=minio, foreign=foreign))
            except _RefusedError:
                if minio:
                    raise
                continue  # a server that has no rule for incomplete uploads, as MinIO
            break
        after = self.compare(policy)
        if after.outcome is not Outcome.UNCHANGED:
            return _unsupported(self._name)  # it said yes and did nothing
        kept = f", {len(foreign)} of others kept" if foreign else ""
        return Applied(outcome=Outcome.APPLIED, detail=f"{len(policy.rules)} rules set{kept}")

    def _rules(self) -> list[Rule] | None:
        """Return the bucket's rules, or None when the store has no such thing."""
        from minio.error import S3Error

        with s3client.Mapped(self._settings, f"reading the lifecycle of bucket {self._name}"):
            try:
                found = self._client.get_bucket_lifecycle(self._name)
            except S3Error as error:
                if error.code in _UNSUPPORTED:
                    return None
                raise
            except ValueError:
                return None  # an answer to another question: it does not know ?lifecycle
        if found is None:
            return []
        # S3 has a word for "no rules"; an empty list is the answer to another question.
        return list(found.rules) or None

    def _put(self, config: LifecycleConfig) -> None:
        from minio.error import S3Error

        with s3client.Mapped(self._settings, f"setting the lifecycle of bucket {self._name}"):
            try:
                self._client.set_bucket_lifecycle(self._name, config)
            except S3Error as error:
                if error.code in _REFUSED:
                    raise _RefusedError(
                        f"object store {self._settings.s3_endpoint}: {error.code} for the "
                        f"lifecycle of bucket {self._name}: {error.message}. Does the tier exist "
                        "(`mc ilm tier ls`)? Correct s3_warm_tier and the keep_…_days settings"
                    ) from error
                if error.code not in _UNSUPPORTED:
                    raise


class _RefusedError(UnavailableError):
    """The store does not take these rules."""


_UNSUPPORTED = {"NotImplemented", "MethodNotAllowed", "BucketAlreadyExists", "XNotImplemented"}
_REFUSED = {"MalformedXML", "InvalidRequest", "InvalidArgument", "InvalidStorageClass"}


def _unsupported(bucket: str) -> Applied:
    return Applied(
        outcome=Outcome.UNSUPPORTED,
        detail=f"the store of bucket {bucket} has no lifecycle rules (rclone serve s3 has none): "
        "nothing expires by itself. `python -m trainyard.lifecycle show` lists what would; MinIO "
        "and AWS S3 enforce it",
    )


def _config(policy: Policy, *, minio: bool, foreign: list[Rule] | None = None) -> LifecycleConfig:
    from minio.lifecycleconfig import LifecycleConfig
    from minio.xml import unmarshal

    made = unmarshal(LifecycleConfig, to_xml(policy, minio=minio))
    return LifecycleConfig(rules=[*made.rules, *(foreign or [])])


def _is_ours(rule: Rule) -> bool:
    return (rule.rule_id or "").startswith(ID_PREFIX)


def _ours(rules: list[Rule]) -> set[tuple[Any, ...]]:
    """Return what our rules say, in a form that two servers' spellings share."""
    return {
        (
            rule.rule_id,
            rule.status,
            (rule.rule_filter.prefix if rule.rule_filter else "") or "",
            rule.expiration.days if rule.expiration else None,
            (rule.transition.days, rule.transition.storage_class) if rule.transition else None,
            (abort := rule.abort_incomplete_multipart_upload) and abort.days_after_initiation,
        )
        for rule in rules
        if _is_ours(rule)
    }
