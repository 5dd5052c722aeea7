"""Reports of scaling studies: one document, as HTML, PDF, figures and the data behind them."""

from __future__ import annotations

from trainyard.report.assemble import ReportFiles, build

__all__ = ["ReportFiles", "build"]
