"""Plots of a report: time against each axis of its cases, and how near the roof they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kernels.benchmarks.report import stem

# Fewer points make no curve.
_LEAST_POINTS = 3


def write_plots(report: dict[str, Any], axes: dict[str, str], folder: Path) -> list[Path]:
    """Write PNGs `<op>_<device>_<axis>.png` and `<op>_<device>_roofline.png`.

    Args:
        report: of `report.as_json`.
        axes: fields of the shapes that cases vary, with their meaning.
        folder: to write to.

    Returns:
        paths of what was written; an axis along which fewer than three cases lie has no plot.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_type = _figure_type()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for axis, meaning in axes.items():
        curves = curves_along(report["cases"], axis)
        if curves:
            figure = figure_type(figsize=(7.5, 5), layout="constrained")
            _draw_times(figure, curves, axis, meaning)
            written.append(_save(figure, report, axis, folder))
    figure = figure_type(figsize=(7.5, 5), layout="constrained")
    _draw_roofline(figure, report)
    return [*written, _save(figure, report, "roofline", folder)]


def check_matplotlib() -> None:
    """Raise ImportError, saying what to install, if plots cannot be drawn."""
    _figure_type()


def _figure_type() -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"plots need matplotlib ({error}): pip install matplotlib, or --no-plots"
        ) from None

    def figure(**settings: Any) -> Any:
        made = Figure(**settings)
        FigureCanvasAgg(made)
        return made

    return figure


def curves_along(cases: list[dict[str, Any]], axis: str) -> dict[str, list[dict[str, Any]]]:
    """Cases that differ in `axis` alone, rising, by a label that says what they share."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        shared = {name: value for name, value in case["shapes"].items() if name != axis}
        groups.setdefault(_label(shared), []).append(case)
    return {
        label: sorted(group, key=lambda case: case["shapes"][axis])
        for label, group in groups.items()
        if len(group) >= _LEAST_POINTS
    }


def _label(shared: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else f"{name} {value}"
        for name, value in shared.items()
    )


def _draw_times(
    figure: Any, curves: dict[str, list[dict[str, Any]]], axis: str, meaning: str
) -> None:
    plot = figure.add_subplot()
    for number, (label, cases) in enumerate(curves.items()):
        color = f"C{number}"
        x = [case["shapes"][axis] for case in cases]
        plot.plot(x, [case["ms"]["median"] for case in cases], "o-", color=color, label=label)
        with_reference = [case for case in cases if case["reference_ms"]]
        plot.plot(
            [case["shapes"][axis] for case in with_reference],
            [case["reference_ms"]["median"] for case in with_reference],
            "s--",
            color=color,
            label="   reference sequence",
        )
        floor = [max(case["byte_floor_ms"], case["operation_floor_ms"]) for case in cases]
        plot.plot(x, floor, ":", color=color, label="   floor")
    plot.set(xscale="log", yscale="log", xlabel=meaning, ylabel="ms a call (median)")


def _draw_roofline(figure: Any, report: dict[str, Any]) -> None:
    """Operations a second against operations a byte; without operations, bytes a second."""
    plot = figure.add_subplot()
    cases, copy = report["cases"], report["copy_bytes_per_s"]
    counted = any(case["operations"] for case in cases)
    if counted:
        x = [case["operations"] / case["bytes_moved"] for case in cases]
        y = [case["operations_per_s"] for case in cases]
        peak = report["int8_matrix_operations_per_s"]
        roof_x = sorted({min(x) / 2, peak / copy, max(*x, peak / copy) * 2})
        roof_y = [min(copy * value, peak) for value in roof_x]
        plot.set(xlabel="operations a byte", ylabel="operations/s")
    else:
        x = [case["bytes_moved"] for case in cases]
        y = [case["bytes_per_s"] for case in cases]
        roof_x, roof_y = [min(x) / 2, max(x) * 2], [copy, copy]
        plot.set(xlabel="bytes to move", ylabel="bytes/s")
    plot.plot(roof_x, roof_y, "k-", label="measured roof: copy bandwidth, int8 matrix product")
    plot.plot(x, y, "o", label="cases")
    for case, at_x, at_y in zip(cases, x, y, strict=True):
        plot.annotate(
            case["name"], (at_x, at_y), xytext=(4, 3), textcoords="offset points", fontsize=6
        )
    plot.set(xscale="log", yscale="log")


def _save(figure: Any, report: dict[str, Any], name: str, folder: Path) -> Path:
    (plot,) = figure.axes
    commit = (report["git"]["commit"] or "unknown")[:12]
    plot.set_title(f"{report['op']}, {report['device']}, commit {commit}", fontsize=10)
    plot.grid(which="both", alpha=0.3)
    plot.legend(fontsize=7)
    path = folder / f"{stem(report)}_{name}.png"
    figure.savefig(path, dpi=150)
    return path
