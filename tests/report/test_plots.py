"""Drawings: every number finite and inside the picture, whatever the figures are."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.report.plots import HEIGHT, WIDTH, Axis, Series, bars, lines, smooth, thin

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
GEOMETRY = ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height", "points")


def parsed(svg, height=HEIGHT):
    """The drawing as XML, its every coordinate checked."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        for name in GEOMETRY:
            for number in re.split(r"[ ,]+", element.get(name, "0")):
                assert NUMBER.fullmatch(number), f"{name}={number}"
                assert -1 <= float(number) <= max(WIDTH, height) + 1
    return root


def labels(root, kind="tick"):
    return [text.text for text in root.iter("text") if kind in text.get("class").split()]


@pytest.mark.parametrize(
    "points",
    [
        [(5.0, 2.0)],
        [(0.0, 0.0)],
        [(1.0, 3.0), (2.0, 3.0), (3.0, 3.0)],
        [(4.0, 1.0), (4.0, 2.0)],
        [(0.0, math.nan), (1.0, 1.0), (2.0, math.inf), (3.0, 2.0), (4.0, 1.5)],
        [(1.0, 1e300), (2.0, 1.0)],
        [(1.0, 1e-30), (2.0, 3e-30)],
        [(1.0, 1e16), (2.0, 1e16 + 2)],
        [(1.0, -5.0), (2.0, 5.0)],
    ],
)
@pytest.mark.parametrize("zero", [False, True])
def test_degenerate_lines_are_drawn(points, zero):
    root = parsed(lines([Series("a", points)], "tokens", "loss", zero))
    assert len(list(root.iter("polyline"))) + len(list(root.iter("circle"))) > 0
    assert len(labels(root)) >= 2


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e12), st.floats()), max_size=40))
def test_any_figures_give_a_drawing(points):
    svg = lines([Series("a", points)], "tokens", "loss")
    assert (svg == "") == (not any(math.isfinite(y) and abs(y) < 1e100 for _, y in points))
    if svg:
        parsed(svg)


def test_nothing_finite_draws_nothing():
    assert lines([], "x", "y") == ""
    assert lines([Series("a", []), Series("b", [(1.0, math.nan)])], "x", "y") == ""
    assert bars({}) == bars({"facts": {}}) == ""


def test_a_value_that_is_not_finite_is_a_gap():
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (3.0, 2.0), (4.0, 1.0), (5.0, math.inf), (6.0, 1.0)]
    root = parsed(lines([Series("a", points)], "x", "y"))
    assert [len(line.get("points").split()) for line in root.iter("polyline")] == [2, 2]
    assert len(list(root.iter("circle"))) == 1


def test_a_higher_value_lies_higher():
    root = parsed(lines([Series("a", [(0.0, 1.0), (10.0, 5.0)])], "x", "y"))
    (first, last) = (tuple(map(float, p.split(","))) for p in next(root.iter("polyline")).get("points").split())
    assert first[0] < last[0]
    assert first[1] > last[1]


def test_ticks_are_round_numbers_that_differ():
    def ticks(*values):
        return [label for _, label in Axis.around(values, 0, 100, count=4).ticks()]

    assert ticks(0, 8) == ["0", "2", "4", "6", "8"]
    assert ticks(0, 4.5e6) == ["0", "2M", "4M"]
    assert ticks(0, 0.003) == ["0", "0.001", "0.002", "0.003"]
    assert ticks(0, 1.5e-5) == ["0", "5e-06", "1e-05", "1.5e-05"]
    assert ticks(13_200, 14_900) == ["13.0k", "13.5k", "14.0k", "14.5k"]


def test_a_legend_names_several_series_only():
    one = [Series("logged", [(0.0, 1.0), (1.0, 2.0)])]
    assert "logged" not in labels(parsed(lines(one, "x", "y")))
    two = [*one, Series("mean", [(0.0, 1.0), (1.0, 1.0)])]
    assert {"logged", "mean"} <= set(labels(parsed(lines(two, "x", "y"))))


def test_bars_are_as_long_as_their_fractions():
    svg = bars({"facts": {"random": 0.0, "pretrain": 0.5, "sft": 1.0}, "tools": {"sft": None, "dpo": math.nan}})
    root = parsed(svg, height=400)
    rects = [rect for rect in root.iter("rect") if rect.get("class") == "bar"]
    track = float(next(root.iter("rect")).get("width"))
    assert [float(rect.get("width")) / track for rect in rects] == pytest.approx([0, 0.5, 1, 0, 0], abs=0.01)
    assert labels(root, "value") == ["0%", "50%", "100%", "–", "–"]
    assert labels(root, "group") == ["facts", "tools"]


def test_names_are_escaped():
    hostile = '</svg><script>alert("x")</script>&'
    assert "<script" not in bars({hostile: {hostile: 0.5}})
    points = [(0.0, 1.0), (1.0, 2.0)]
    svg = lines([Series(hostile, points), Series("b", points)], hostile, hostile)
    assert "<script" not in svg
    assert hostile in labels(parsed(svg))


def test_thinning_keeps_means_and_gaps():
    points = [(float(x), 2.0 * x) for x in range(1000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert thinned[0] == (4.5, 9.0)
    assert math.isnan(thin([(0.0, math.nan), (1.0, math.nan), (2.0, 1.0), (3.0, math.nan)], 2)[0][1])


def test_smoothing_keeps_a_straight_line_and_calms_a_noisy_one():
    straight = [(float(x), 3.0) for x in range(50)]
    assert smooth(straight) == straight
    noisy = [(float(x), float(x % 2)) for x in range(200)]
    assert all(abs(y - 0.5) < 0.1 for _, y in smooth(noisy)[10:-10])
