"""What Prometheus scrapes of Trainyard: live runs, stored results, queues, and its own health.

``python -m trainyard.exporter``. Each source is read in a thread of its own at its own pace, so
that a scrape never waits for a database or a cluster; a source that fails is
``trainyard_source_up 0`` and its metrics are absent, never zero. ``catalogue`` names every metric.
"""
