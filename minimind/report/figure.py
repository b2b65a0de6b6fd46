"""A curve as a picture of its own, to put into a text or a talk: PNG or SVG, by the file's ending."""

import math
import re
from collections.abc import Sequence
from io import BytesIO
from itertools import count
from pathlib import Path

from minimind.errors import UsageError, UserError
from minimind.files import atomic_write, check_file
from minimind.report.plots import Axis, Series, lines

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito: for every kind of eye
STYLE = """
svg { background: #fff; font: 9px sans-serif }
text { fill: #444 } .end { text-anchor: end } .middle { text-anchor: middle }
.grid { stroke: #ddd } .axis { stroke: #888 } .line { fill: none; stroke-width: 2 }
"""
MARGIN = 8
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, SIZE = 1200, 720, 110, 40, 80, 90, 24


def check(path: str | Path) -> None:
    """Refuse a file that `save` could not write, before anything is computed.

    Raises:
        UsageError: another ending than .png and .svg.
        UserError: the library that draws PNG is not there; the file could not be written.
    """
    if Path(path).suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {path}: the picture's name must end in .png or .svg")
    if Path(path).suffix == ".png":
        try:
            import PIL  # noqa: F401
        except ImportError:
            raise UserError("drawing a PNG needs Pillow; pip install 'minimind[plot]', or name an .svg file") from None
    check_file(Path(path))


def save(path: str | Path, series: Sequence[Series], x_label: str, y_label: str, zero: bool = False) -> None:
    """Draw `series`, none of which may have gaps, and write them to `path`; `zero`: both axes start at 0.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix == ".png":
        content = _png(series, x_label, y_label, zero)
    else:
        content = _svg(series, x_label, y_label, zero).encode("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _svg(series: Sequence[Series], x_label: str, y_label: str, zero: bool) -> str:
    """The report's drawing with its lines told apart by colour."""
    number = count()

    def coloured(match: re.Match[str]) -> str:
        colour = COLOURS[next(number) % len(series) % len(COLOURS)]  # the lines in order, then the legend in order
        return f'{match[0]} style="{"fill" if match[1] == "dot" else "stroke"}:{colour}"'

    drawing = re.sub(r'class="(line|dot) strong"', coloured, lines(series, x_label, y_label, zero))
    head, body = drawing.split(">", 1)
    head = re.sub(r'viewBox="0 0 (\d+) (\d+)"', _with_a_margin, head)
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" width="800"')
    return f"{head}><style>{STYLE}</style>{body}\n"


def _with_a_margin(box: re.Match[str]) -> str:
    return f'viewBox="{-MARGIN} {-MARGIN} {int(box[1]) + 2 * MARGIN} {int(box[2]) + 2 * MARGIN}"'


def _png(series: Sequence[Series], x_label: str, y_label: str, zero: bool) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(SIZE)
    points = [point for one in series for point in one.points]
    x_axis = Axis.around([0.0, *(x for x, _ in points)], LEFT, WIDTH - RIGHT, count=6)
    y_axis = Axis.around([y for _, y in points] + [0.0] * zero, HEIGHT - BOTTOM, TOP, count=5, whole=True)
    for y, label in y_axis.ticks():
        pen.line([(LEFT, y), (WIDTH - RIGHT, y)], "#dddddd", 2)
        pen.text((LEFT - 12, y), label, "#444444", font, anchor="rm")
    for x, label in x_axis.ticks():
        pen.line([(x, HEIGHT - BOTTOM), (x, HEIGHT - BOTTOM + 8)], "#888888", 2)
        pen.text((x, HEIGHT - BOTTOM + 14), label, "#444444", font, anchor="mt")
    pen.line([(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], "#888888", 2)
    pen.text((16, 16), y_label, "#444444", font)
    pen.text((WIDTH - RIGHT, HEIGHT - 16), x_label, "#444444", font, anchor="rs")
    right = float(WIDTH - RIGHT)
    for one, colour in reversed(list(zip(series, COLOURS, strict=False))):
        pixels = [(x_axis.pixel(x), y_axis.pixel(y)) for x, y in one.points if math.isfinite(y)]
        pen.line(pixels, colour, 4, joint="curve")
        for x, y in pixels if len(pixels) <= 20 else []:
            pen.ellipse((x - 6, y - 6, x + 6, y + 6), colour)
        pen.text((right, 16), one.name, colour, font, anchor="ra")
        right -= pen.textlength(one.name, font) + 30
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
