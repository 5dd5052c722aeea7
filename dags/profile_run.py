"""Where does the time of a step go: profile a configuration, and try what the verdict suggests."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from trainyard.operators import forms, forms_profile, pipeline

with DAG(
    dag_id="profile_run",
    schedule=None,
    doc_md="""
Runs one configuration in pairs, plain with controls and under a profiler, and says what binds a
step: input, communication, host or compute, a rank that is slow, what each would save, and what
profiling cost. On request it changes the first suggested field, runs again and compares.
""",
    params={
        **forms.site_form(),
        **forms.tier_form(),
        **forms.dataset_form(),
        **forms.work_form(),
        **forms.single_run_form(),
        **forms_profile.profile_form(),
    },
    default_args=pipeline.DEFAULTS,
    tags=["trainyard", "training", "profile"],
    dagrun_timeout=timedelta(hours=12),
):
    fetched = pipeline.fetch()
    pipeline.verify() >> fetched
    pipeline.profile(pipeline.runs("profile", fetched, in_study=False))
