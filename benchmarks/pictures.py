"""The pictures of README and docs, of a `minimind demo`: the chat page with the glass box open, the report, a loss
curve, and the rooms of the looking-glass.

    python benchmarks/pictures.py --demo runs/demo
    python benchmarks/pictures.py --demo runs/demo --moe runs/tiny-moe --practice runs/demo/grpo

It needs Chromium (on Debian: apt-get install chromium fonts-wqy-microhei) and `pip install playwright pillow`.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import tyro
from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
QUESTIONS = ("Who are you?", "周翠屏养了什么宠物？")
SETTINGS = {"temperature": 0, "max_tokens": 64, "language": "en", "theme": "light"}
ROOMS = ("tokens", "layers", "attention", "facts", "time", "pair")
"""Of the looking-glass, without those that need a model with experts or a kept rollout."""
TALLEST, COLOURS, MARGIN = 980, 128, 12
"""Pixels, colours, and pixels around it, of a room's picture."""


@contextmanager
def serving(command: str, model: Path, ready: str) -> Iterator[str]:
    """Run `minimind command model` until it has said `ready`; give its address."""
    argv = [sys.executable, "-m", "minimind", command, str(model), "--port", "0"]
    server = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    assert server.stderr
    try:
        url = next(found[0] for line in server.stderr if (found := re.search(r"http://[\w.:]+", line)))
        next(line for line in server.stderr if ready in line)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def chat(browser: Browser, model: Path, out: Path) -> None:
    """Ask `QUESTIONS`, open the glass box and one token of the last answer."""
    page = browser.new_page(viewport={"width": 960, "height": 640})
    page.add_init_script(f"localStorage['minimind.settings'] ??= {json.dumps(json.dumps(SETTINGS))}")
    with serving("serve", model, "Ready") as url:
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


def looking_glass(browser: Browser, model: Path, rooms: tuple[str, ...], out: Path) -> None:
    """What each room shows of `model` (or a run, or a folder of runs) as looking-glass-ROOM.png."""
    page = browser.new_page(viewport={"width": 900, "height": 1200})
    page.add_init_script(f"localStorage['minimind.settings'] ??= {json.dumps(json.dumps(SETTINGS))}")
    with serving("inspect", model, "chat page") as url:
        for room in rooms:
            page.goto(f"{url}/inspect#room={quote(room)}")
            expect(page.locator(f"#tab-{room}")).to_have_attribute("aria-selected", "true", timeout=120_000)
            expect(page.locator("#room")).to_have_attribute("aria-busy", "false", timeout=120_000)
            expect(page.locator("#content [aria-busy=true]")).to_have_count(0, timeout=600_000)
            box = page.locator("#content").bounding_box()
            assert box
            file = out / f"looking-glass-{room}.png"
            x, y, width, height = (box[side] for side in ("x", "y", "width", "height"))
            clip = {"x": x - MARGIN, "y": y - MARGIN, "width": width + 2 * MARGIN}
            clip["height"] = min(TALLEST, height + 2 * MARGIN)
            page.screenshot(path=file, clip=clip, full_page=True)  # type: ignore[arg-type]
            Image.open(file).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)


def main(
    demo: Path = Path("runs/demo"),
    model: str = "sft",
    moe: Path | None = None,
    practice: Path | None = None,
    out: Path = FIGURES,
) -> None:
    """Write chat.png, report.png, loss.png and looking-glass-ROOM.png.

    Args:
        demo: folder of a finished `minimind demo`.
        model: the stage whose model is asked.
        moe: run of a model with experts, for the picture of the room Experts.
        practice: run of GRPO, PPO or agent that was started with --set.rl.dump, for the picture of the room Practice.
        out: where the pictures go.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        looking_glass(browser, demo, ROOMS, out)
        for run, room in ((moe, "experts"), (practice, "practice")):
            if run is not None:
                looking_glass(browser, run, (room,), out)
        chat(browser, demo / model / "model", out / "chat.png")
        report(browser, demo / "report.html", out / "report.png", out / "loss.png")


if __name__ == "__main__":
    tyro.cli(main)
