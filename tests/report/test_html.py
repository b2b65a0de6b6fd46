"""The report page: complete, well-formed, safe with any text, and whole when pieces are missing."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

from minimind.errors import UserError
from minimind.report.html import write_report

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>' $style ${chat} &amp; \x00\x1b[31m \ud800"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Checks that tags nest, and collects tags, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


REPORT = {
    "stages": {
        "random": {"seconds": 3.2, "tokens": 0, "bpb": 4.25, "scores": {"facts_en": 0.0, "tools": 0.0}, "model": "r"},
        "pretrain": {
            "seconds": 312.0,
            "tokens": 4_505_600,
            "bpb": 0.8125,
            "scores": {"facts_en": 0.61, "tools": 0.0},
            "model": "p",
        },
        "sft": {
            "seconds": 93.0,
            "tokens": 1_000_000,
            "bpb": None,
            "scores": {"facts_en": 0.99, "tools": 0.625},
            "model": "runs/demo/sft/model",
        },
    },
    "model": "runs/demo/sft/model",
    "parameters": 2_812_345,
}
SAMPLES = [
    {"question": "Where does Ann live?", "expected": "Rome.", "answers": {"random": "", "sft": " Rome.\n"}},
    {"question": "小明住在哪里？", "expected": "杭州。", "answers": {"random": "的的", "sft": "苏州。"}},
    {"question": "Hello?", "expected": None, "answers": {"sft": "Hi."}},
]


def metrics(run, lines):
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return run


def training(count=40):
    for step in range(1, count + 1):
        yield {"step": step, "tokens": step * 4096, "loss": 8 / step, "lr": 1e-3, "tokens_per_second": 14_000.0}
        if step % 10 == 0:
            yield {"step": step, "tokens": step * 4096, "valid_bpb": 1.0 + 1 / step}


def written(out, *arguments, **options):
    path = write_report(out, *arguments, **options)
    assert path == out / "report.html"
    assert [item.name for item in out.iterdir() if item.is_file()] == ["report.html"]
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


def test_the_whole_page(tmp_path):
    run = metrics(tmp_path / "pretrain", training())
    html, page = written(tmp_path / "out", REPORT, {"pretrain": run}, SAMPLES, ["made on two cores"])
    for expected in ("2.81 M", "5.51 M", "6 min 48 s", "0.812", "61%", "62%", "made on two cores", "小明住在哪里？"):
        assert expected in page.text
    assert "minimind chat runs/demo/sft/model" in page.text
    assert "mean nothing" not in page.text
    assert page.tags.count("svg") == 1 + 4  # bars; loss, validation, learning rate, speed
    assert page.text.count("每字节比特数") >= 2
    assert "nan" not in html
    assert "inf," not in html


def test_nothing_comes_from_the_network(tmp_path):
    html, page = written(tmp_path, REPORT, {}, SAMPLES)
    assert "http" not in html.replace("http-equiv", "")
    assert "url(" not in html
    assert "@import" not in html
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "prefers-color-scheme: dark" in html


def test_any_text_is_only_text(tmp_path):
    report = {
        "stages": {HOSTILE: {"seconds": 1.0, "tokens": 2, "bpb": 3.0, "scores": {HOSTILE: 0.5}, "model": HOSTILE}},
        "model": HOSTILE,
    }
    samples = [{"question": HOSTILE, "expected": HOSTILE, "answers": {HOSTILE: HOSTILE}}]
    run = metrics(tmp_path / "run", training())
    html, page = written(tmp_path / "out", report, {HOSTILE: run}, samples, [HOSTILE])
    assert not {"script", "img"} & set(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert page.text.count("$style ${chat} &amp;") >= 8
    assert "\x00" not in html
    assert "\x1b" not in html


def test_answers_are_marked_where_the_right_one_is_known(tmp_path):
    html, _ = written(tmp_path, REPORT, {}, SAMPLES)
    ann, ming, hello = html.split('<div class="talk">')[1:]
    assert ann.count('class="right"') == ann.count('class="wrong"') == 1
    assert "said nothing" in ann
    assert ming.count('class="wrong"') == 2
    assert '<span lang="zh" dir="auto">苏州。</span>' in ming
    assert 'class="right"' not in hello
    assert 'class="wrong"' not in hello


def test_a_quick_run_says_that_its_scores_mean_nothing(tmp_path):
    _, page = written(tmp_path, {**REPORT, "quick": True}, {}, SAMPLES)
    assert "its scores mean nothing" in page.text
    assert "分数没有意义" in page.text


@pytest.mark.parametrize(
    "report",
    [
        {"stages": {}, "model": "m"},
        {"stages": {"random": {"model": "m"}}, "model": "m"},
        {"stages": {"sft": {"seconds": None, "tokens": None, "bpb": None, "scores": None, "model": "m"}}, "model": "m"},
        {"stages": {"sft": {"seconds": math.nan, "bpb": math.inf, "scores": {"x": math.nan}}}, "model": "m"},
        {"stages": {"a": {"scores": {"x": 0.5}}, "b": {"scores": {"y": 0.5}}}, "model": "m"},
    ],
)
def test_missing_pieces_leave_a_page(tmp_path, report):
    _, page = written(tmp_path, report, {"random": tmp_path / "absent"}, [])
    assert "Nothing was recorded here" in page.text
    assert "minimind chat m" in page.text
    assert "nan" not in page.text
    assert "None" not in page.text


def test_broken_figures_in_a_run(tmp_path):
    lines = [
        {"step": 1, "tokens": 10, "loss": math.nan, "lr": None, "tokens_per_second": math.inf},
        {"step": 2, "tokens": 20, "loss": 3.0, "lr": 1e-3, "tokens_per_second": 5.0},
        {"step": 3, "loss": math.nan},
    ]
    html, page = written(tmp_path / "out", REPORT, {"sft": metrics(tmp_path / "run", lines)}, [])
    drawings = "".join(re.findall(r"<svg.*?</svg>", html[html.index("<h2>Loss") :], re.DOTALL))
    assert page.tags.count("circle") == 3
    assert "inf" not in drawings
    assert "nan" not in drawings


def test_a_folder_with_a_space_is_quoted(tmp_path):
    _, page = written(tmp_path, {**REPORT, "model": "my runs/model"}, {}, [])
    assert 'minimind chat "my runs/model"' in page.text


def test_an_older_page_is_replaced(tmp_path):
    (tmp_path / "report.html").write_text("old", encoding="utf-8")
    html, _ = written(tmp_path, REPORT, {}, [])
    assert html.startswith("<!doctype html>")


def test_an_unwritable_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"report\.html: cannot be written"):
        write_report(tmp_path / "file", REPORT, {}, [])
