"""The page of answers: everything escaped, self-contained, complete."""

from html.parser import HTMLParser

import pytest

from minimind.errors import UserError
from minimind.eval.judge import CRITERIA
from minimind.report.side_by_side import write_side_by_side

EVIL = '<script>alert("x")</script> $style & \x00'


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def test_all_answers_are_there_and_nothing_runs(tmp_path):
    answers = {f"model {EVIL}": [EVIL, "你好"], "other": ["fine", "  "]}
    page = read(write_side_by_side(tmp_path / "deep" / "page.html", [f"why {EVIL}", "谁？"], answers))
    assert "script" not in page.tags
    assert page.text.count('alert("x")') == 4
    for text in ("你好", "fine", "谁？", "said nothing"):
        assert text in page.text
    assert not [value for name, value in page.attributes if name in ("src", "href") or name.startswith("on")]
    assert ("http-equiv", "Content-Security-Policy") in page.attributes
    assert "prefers-color-scheme: dark" in page.text
    assert "Grades" not in page.text


def test_a_judgement_is_shown(tmp_path):
    grade = dict.fromkeys(CRITERIA, 7)
    judgement = {
        "grades": {"x": [grade, None], "y": [grade | {"logic": 2.5}, grade]},
        "mean": {"x": dict.fromkeys(CRITERIA, 7.0), "y": dict.fromkeys(CRITERIA, None)},
        "pairs": [{"first": "x", "second": "y", "wins": 11, "losses": 12, "ties": 13, "turned": 14, "unclear": 15}],
    }
    answers = {"x": ["a", "b"], "y": ["c", "d"]}
    page = read(write_side_by_side(tmp_path / "page.html", ["1", "2"], answers, judgement, f"judge {EVIL}"))
    assert "script" not in page.tags
    for text in ("Grades", "Pairs", "x – y", "logic 2.5", "11", "12", "13", "14", "15", "–", "judge <script>"):
        assert text in page.text


def test_a_page_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        write_side_by_side(tmp_path / "file" / "page.html", ["1"], {"x": ["a"]})
