"""A plot of `minimind.report.plots` as an SVG file of its own, its lines told apart by colour."""

import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from minimind.report.plots import Series, lines

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito: for every kind of eye
STYLE = """
svg { background: #fff; font: 9px sans-serif; padding: 8px }
text { fill: #444 } .end { text-anchor: end } .middle { text-anchor: middle }
.grid { stroke: #ddd } .axis { stroke: #888 } .line { fill: none; stroke-width: 2 }
"""


def save(path: Path, series: Sequence[Series], x_label: str, y_label: str) -> None:
    """Draw `series`, none of which may have gaps, and write them to `path`."""
    number = count()

    def coloured(match: re.Match[str]) -> str:
        colour = COLOURS[next(number) % len(series) % len(COLOURS)]  # the lines in order, then the legend in order
        return f'{match[0]} style="{"fill" if match[1] == "dot" else "stroke"}:{colour}"'

    drawing = re.sub(r'class="(line|dot) strong"', coloured, lines(series, x_label, y_label))
    head, body = drawing.split(">", 1)
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" width="800"')
    path.write_text(f"{head}><style>{STYLE}</style>{body}\n", encoding="utf-8", newline="\n")
