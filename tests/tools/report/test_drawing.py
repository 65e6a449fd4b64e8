"""Figures for a page: in the colours of its theme, and with text that stays text."""

import re

import pytest

from tools.report.drawing import COLOURS, SERIES, Sketch, legend, render, short, slug

LABEL = 'a <b> & "c" $x$ #2a6bb0 id="m1234567890"'


def draw(figure):
    plot = figure.add_subplot()
    for colour, label in zip(SERIES, (LABEL, "second", "third"), strict=False):
        plot.plot([0, 1, 2], [0, 1.123456789, 4], "o-", color=colour, label=label)
    plot.set(xlabel="x", ylabel="y")
    legend(plot)


@pytest.fixture(scope="module")
def plot():
    return render(Sketch("some-name", "Title <i>", 'Caption "quoted"', draw))


def test_no_two_light_colours_are_the_same():
    assert len({light for light, _ in COLOURS.values()}) == len(COLOURS)


def test_colours_are_variables_and_text_is_as_it_was(plot):
    outside_text = re.sub(r">[^<]*<", "><", plot.svg)
    assert not re.findall(r"#[0-9a-f]{6}\b", outside_text)
    assert "var(--series-1)" in plot.svg
    assert 'a &lt;b&gt; &amp; "c" $x$ #2a6bb0 id="m1234567890"' in plot.svg
    assert 'aria-label="Title &lt;i&gt;. Caption &quot;quoted&quot;"' in plot.svg
    assert "xmlns" not in plot.svg
    assert not re.findall(r"\d\.\d{3,}", outside_text)


def test_names_are_those_of_the_figure(plot):
    names = re.findall(r' id="([^"]+)"', re.sub(r">[^<]*<", "><", plot.svg))
    assert names
    assert all(name.startswith("some-name-") for name in names)
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', plot.svg)
    assert {a or b for a, b in used} == set(names)


def test_the_same_figure_is_the_same_text(plot):
    assert render(Sketch("some-name", "Title <i>", 'Caption "quoted"', draw)).svg == plot.svg
    assert plot.png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (950, "950"), (1500, "1.5k"), (24e6, "24M"), (3e9, "3G")]
)
def test_short_numbers(value, text):
    assert short(value) == text


def test_slugs_are_names_of_files():
    assert slug("../a b/变<c>") == "a-b-c"
