"""Lifecycle rules: the policy, its two texts, a real server that keeps them, one that cannot."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests import goldens
from tests.fixtures.settings import make_settings
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.lifecycle import (
    KEPT,
    Outcome,
    Policy,
    Retention,
    Rule,
    compare_lifecycle,
    ensure_lifecycle,
    forecast,
    make_policy,
    to_json,
    to_xml,
)
from trainyard.lifecycle.__main__ import main
from trainyard.lifecycle.forecast import Stored
from trainyard.objectstore import ObjectStore

ROOT = Path(__file__).resolve().parents[2]
WARM = Retention(warm_tier="GLACIER", warm_after_days=45)


class TestPolicy:
    @pytest.mark.parametrize(
        ("name", "retention"), [("default", Retention()), ("warm", WARM)], ids=["default", "warm"]
    )
    def test_goldens(self, name, retention):
        policy = make_policy(retention)
        goldens.check(f"lifecycle/{name}.json", to_json(policy))
        goldens.check(f"lifecycle/{name}.xml", to_xml(policy))
        goldens.check(f"lifecycle/{name}-minio.xml", to_xml(policy, minio=True))

    def test_the_stack_sets_the_default_policy(self):
        """containers/minio/lifecycle.json is what minio-setup imports."""
        text = (ROOT / "containers/minio/lifecycle.json").read_text()
        assert text == to_json(make_policy(Retention())), (
            "write it again: python -m trainyard.lifecycle render --default json"
        )

    @pytest.mark.parametrize("retention", [Retention(), WARM])
    def test_nothing_that_results_refer_to_expires(self, retention):
        for rule in make_policy(retention).rules:
            assert rule.expire_days is None or rule.prefix not in KEPT

    @pytest.mark.parametrize("prefix", ["runs/", "runs/one/", "r", "", "datasets/sha256/"])
    def test_a_policy_that_would_is_refused(self, prefix):
        rule = Rule(name="wrong", prefix=prefix, expire_days=1000)
        with pytest.raises(ConfigurationError, match="is kept for good"):
            Policy(rules=(rule,))

    def test_every_prefix_that_is_written_has_a_fate(self):
        ruled = {rule.prefix for rule in make_policy(Retention()).rules} | set(KEPT)
        assert ruled >= {"checkpoints/", "profiles/", "logs/", "prepared/", "health/", *KEPT}

    @pytest.mark.parametrize("value", [0, -1, True, 1.5, "14"])
    def test_days(self, value):
        with pytest.raises(ConfigurationError, match="keep_logs_days"):
            Retention(logs_days=value)

    def test_tier_names(self):
        with pytest.raises(ConfigurationError, match=r"s3_warm_tier = 'cold place'"):
            Retention(warm_tier="cold place")
        with pytest.raises(ConfigurationError, match="name it: s3_warm_tier"):
            Policy(rules=(Rule(name="a", prefix="runs/", warm_days=1),))

    def test_minio_gets_no_rule_it_refuses(self):
        """MinIO's rule.go: a rule needs an expiration or a transition."""
        rules = json.loads(to_json(make_policy(WARM)))["Rules"]
        assert all("Expiration" in rule or "Transition" in rule for rule in rules)
        assert "AbortIncompleteMultipartUpload" in to_xml(make_policy(WARM))


class TestForecast:
    AT = datetime(2026, 11, 22, tzinfo=UTC)

    def stored(self, key, days, size=10):
        return Stored(key=key, size_bytes=size, modified_at=self.AT - timedelta(days=days))

    def test_what_is_due(self):
        objects = [
            self.stored("checkpoints/r/step-1.pt", 15),
            self.stored("checkpoints/r/step-2.pt", 14),
            self.stored("checkpoints/r/step-3.pt", 13.9, size=5),
            self.stored("runs/r/result.json", 4000),
            self.stored("readme", 4000),
        ]
        found = {line.rule.prefix: line for line in forecast(objects, make_policy(WARM), self.AT)}
        checkpoints = found["checkpoints/"]
        assert [one.key[-4] for one in checkpoints.due] == ["1", "2"]
        assert (checkpoints.objects, checkpoints.size_bytes, checkpoints.due_bytes) == (3, 25, 20)
        assert found["runs/"].rule.warm_days == 45
        assert len(found["runs/"].due) == 1
        assert found["readme"].due == ()

    def test_without_a_warm_tier_what_is_kept_is_never_due(self):
        lines = forecast([self.stored("runs/r/x", 9999)], make_policy(Retention()), self.AT)
        assert next(line for line in lines if line.rule.prefix == "runs/").due == ()


@pytest.fixture
def settings(tmp_path, lifecycle_server):
    made = make_settings(tmp_path, **lifecycle_server.settings())
    ObjectStore(made).ensure_bucket()
    return made


class TestServerThatKeepsThem:
    def test_set_once_then_unchanged(self, settings):
        assert compare_lifecycle(settings).outcome is Outcome.DIFFERENT
        assert ensure_lifecycle(settings).outcome is Outcome.APPLIED
        assert ensure_lifecycle(settings).outcome is Outcome.UNCHANGED
        assert compare_lifecycle(settings).outcome is Outcome.UNCHANGED

    def test_the_server_read_what_was_meant(self, settings):
        ensure_lifecycle(settings)
        found = ObjectStore(settings).client.get_bucket_lifecycle(settings.s3_bucket)
        days = {
            rule.rule_filter.prefix: rule.expiration.days for rule in found.rules if rule.expiration
        }
        assert days["checkpoints/"] == 14
        assert not set(days) & set(KEPT)
        aborting = [rule for rule in found.rules if rule.abort_incomplete_multipart_upload]
        assert [rule.rule_filter.prefix or "" for rule in aborting] == [""]

    def test_changed_settings_change_the_rules(self, settings):
        ensure_lifecycle(settings)
        changed = make_policy(Retention(checkpoints_days=3, warm_tier="GLACIER"))
        assert compare_lifecycle(settings, changed).outcome is Outcome.DIFFERENT
        assert ensure_lifecycle(settings, changed).outcome is Outcome.APPLIED
        assert ensure_lifecycle(settings, changed).outcome is Outcome.UNCHANGED
        found = ObjectStore(settings).client.get_bucket_lifecycle(settings.s3_bucket)
        moved = {
            r.rule_filter.prefix: r.transition.storage_class for r in found.rules if r.transition
        }
        assert moved == {"datasets/": "GLACIER", "reports/": "GLACIER", "runs/": "GLACIER"}

    def test_another_age_of_incomplete_uploads_is_another_rule(self, settings):
        ensure_lifecycle(settings)
        changed = replace(make_policy(Retention()), abort_uploads_days=5)
        assert compare_lifecycle(settings, changed).outcome is Outcome.DIFFERENT
        assert ensure_lifecycle(settings, changed).outcome is Outcome.APPLIED
        assert compare_lifecycle(settings, changed).outcome is Outcome.UNCHANGED

    def test_rules_of_others_stay(self, settings):
        from minio.commonconfig import ENABLED, Filter
        from minio.lifecycleconfig import Expiration, LifecycleConfig
        from minio.lifecycleconfig import Rule as S3Rule

        client = ObjectStore(settings).client
        theirs = S3Rule(
            ENABLED,
            rule_filter=Filter(prefix="tmp/"),
            rule_id="theirs",
            expiration=Expiration(days=7),
        )
        client.set_bucket_lifecycle(settings.s3_bucket, LifecycleConfig([theirs]))
        assert "1 of others kept" in ensure_lifecycle(settings).detail
        ensure_lifecycle(settings, make_policy(Retention(logs_days=5)))
        ids = [rule.rule_id for rule in client.get_bucket_lifecycle(settings.s3_bucket).rules]
        assert ids.count("theirs") == 1

    def test_a_bucket_that_is_not_there(self, settings):
        with pytest.raises(UnavailableError, match="NoSuchBucket"):
            ensure_lifecycle(replace(settings, s3_bucket="nowhere-at-all"))

    def test_the_commands(self, settings, monkeypatch, tmp_path, capsys):
        monkeypatch.setenv("TRAINYARD_SETTINGS", str(tmp_path / "settings.toml"))
        store = ObjectStore(settings)
        store.put_stream("logs/run/stdout.log", io.BytesIO(b"12345"), 5)
        store.put_stream("runs/run/result.json", io.BytesIO(b"{}"), 2)
        assert main(["show"]) == 0
        said = capsys.readouterr().out
        assert "logs/          expires after 90 days: 0 of 1 objects, 0 of 5 bytes would go" in said
        assert "runs/          kept for good: 1 objects, 2 bytes" in said
        assert "different: " in said
        assert main(["apply"]) == 0
        assert main(["show", "--in-days", "91", "--keys"]) == 0
        said = capsys.readouterr().out
        assert "1 of 1 objects, 5 of 5 bytes would go" in said
        assert "5 logs/run/stdout.log" in said
        assert "unchanged: " in said
        assert store.exists("logs/run/stdout.log"), "showing removes nothing"


class TestServerWithoutLifecycle:
    def test_rclone_is_recognised(self, tmp_path, s3_server):
        made = make_settings(tmp_path, **s3_server.settings())
        store = ObjectStore(made)
        store.ensure_bucket()
        store.put_stream("runs/kept", io.BytesIO(b"x"), 1)
        for ask in (compare_lifecycle, ensure_lifecycle):
            answer = ask(made)
            assert answer.outcome is Outcome.UNSUPPORTED
            assert "nothing expires by itself" in answer.detail
        assert store.exists("runs/kept")

    def test_no_server(self, tmp_path):
        with pytest.raises(UnavailableError, match="lifecycle of bucket"):
            compare_lifecycle(make_settings(tmp_path))

    def test_the_commands_say_errors(self, tmp_path, monkeypatch, capsys):
        make_settings(tmp_path)
        monkeypatch.setenv("TRAINYARD_SETTINGS", str(tmp_path / "settings.toml"))
        assert main(["show"]) == 1
        assert "error: object store 127.0.0.1:9" in capsys.readouterr().err

    def test_render_needs_no_settings(self, capsys):
        assert main(["render", "--default", "json"]) == 0
        assert capsys.readouterr().out == to_json(make_policy(Retention()))
