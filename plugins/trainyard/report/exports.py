"""The CSV and JSON behind a report: every point, comparison, fit and run in full."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from trainyard.analysis.fits import Fit

if TYPE_CHECKING:
    import pandas as pd

    from trainyard.analysis import Analysis, StudyData
    from trainyard.analysis.statistics import Estimate

_RISKY = ("=", "+", "-", "@", "\t", "\r")


def csv_text(frame: pd.DataFrame) -> str:
    """Return *frame* as CSV with line feeds, numbers in full precision.

    A text that a spreadsheet would run as a formula gets an apostrophe in front (OWASP, CSV
    injection): names and log lines come from outside.
    """
    import pandas as pd

    safe = frame.copy()
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]):
            safe[name] = safe[name].map(_harmless)
    return str(safe.to_csv(index=False, lineterminator="\n"))


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_RISKY) else value


def json_text(value: Any) -> str:
    """Return *value* as JSON: sorted keys, NaN and infinities as null."""
    return json.dumps(_plain(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def frame_json(frame: pd.DataFrame, about: dict[str, str]) -> str:
    """Return the data behind a figure as JSON columns, with what the figure says *about* it."""
    data = {str(name): [_plain(value) for value in frame[name].tolist()] for name in frame.columns}
    body = json.dumps({**about, "columns": list(data), "data": data}, ensure_ascii=False)
    return body + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def tables_of(data: StudyData, analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Return the full tables by file name, without ending."""
    import pandas as pd

    runs = data.runs.drop(columns=["log_tail"]).assign(excluded_because=analysis.excluded)
    return {
        "points": pd.DataFrame([_point(point) for point in analysis.points]),
        "comparisons": pd.DataFrame(
            [
                {
                    "mode": item.mode,
                    "fixed_batch": item.batch,
                    "ranks": item.ranks,
                    "base": item.base,
                    **_numbers("speedup", item.speedup),
                    **_numbers("efficiency", item.efficiency),
                    **_numbers("karp_flatt", item.karp_flatt),
                    "reason": item.reason,
                }
                for curve in analysis.curves
                for item in curve.comparisons
            ]
        ),
        "fits": pd.DataFrame([row for curve in analysis.curves for row in _fits(curve)]),
        "runs": runs,
    }


def _point(point: Any) -> dict[str, Any]:
    return {
        "name": point.name,
        "config_id": point.config_id,
        "scaling": point.scaling,
        "ranks": point.ranks,
        "distributed": point.distributed,
        "per_rank_batch": point.per_rank_batch,
        "global_batch": point.global_batch,
        "runs": point.planned,
        "valid": point.valid,
        "flagged": point.flagged,
        "unsound": point.unsound,
        **_numbers("images_per_second", point.throughput),
        "images_per_second_harmonic_mean": point.harmonic_rate,
        **_numbers("step_time_s", point.step_time),
        **_numbers("flagged_step_time_s", point.flagged_step_time),
        "kept_out": " | ".join(point.reasons),
    }


def _numbers(name: str, estimate: Estimate | None) -> dict[str, Any]:
    keys = ("value", "low", "high", "n", "method", "iqr", "cv")
    if estimate is None:
        return {f"{name}_{key}": None for key in keys}
    known = asdict(estimate)
    return {f"{name}_{key}": known[key] for key in keys}


def _fits(curve: Any) -> list[dict[str, Any]]:
    rows = []
    for fit in curve.fits:
        head = {"mode": curve.series.mode, "fixed_batch": curve.series.batch, "law": fit.name}
        if not isinstance(fit, Fit):
            rows.append({**head, "refused": fit.reason, "needed": fit.needed})
            continue
        rows += [
            {
                **head,
                "parameter": item.parameter.symbol,
                "unit": item.parameter.unit,
                "value": item.value,
                "low": item.low,
                "high": item.high,
                "aicc": fit.aicc,
                "lack_of_fit_p": fit.lack_of_fit,
                "runs": fit.runs,
                "formula": fit.formula,
            }
            for item in fit.parameters
        ]
    return rows


def analysis_json(data: StudyData, analysis: Analysis) -> str:
    """Return the whole analysis, machine-readable; single runs are in the CSV."""
    return json_text(
        {
            "study": asdict(data.study),
            "dataset": asdict(data.dataset) if data.dataset else None,
            "points": analysis.points,
            "curves": [
                {
                    "mode": curve.series.mode,
                    "fixed_batch": curve.series.batch,
                    "base": curve.base,
                    "comparisons": curve.comparisons,
                    "fits": curve.fits,
                    "accuracy": curve.accuracy,
                }
                for curve in analysis.curves
            ],
            "flags": analysis.flags,
            "not_measured": analysis.missing,
            "deviations": analysis.deviations,
            "drift": analysis.drift,
        }
    )
