"""The concept pages: every snippet runs, prints what the page says, and every link points at what it names."""

import json
import os
import re
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted((DOCS / "en").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(?:#L(\d+))?\)")

RUNNER = Path(__file__).with_name("pages.py")


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def steps(page: Path) -> list[tuple[str, str, str | None]]:
    """Blocks to run, each with the output that directly follows it on the page, if any."""
    text = page.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    result = []
    for block, after in zip_longest(found, found[1:]):
        if block[1] in ("python", "bash"):
            follows = after is not None and after[1] == "text" and not text[block.end() : after.start()].strip()
            result.append((block[1], block[2], after[2] if after and follows else None))
    return result


@pytest.mark.parametrize("page", [p for p in [ROOT / "README.md", *PAGES] if steps(p)], ids=lambda page: page.stem)
def test_the_snippets_run_and_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(RUNNER)],
        input=json.dumps(steps(page)),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-3000:]


def stand_in(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8", newline="\n")
    (folder / name).chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="Slurm and its scripts are for POSIX systems")
def test_the_slurm_script_starts_its_ranks(tmp_path: Path) -> None:
    (script,) = [code for language, code in blocks(DOCS / "en" / "10-distributed.md") if language == "sh"]
    (tmp_path / "train.slurm").write_text(script, encoding="utf-8", newline="\n")
    stand_in(tmp_path, "scontrol", "printf '127.0.0.1\\n10.0.0.2\\n'")
    stand_in(tmp_path, "srun", '"$@" & "$@" && wait $!  # a task on each of two nodes')
    stand_in(tmp_path, "torchrun", f'exec "{sys.executable}" -m torch.distributed.run "$@"')
    slurm = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "train.slurm", "pretrain", "--help"],
        cwd=tmp_path,
        env=os.environ | slurm | path,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("usage: minimind train pretrain") == 2


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *sorted(DOCS.glob("*/*.md"))], ids=lambda page: f"{page.parent.name}/{page.stem}"
)
def test_links_point_at_what_they_name(page: Path) -> None:
    for label, target, line in LINK.findall(re.sub(BLOCK, "", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        file = (page.parent / target).resolve()
        assert file.is_file(), f"{page.name}: {target} does not exist"
        if label.startswith("`") and not label.endswith(".py`"):
            name = label.strip("`")
            lines = file.read_text(encoding="utf-8").splitlines()
            assert line, f"{page.name}: {label} needs a line"
            places = [number for number, text in enumerate(lines, 1) if re.search(rf"\b{name}\b", text)]
            assert int(line) in places, f"{page.name}: {name} is not in {target} line {line}, but in {places}"


def test_both_languages_have_the_same_pages_headings_and_code() -> None:
    assert PAGES
    assert [page.name for page in PAGES] == sorted(page.name for page in (DOCS / "zh").glob("*.md"))
    pairs = [(page, DOCS / "zh" / page.name) for page in PAGES]
    for page, other in [(ROOT / "README.md", ROOT / "README_zh.md"), *pairs]:
        assert [b for b in blocks(page) if b[0] != "text"] == [b for b in blocks(other) if b[0] != "text"], page.name
        levels = [
            re.findall(r"^#+(?= )", re.sub(BLOCK, "", p.read_text(encoding="utf-8")), re.MULTILINE)
            for p in (page, other)
        ]
        assert levels[0] == levels[1], page.name


def words(text: str) -> float:
    """Words separated by blanks; 1.7 Chinese characters are one."""
    han = re.compile(r"[\u3400-\u9fff]")
    return len(han.findall(text)) / 1.7 + len(re.sub(r"[\u3000-\u9fff\uff00-\uffef]", " ", text).split())


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "README_zh.md"], ids=lambda page: page.stem)
def test_the_readme_is_short(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert words(text) <= 900
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) == 3
    assert all((ROOT / picture).stat().st_size < 150_000 for picture in pictures)


def test_the_demo_takes_as_long_as_its_help_says() -> None:
    from minimind.commands.demo import demo

    said = re.search(r"It takes .+? mean nothing\.", " ".join((demo.__doc__ or "").split()))
    assert said
    assert said[0] in " ".join((ROOT / "README.md").read_text(encoding="utf-8").replace("`", "").split())
