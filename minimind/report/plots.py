"""Line plots and grouped bars as inline SVG, drawn by hand: no library, no script, no network.

Colours and fonts come from the page's style sheet by class name, so one drawing serves light and dark.
A figure that is NaN or infinite is a gap in its line; a drawing never holds a number that is not finite.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 32, 40
MAX_POINTS = 300
TINY, HUGE = 1e-100, 1e100  # beyond these the arithmetic of a scale under- or overflows
BAR, BAR_GAP, GROUP_TITLE, GROUP_GAP, VALUE = 14, 5, 24, 14, 52
CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if code not in (9, 10, 13)}

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend, its (x, y) points in order, and whether it stays in the background."""

    name: str
    points: Sequence[Point]
    faint: bool = False


def lines(series: Sequence[Series], x_label: str, y_label: str, zero: bool = False) -> str:
    """Draw a line plot with axes, ticks and, for more than one series, a legend.

    Args:
        series: the lines, the last on top.
        x_label: unit of the horizontal axis, which starts at 0.
        y_label: unit of the vertical axis.
        zero: whether the vertical axis starts at 0 too.

    Returns:
        An `<svg>` element, or `""` when no point is finite.
    """
    drawn = [Series(one.name, thin(one.points), one.faint) for one in series]
    finite = [point for one in drawn for point in one.points if _finite(point)]
    if not finite:
        return ""
    x_axis = Axis.around([x for x, _ in finite] + [0.0], LEFT, WIDTH - RIGHT, count=4)
    y_axis = Axis.around([y for _, y in finite] + [0.0] * zero, HEIGHT - BOTTOM, TOP, count=4, whole=True)

    parts = [_text(0, 14, y_label, "unit"), _text(WIDTH - RIGHT, HEIGHT - 6, x_label, "unit end")]
    for y, label in y_axis.ticks():
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 7, y + 4, label, "tick end"))
    for x, label in x_axis.ticks():
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'
        )
        parts.append(_text(x, HEIGHT - BOTTOM + 17, label, "tick middle" if x < WIDTH - 30 else "tick end"))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    parts += [_line(one, x_axis, y_axis) for one in drawn]
    if len(drawn) > 1:
        parts += _legend(drawn)
    return _svg(HEIGHT, f"{y_label} over {x_label}: " + ", ".join(one.name for one in drawn), parts)


def bars(groups: Mapping[str, Mapping[str, float | None]]) -> str:
    """Draw horizontal bars of fractions (0 to 1), one group under its title for each key, the last bar the strongest.

    Args:
        groups: title -> {bar's name -> fraction, or None where it was not measured}.

    Returns:
        An `<svg>` element, or `""` when there is no bar.
    """
    names = [name for group in groups.values() for name in group]
    if not names:
        return ""
    left = min(130, 16 + 8 * max(len(name) for name in names))
    room = WIDTH - left - VALUE
    parts, y = [], 0.0
    for title, group in groups.items():
        parts.append(_text(0, y + 15, title, "group"))
        y += GROUP_TITLE
        for index, (name, fraction) in enumerate(group.items()):
            known = fraction is not None and math.isfinite(fraction)
            width = room * min(1.0, max(0.0, fraction)) if fraction is not None and known else 0.0
            strength = 0.25 + 0.75 * (index + 1) / len(group)
            label = f"{fraction:.0%}" if known else "–"
            parts.append(_text(left - 8, y + BAR - 3, name if len(name) < 16 else name[:14] + "…", "tick end"))
            parts.append(f'<rect class="track" x="{left}" y="{y:.1f}" width="{room}" height="{BAR}" rx="2"/>')
            parts.append(
                f'<rect class="bar" x="{left}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" rx="2" '
                f'fill-opacity="{strength:.2f}"><title>{safe(f"{title}, {name}: {label}")}</title></rect>'
            )
            parts.append(_text(left + room + 8, y + BAR - 3, label, "value"))
            y += BAR + BAR_GAP
        y += GROUP_GAP
    return _svg(math.ceil(y - GROUP_GAP), "share right: " + ", ".join(groups), parts)


@dataclass(frozen=True)
class Axis:
    """A linear scale from the values `low`..`high` to the pixels `start`..`stop`, with a tick every `step`."""

    low: float
    high: float
    start: float
    stop: float
    step: float

    @classmethod
    def around(cls, values: Iterable[float], start: float, stop: float, count: int, whole: bool = False) -> "Axis":
        """Span `values` with about `count` ticks at round numbers: 1, 2 or 5 times a power of ten.

        The axis begins on a tick, and with `whole` it ends on one.
        """
        values = list(values)
        low, high = min(values), max(values)
        largest = max(abs(low), abs(high))
        if high - low <= max(1e-9 * largest, TINY):  # constant: nothing to scale by but the value itself
            margin = 0.1 * largest if largest > TINY else 1.0
            low, high = low - margin, high + margin
        rough = (high - low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next((power * round_number for round_number in (1, 2, 5) if power * round_number >= rough), power * 10)
        if whole:
            high = math.ceil(high / step - 1e-9) * step
        return cls(math.floor(low / step + 1e-9) * step, high, start, stop, step)

    def pixel(self, value: float) -> float:
        """Where `value` lies."""
        return self.start + (self.stop - self.start) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """The (pixel, label) of every tick."""
        count = math.floor((self.high - self.low) / self.step + 1e-9)
        values = [self.low + index * self.step for index in range(count + 1)]
        largest = max(abs(value) for value in values)
        divisor, suffix = next((pair for pair in _UNITS if largest >= pair[0]), (1.0, ""))
        step = self.step / divisor
        if step < 1e-4 or largest >= 1e15:
            return [(self.pixel(value), f"{value:.3g}") for value in values]
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        labels = [f"{value / divisor:.{decimals}f}{suffix}" if value else "0" for value in values]
        return [(self.pixel(value), label) for value, label in zip(values, labels, strict=True)]


_UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))


def safe(text: object) -> str:
    """Escape `text` for HTML; a control character, which an untrained model may well say, becomes U+FFFD."""
    return escape(str(text).translate(CONTROL))


def thin(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """Average neighbours until at most `most` points are left; a stretch without a finite value stays a gap."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    buckets = [points[start : start + size] for start in range(0, len(points), size)]
    return [_mean(bucket) for bucket in buckets]


def smooth(points: Sequence[Point]) -> list[Point]:
    """The centred running mean over a twelfth of the points, each at its own x."""
    reach = len(points) // 24
    means = [_mean(points[max(0, index - reach) : index + reach + 1]) for index in range(len(points))]
    return [(x, mean) for (x, _), (_, mean) in zip(points, means, strict=True)]


def _mean(points: Sequence[Point]) -> Point:
    finite = [point for point in points if _finite(point)]
    if not finite:
        return points[0][0], math.nan
    return sum(x for x, _ in finite) / len(finite), sum(y for _, y in finite) / len(finite)


def _finite(point: Point) -> bool:
    """Whether a point can be drawn (a comparison with NaN is false)."""
    return all(abs(value) < HUGE for value in point)


def _line(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    kind = "faint" if series.faint else "strong"
    parts = []
    for finite, stretch in groupby(series.points, _finite):
        if not finite:
            continue
        pixels = [f"{x_axis.pixel(x):.1f},{y_axis.pixel(y):.1f}" for x, y in stretch]
        if len(pixels) == 1:
            x, y = pixels[0].split(",")
            parts.append(f'<circle class="dot {kind}" cx="{x}" cy="{y}" r="3"/>')
        else:
            parts.append(f'<polyline class="line {kind}" points="{" ".join(pixels)}"/>')
    return "".join(parts)


def _legend(series: Sequence[Series]) -> list[str]:
    widths = [46 + 7 * len(one.name) for one in series]
    parts, x = [], WIDTH - sum(widths) + 22.0
    for one, width in zip(series, widths, strict=True):
        kind = "faint" if one.faint else "strong"
        parts.append(f'<line class="line {kind}" x1="{x:.0f}" x2="{x + 18:.0f}" y1="10" y2="10"/>')
        parts.append(_text(x + 24, 14, one.name, "tick"))
        x += width
    return parts


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{safe(text)}</text>'


def _svg(height: int, label: str, parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{safe(label)}">{"".join(parts)}</svg>'
