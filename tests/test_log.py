"""The log, `docs/log/`: every finding is on one short page of the same form, and in the index, newest first."""

import re
import unicodedata
from pathlib import Path

import pytest

LOG = Path(__file__).parents[1] / "docs" / "log"
INDEX = LOG / "README.md"
PAGES = sorted(set(LOG.glob("*.md")) - {INDEX})
LINE = re.compile(r"^- (\S+) (\w+): \[(.+)\]\((.+)\)$", re.MULTILINE)
DATE = r"\d{4}-\d\d-\d\d"
PAGE = re.compile(
    rf"# (?P<title>.+)\n\nDate: (?:{DATE}, )*(?P<date>{DATE})\n\n## Question\n\n.+?"
    r"\n\n## Set-up\n\n.+?\n\n## Measured\n\n.+?\n\n## Verdict\n\n\*\*(?P<verdict>Kept|Dropped|Open)\b.+",
    re.DOTALL,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_its_form_and_its_line_in_the_index(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    form = PAGE.fullmatch(text)
    assert form, f"{page.name}: see the form in docs/log/README.md"
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Question", "Set-up", "Measured", "Verdict"]
    lines = [line for line in LINE.findall(INDEX.read_text(encoding="utf-8")) if line[3] == page.name]
    assert lines == [(form["date"], form["verdict"].lower(), form["title"], page.name)]


def test_the_index_is_newest_first() -> None:
    dates = [date for date, *_ in LINE.findall(INDEX.read_text(encoding="utf-8"))]
    assert dates
    assert dates == sorted(dates, reverse=True)


@pytest.mark.parametrize("page", [INDEX, *PAGES], ids=lambda page: page.stem)
def test_lines_fit(page: Path) -> None:
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        columns = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)
        assert columns <= 110, f"{page.name}:{number}: {columns} columns"
