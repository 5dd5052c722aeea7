"""The tables of scaling laws: fitted, refused, projected. Texts only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainyard.analysis.fits import Fit, Refusal
from trainyard.report.document import Block, Cell, Paragraph, Table
from trainyard.report.tables import cells, columns, compact
from trainyard.report.text import NOTHING, interval, listed, number, p_value

if TYPE_CHECKING:
    from trainyard.analysis import Curve
    from trainyard.analysis.fits import Fitted


def fit_blocks(curve: Curve) -> list[Block]:
    """Return the table of laws, or one notice when all are refused for the same reason."""
    refused = [fit for fit in curve.fits if isinstance(fit, Refusal)]
    reasons = {(fit.reason, fit.needed) for fit in refused}
    if len(refused) == len(curve.fits) and len(reasons) == 1:
        names = listed([fit.name for fit in refused])
        text = (
            f"{curve.series.title}: no scaling law was fitted ({names} refused). "
            f"{refused[0].reason[0].upper()}{refused[0].reason[1:]}. "
            f"Needed: {refused[0].needed}."
        )
        return [Paragraph(text=text, tone="warn")]
    return [fit_table(curve)] if curve.fits else []


def fit_table(curve: Curve) -> Table:
    """Every law of the curve's mode: parameters with intervals, or why there are none."""
    rows = []
    for fit in curve.fits:
        rows += [_refused(fit)] if isinstance(fit, Refusal) else _fit_rows(fit)
    fitted = [fit for fit in curve.fits if isinstance(fit, Fit)]
    said = [f"{fit.name}: {fit.formula}." for fit in fitted]
    said += [f"{fit.name}: {fit.note}." for fit in fitted if fit.note]
    table = Table(
        caption=f"{curve.series.title}: scaling laws",
        columns=columns(
            "Law", "Parameter", ">Value", ">95 % interval", ">AICc", ">Lack of fit, p", "<Remark"
        ),
        rows=tuple(rows),
        note=" ".join(said) + " Fitted on the logarithms of run times, weighted by variance; "
        "profile intervals. The smaller AICc describes these points better; it does not prove a "
        "law.",
        csv="tables/fits.csv",
    )
    return compact(table)


def _refused(fit: Refusal) -> tuple[Cell, ...]:
    return cells(
        fit.name,
        "refused",
        NOTHING,
        NOTHING,
        NOTHING,
        NOTHING,
        f"{fit.reason}. Needed: {fit.needed}.",
        tone="quiet",
    )


def _fit_rows(fit: Fit) -> list[tuple[Cell, ...]]:
    rows = []
    for place, fitted in enumerate(fit.parameters):
        first = place == 0
        symbol = f"{fitted.parameter.symbol}, {fitted.parameter.meaning}"
        unit = "" if fitted.parameter.unit == "1" else f" {fitted.parameter.unit}"
        rows.append(
            cells(
                fit.name if first else "",
                symbol,
                NOTHING if fitted.value is None else number(fitted.value) + unit,
                _ends(fitted),
                number(fit.aicc) if first else "",
                p_value(fit.lack_of_fit) if first else "",
                "",
            )
        )
    return rows


def _ends(fitted: Fitted) -> str:
    if fitted.low is None and fitted.high is None:
        return "open"
    return interval(
        "open" if fitted.low is None else number(fitted.low),
        "open" if fitted.high is None else number(fitted.high),
    )


def projection_table(curve: Curve, fit: Fit) -> Table:
    """What the best law says beyond the measured ranks; never beside a measurement."""
    wanted = [fit.projected[len(fit.projected) // 2], fit.projected[-1]] if fit.projected else []
    strong = curve.series.mode == "strong"
    rows = [
        cells(
            f"{ranks:.0f}",
            number(1e3 * seconds),
            number(curve.series.batch * (1 if strong else ranks) / seconds),
        )
        for ranks, seconds in ((round(n), t) for n, t in wanted)
    ]
    return Table(
        caption=f"Projected, not measured: {curve.series.title.lower()} by {fit.name}",
        columns=columns("Ranks", ">Time per step, ms (projected)", ">Images/s (projected)"),
        rows=tuple(rows),
        note="Computed from the fitted law. Beyond the measured ranks a new limit may appear that "
        "no fit knows.",
    )
