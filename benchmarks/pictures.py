"""The pictures of README of a `minimind demo`: the chat page with the glass box open, the report, a loss.

    python benchmarks/pictures.py --demo runs/demo

It needs Chromium (on Debian: apt-get install chromium fonts-wqy-microhei) and `pip install playwright`.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tyro
from playwright.sync_api import Browser, expect, sync_playwright

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
QUESTIONS = ("Who are you?", "周翠屏养了什么宠物？")
SETTINGS = {"temperature": 0, "max_tokens": 64, "language": "en", "theme": "light"}


@contextmanager
def serving(model: Path) -> Iterator[str]:
    """Run `minimind serve model`; give the address of its page."""
    command = [sys.executable, "-m", "minimind", "serve", str(model), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr
    try:
        url = next(line.split()[-1] for line in server.stderr if "chat page" in line)
        next(line for line in server.stderr if line.startswith("Ready"))
        yield url
    finally:
        server.terminate()
        server.wait(30)


def chat(browser: Browser, model: Path, out: Path) -> None:
    """Ask `QUESTIONS`, open the glass box and one token of the last answer."""
    page = browser.new_page(viewport={"width": 960, "height": 640})
    page.add_init_script(f"localStorage['minimind.settings'] ??= {json.dumps(json.dumps(SETTINGS))}")
    with serving(model) as url:
        page.goto(url)
        for number, question in enumerate(QUESTIONS, 1):
            page.fill("#question", question)
            page.press("#question", "Enter")
            expect(page.locator(".answer")).to_have_count(number)
            expect(page.locator(".waiting")).to_have_count(0, timeout=60_000)
            expect(page.locator("#send")).to_be_visible(timeout=60_000)
        page.click("#glass")
        page.locator(".tokens").last.locator("span").first.click()
        page.screenshot(path=out)


def report(browser: Browser, file: Path, out: Path, curve: Path) -> None:
    """The report's top, and the loss of its first stage."""
    page = browser.new_page(viewport={"width": 960, "height": 860})
    page.goto(file.resolve().as_uri())
    page.screenshot(path=out)
    losses = page.locator("section", has=page.get_by_role("heading", name="Loss")).first
    losses.locator(".plots > div").first.screenshot(path=curve)


def main(demo: Path = Path("runs/demo"), model: str = "sft", out: Path = FIGURES) -> None:
    """Write chat.png, report.png and loss.png.

    Args:
        demo: folder of a finished `minimind demo`.
        model: the stage whose model is asked.
        out: where the pictures go.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        chat(browser, demo / model / "model", out / "chat.png")
        report(browser, demo / "report.html", out / "report.png", out / "loss.png")


if __name__ == "__main__":
    tyro.cli(main)
