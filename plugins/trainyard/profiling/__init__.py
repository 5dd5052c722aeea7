"""From profiled runs to stored, published verdicts: what ``profile_run`` does. Free of Airflow.

``trainyard.profile`` reads and analyses traces; this package finds them in run folders, pairs them
with the same work without a profiler, and puts the outcome where people look.
"""
