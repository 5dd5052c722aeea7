"""A profile as a folder to read: report, figures, tables, a zoomable timeline, a Perfetto trace."""

from __future__ import annotations

from trainyard.profile.report.build import ProfileFiles, build, build_comparison

__all__ = ["ProfileFiles", "build", "build_comparison"]
