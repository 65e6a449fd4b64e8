"""Reports as a user asks for them: what is in the file, how a browser shows it, what is refused."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from tools.compare_runs import main as compare_runs
from tools.report.__main__ import main

VOID = {"meta", "br", "hr", "img", "link", "input"}


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    """The report of two runs."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    main([*map(str, runs), "--out", str(out), "--resamples", "200", "--no-progress"])
    return out


class Reader(HTMLParser):
    """Cells of tables, attributes and visible text; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.names, self.attributes, self.rows = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        self.names.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs
        self.names.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += f" {data.strip()}" if self.rows[-1][-1] else data.strip()


@pytest.fixture(scope="module")
def page(report):
    return Reader(report.read_text())


def bare(path):
    """Predictions as they were before there were slice columns."""
    pl.read_parquet(path).select("sample", "user", "item", "label", "score").write_parquet(path)


def failure(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments), "--resamples", "100", "--no-progress"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_it_is_one_small_file_that_loads_nothing(report, page):
    text = report.read_text()
    assert len(text.encode()) < 3_000_000
    assert "script" not in page.names
    assert not {"img", "link", "iframe", "object", "embed", "image"} & set(page.names)
    links = [v for name, v in page.attributes if name.split(":")[-1] in ("src", "href", "srcset")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert re.findall(r"url\((?!#)|@import|https?:", text) == []
    assert "default-src 'none'" in text


def test_all_names_are_there_once_and_all_links_lead_somewhere(page):
    names = [value for name, value in page.attributes if name == "id"]
    assert len(set(names)) == len(names)
    links = {value for name, value in page.attributes if name == "href"}
    assert {link.removeprefix("#") for link in links} <= set(names)


def test_figures_take_every_colour_from_the_theme(report):
    figures = re.findall(r"<svg.*?</svg>", report.read_text(), re.DOTALL)
    assert len(figures) == 15
    for figure in figures:
        assert 'role="img" aria-label="' in figure
        assert not re.findall(r"#[0-9a-fA-F]{6}\b|rgb\(|black|white", figure)
        assert "var(--series-" in figure
        # Text that names no colour would be black in both themes.
        assert all("fill: var(--" in style for style in re.findall(r"<text[^>]*>", figure))


def test_every_figure_is_a_picture_too(report):
    pictures = sorted(path.name for path in report.with_name("report_png").iterdir())
    assert len(pictures) == 15
    assert {"calibration.png", "slice_best_similarity.png", "scores_2_muse.png"} < set(pictures)
    for name in pictures:
        assert (report.with_name("report_png") / name).read_bytes().startswith(b"\x89PNG")


def test_differences_are_those_of_compare_runs(page, runs, capsys):
    metrics = ("auc", "gauc", "log_loss", "pr_auc")
    compare_runs([*map(str, runs), "--resamples", "200", "--json", "--metrics", *metrics])
    told = json.loads(capsys.readouterr().out)["differences"]
    for name, found in zip(("AUC", "GAUC", "log loss", "PR-AUC"), told, strict=True):
        difference = f"{found['difference']:+.4f} {found['low']:+.4f} to {found['high']:+.4f}"
        row = [name, difference, "better", f"{found['a'][0]:.4f}", f"{found['b'][0]:.4f}"]
        assert row in page.rows
        words = f"{name} {found['difference']:+.4f}, 95% interval"
        assert any(words in text and "better (din " in text for text in page.text)


def test_slices_are_those_of_compare_runs(page, runs, capsys):
    columns = ("history_length", "target_train_samples", "target_has_vector", "best_similarity")
    # The column of what a search found is of the run that has one.
    extra = ["--slices-from", str(runs[1] / "predictions_test.parquet")]
    slices = ["--slice", *columns, "user_train_samples"]
    options = ["--metrics", "auc", "gauc", *slices, *extra, "--resamples", "200", "--json"]
    compare_runs([*map(str, runs), *options])
    found = json.loads(capsys.readouterr().out)
    assert f"{found['intervals']} intervals were looked at" in "".join(page.text)
    shown = {" ".join(row) for row in page.rows}
    cut = [d for d in found["differences"] if d["slice"].partition(" ")[0] != "user_train_samples"]
    undefined = [d for d in cut if d["verdict"] == "undefined"]
    # No behaviours: too few users for a GAUC.
    assert [(d["slice"], d["metric"]) for d in undefined] == [("history_length = 0", "gauc")]
    for difference in [d for d in cut[2:] if d not in undefined]:
        words = f"{difference['difference']:+.4f} {difference['low']:+.4f}"
        assert any(words in row for row in shown), difference["slice"]
    assert "By the user's activity: all rows are alike (7)." in page.text


def test_what_differs_is_told_first(page):
    rows = [row for row in page.rows if row[0] == "model.gsu"]
    # Among what differs, and in the whole configuration.
    assert rows == [["model.gsu", "none", "cosine"]] * 2
    assert [row for row in page.rows if row[0] == "seed"] == [["seed", "1", "1"]]
    assert ["versions.torch", "2.13.0", "2.13.0"] in page.rows
    assert ["muse", "4,000", "40", "2.5", "1,600", "–", "–", "1"] in page.rows


def test_text_of_the_data_is_escaped(make_run, tmp_path, monkeypatch):
    evil = "<script>alert(1)</script> $x$ \"'&amp;"
    run = make_run(tmp_path / evil.replace("/", "~"), gsu="cosine")
    environment = json.loads((run / "environment.json").read_text())
    environment |= {"store": evil, "commit": evil, evil: evil}
    (run / "environment.json").write_text(json.dumps(environment))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("stores/world", json.dumps(evil)))
    search = json.loads((run / "gsu_test.json").read_text())
    search["overlap"] = {evil: 0.5}
    (run / "gsu_test.json").write_text(json.dumps(search))
    # Fewer figures: without slices and curves.
    (run / "metrics.jsonl").write_text("")
    bare(run / "predictions_test.parquet")
    out = tmp_path / "out.html"
    main([str(run), "--out", str(out), "--resamples", "100", "--no-progress", "--no-png"])
    found = Reader(out.read_text())
    assert "script" not in found.names
    assert found.names.count("svg") == 5
    # Title, heading, store, commit and key as they are; in figures the run's and the search's name.
    assert "".join(found.text).count("alert(1)") >= 8
    assert not out.with_name("out_png").exists()


def test_what_is_missing_is_named_with_its_command(make_run, tmp_path):
    run = make_run(tmp_path / "old", gsu="cosine")
    (run / "gsu_test.json").unlink()
    (run / "metrics.jsonl").write_text("")
    bare(run / "predictions_test.parquet")
    (run / "evaluation_test.json").write_text(json.dumps({"samples": 1600, "auc": 0.123}))
    out = tmp_path / "out.html"
    main([str(run), "--out", str(out), "--resamples", "100", "--no-progress", "--no-png"])
    found = Reader(out.read_text())
    text = "".join(found.text)
    assert f"python -m tools.search_report {run} --split test" in text
    assert text.count(f"python ctr/evaluate.py run={run} split=test") == 5
    assert "no summary in its log" in text
    assert "No run was validated" in text
    assert "evaluation_test.json says AUC 0.123000" in text
    assert found.names.count("svg") == 2


PROBE = """<!doctype html><body style="margin:0">
<iframe id="wide" src="{page}" style="border:0;width:1200px;height:900px"></iframe>
<iframe id="phone" src="{page}" style="border:0;width:390px;height:800px"></iframe>
<pre id="found"></pre>
<script>
addEventListener("load", () => {{
  const found = {{}};
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument;
    for (const fold of page.querySelectorAll("details")) fold.open = true;
    const root = page.documentElement, paint = (e, what) => getComputedStyle(e)[what];
    found[frame.id] = {{
      reach: root.scrollWidth, room: root.clientWidth,
      tables: [...page.querySelectorAll("table")].filter(t => t.offsetHeight > 20).length,
      plots: [...page.querySelectorAll("svg")].map(s => s.getBoundingClientRect())
        .filter(b => b.width > 300 && b.height > 100).length,
      paper: paint(root, "backgroundColor"), ink: paint(page.body, "color"),
      text: paint(page.querySelector("svg text"), "fill"),
      letters: [...page.querySelectorAll("svg text")]
        .filter(t => t.textContent.trim()).map(t => t.getBoundingClientRect().height),
    }};
  }}
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script>"""


def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    return found


def luminance(colour):
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    share = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a, b):
    low, high = sorted(map(luminance, (a, b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("theme", "scheme"), [("light", 1), ("dark", 0)])
def test_a_browser_shows_it_wide_and_narrow(theme, scheme, report, tmp_path):
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(page=report.as_uri()))
    options = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync allow-file-access-from-files dump-dom "
        f"enable-logging=stderr v=0 virtual-time-budget=20000 user-data-dir={tmp_path / 'profile'} "
        f"blink-settings=preferredColorScheme={scheme}"
    )
    command = [browser(), *(f"--{option}" for option in options.split()), probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
    assert told, done.stderr[-2000:]
    found = json.loads(told[1])
    for size in ("wide", "phone"):
        seen = found[size]
        assert seen["reach"] <= seen["room"], size
        assert seen["tables"] == 10
        assert seen["plots"] == 15
        assert (luminance(seen["paper"]) > 0.5) == (theme == "light")
        assert contrast(seen["paper"], seen["ink"]) > 7
        assert contrast(seen["paper"], seen["text"]) > 4.5
        # Letters of a figure are as large on a phone as text that can be read.
        assert min(seen["letters"]) > 8.5, size


def test_what_cannot_be_reported(runs, make_run, tmp_path, capsys):
    din, muse = runs
    out = tmp_path / "out.html"
    to = ("--out", out)
    assert "splits there: test" in failure(capsys, din, "--split", "valid", *to)
    assert "is this the folder of a run?" in failure(capsys, tmp_path, *to)
    assert "given twice" in failure(capsys, din, din, *to)
    assert "at most 8" in failure(capsys, *[din] * 9, *to)
    other = make_run(tmp_path / "other", store="bb22")
    error = failure(capsys, din, other, *to)
    assert "world (bb22)" in error
    assert "world (aa11)" in error
    few = make_run(tmp_path / "few")
    rows = pl.read_parquet(few / "predictions_test.parquet")
    rows.filter(pl.col("sample") >= 10).write_parquet(few / "predictions_test.parquet")
    assert "10 keys are only in" in failure(capsys, muse, few, *to)
    (few / "predictions_test.parquet").unlink()
    assert "python ctr/evaluate.py run=" in failure(capsys, few, *to)
    assert list(tmp_path.glob("out*")) == []


def test_pictures_of_an_earlier_report_are_replaced(report, runs, make_run, tmp_path):
    out = tmp_path / "report.html"
    shutil.copytree(report.with_name("report_png"), tmp_path / "report_png")
    (tmp_path / "report_png" / "calibration.png").write_text("old")
    run = make_run(tmp_path / "run")
    bare(run / "predictions_test.parquet")
    (run / "metrics.jsonl").write_text("")
    main([str(run), "--out", str(out), "--resamples", "100", "--no-progress"])
    left = {path.name for path in (tmp_path / "report_png").iterdir()}
    assert left == {"calibration.png", "scores_1_run.png"}
    assert (tmp_path / "report_png" / "calibration.png").stat().st_size > 1000
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report_png", "run"}


def test_nothing_is_written_over_what_is_not_a_report(runs, tmp_path, capsys):
    (tmp_path / "out_png").mkdir()
    (tmp_path / "out_png" / "photo.png").write_text("mine")
    assert "holds 'photo.png'" in failure(capsys, runs[0], "--out", tmp_path / "out.html")
    assert "is a folder" in failure(capsys, runs[0], "--out", tmp_path)
    assert "is a file" in failure(
        capsys, runs[0], "--out", tmp_path / "o.html", "--png", tmp_path / "out_png" / "photo.png"
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["out_png", "photo.png"]
