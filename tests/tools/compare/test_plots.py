"""What is drawn, and that it is drawn where seeds, a search or a metric are missing."""

import pytest

from tools.compare.plan import Sweep, Variant
from tools.compare.plots import curve, draw
from tools.compare.runs import METRICS
from tools.compare.spread import spread
from tools.compare.table import Row


def row(label, point, *searched):
    runs = tuple(
        {"search_ms_per_step": s, "auc": 0.7, "gauc": None, "samples_per_s": 9.0} for s in searched
    )
    metrics = {name: spread([run.get(name) for run in runs]) for name in METRICS}
    return Row(Variant(label, (), point), tuple(range(len(runs))), (), metrics, {}, runs)


def test_a_curve_rises_along_the_swept_key_and_leaves_out_what_is_missing():
    rows = [
        *(row("muse", "100", 4.0, 6.0), row("muse", "9", 3.0), row("din", "9", 7.0)),
        *(row("muse", "50"), row("muse", "20", None), row("muse", "30", 0.0)),
    ]
    (first, last) = curve(rows, "muse", "search_ms_per_step")
    assert first == (9.0, 3.0, 0.0)
    assert last[:2] == (100.0, 5.0)
    assert round(last[2], 3) == 12.706


@pytest.mark.parametrize("sweep", [None, Sweep("s", "model.retrieved", ("9", "50"))])
def test_a_plot_is_a_picture(sweep, tmp_path):
    points = (None, None) if sweep is None else sweep.values
    rows = [row("muse", points[0], 4.0, 6.0), row("din", points[0], None), row("muse", points[1])]
    draw(rows, sweep, "made", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
