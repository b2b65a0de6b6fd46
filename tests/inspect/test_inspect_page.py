"""The looking-glass in a real browser, on a run of a tiny model with experts."""

import json
import re
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest
import torch
import uvicorn
from chromium import needs_chromium
from playwright.sync_api import expect

from minimind.config import PRESETS
from minimind.inspect.glass import LookingGlass
from minimind.inspect.rooms import ROOMS
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.serve.server import configure
from minimind.serve.service import Service
from minimind.serve.settings import Settings
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

pytestmark = needs_chromium
PROMPT = {"messages": [{"role": "user", "content": "Where does 小明 live?\nSay it."}], "begins": "In Paris"}
PICTURES = {
    "tokens": ".strip span",
    "layers": ".heat canvas.cells",
    "attention": ".heads canvas",
    "experts": ".heat canvas.cells",
    "facts": ".heat canvas.cells",
    "time": ".chart path",
    "practice": ".strip span",
    "pair": ".strip span",
}


def write_model(tokenizer, folder, seed, **changes):
    torch.manual_seed(seed)
    config = PRESETS["tiny-moe"].with_(**{"vocab_size": tokenizer.vocab_size, "num_hidden_layers": 2, **changes})
    save_model(Transformer(config), folder, "float32")
    tokenizer.save(folder)


def samples(tokenizer, rewards):
    """Lines of a rollout's file: one prompt, an answer for each of `rewards`."""
    for number, reward in enumerate(rewards):
        ids = [*tokenizer.encode(f" It is {number}."), tokenizer.control_id("<|im_end|>")]
        yield {
            "group": 0,
            "prompt": [{"role": "user", "content": "1 + 1?"}],
            "gt": ["2"],
            "versions": [0],
            "ids": ids,
            "mask": [True] * len(ids),
            "log_probs": [-1.0] * len(ids),
            "old": [-0.9] * len(ids),
            "advantages": [reward - sum(rewards) / len(rewards)] * len(ids),
            "reward": reward,
            "rewards": {"exact": reward, "closed": 1.0 - reward},
            "status": "completed",
            "thinking": False,
        }


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load("default")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tokenizer):
    """`small`, a run with two checkpoints, its result and a kept rollout; beside it `dense`, a model without a log."""
    runs = tmp_path_factory.mktemp("runs")
    run = runs / "small"
    for seed, name in enumerate(("checkpoints/step-00000010", "checkpoints/step-00000020", "model")):
        write_model(tokenizer, run / name, seed)
        (run / name / "complete").write_text("{}", encoding="utf-8")
    write_model(tokenizer, runs / "dense" / "model", 3, num_experts=0, num_hidden_layers=3)
    lines = [{"step": step, "loss": 9.0 - step / 10} for step in range(1, 31)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (runs / "dump").mkdir()
    rollout = "".join(json.dumps(line) + "\n" for line in samples(tokenizer, [0.0, 1.0, 0.0]))
    (runs / "dump" / "rollout-000000.jsonl").write_text(rollout, encoding="utf-8")
    recipe = f"[rl]\ndump = {json.dumps(str(runs / 'dump'))}\n[scoring.weights]\nexact = 1.0\nclosed = 0.0\n"
    (run / "recipe.toml").write_text(recipe, encoding="utf-8")
    return runs


@pytest.fixture(scope="module")
def url(runs):
    with serving(runs / "small") as url:
        yield url


@contextmanager
def serving(run):
    glass = LookingGlass(run, "cpu")
    config = configure(Service(Settings(model="small"), glass.tokenizer, glass))
    config.port = 0
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def visit(browser, url):
    """Open a room in a fresh profile; a complaint of the browser or a request to another host fails the test."""
    contexts, complaints = [], []

    def visit(room, prompt=PROMPT, width=1100, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, **{"locale": "en-US", **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: None if asked.url.startswith(url) else complaints.append(asked.url))
        page.goto(f"{url}/inspect#{urlencode({'room': room, 'prompt': json.dumps(prompt)})}")
        drawn(page)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not complaints


def drawn(page):
    expect(page.locator("#room")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#content [aria-busy=true]")).to_have_count(0, timeout=120_000)
    expect(page.locator("#notice")).to_be_hidden()
    # Maps are drawn at the frame after, when the page knows their width.
    page.wait_for_function("[...document.querySelectorAll('#content .heat canvas.cells')].every((c) => c.style.width)")


def painted(canvas):
    """How many colours a canvas has."""
    return canvas.evaluate(
        "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    )


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_shows_its_picture_in_both_languages_and_on_a_phone(visit, room):
    page = visit(room)
    assert set(PICTURES) == set(ROOMS)
    picture = page.locator(f"#content {PICTURES[room]}").first
    expect(picture).to_be_visible()
    if "canvas" in PICTURES[room]:
        assert painted(picture) > 3
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, [role=application], [role=listbox]")]
            .filter((e) => !(e.textContent.trim() && e.tagName === "BUTTON" || e.getAttribute("aria-label") ||
                e.labels?.length)).map((e) => e.outerHTML)"""
    )
    assert nameless == []
    english = page.locator("#explanation").inner_text()
    page.click("#language")
    drawn(page)
    assert page.evaluate("document.documentElement.lang") == "zh"
    assert re.search("[\u4e00-\u9fff]", page.locator("#explanation").inner_text())
    assert page.locator("#explanation").inner_text() != english
    for text in (page.locator("body").inner_text(), page.content()):
        assert not re.search(r"undefined|NaN|\[object", text), "a word or a number is missing"
    page.set_viewport_size({"width": 360, "height": 740})
    for _ in ("zh", "en"):
        expect(picture).to_be_visible()
        page.wait_for_function("document.documentElement.scrollWidth <= 360")  # it is drawn anew, a moment later
        selected = page.locator("#tabs [aria-selected=true]").bounding_box()
        assert selected["x"] >= 0
        assert selected["x"] + selected["width"] <= 360
        page.click("#language")
        drawn(page)


KEY = r'(?:^|[\s{])"?([A-Za-z][\w-]*)"?: "'


@pytest.mark.parametrize("room", ROOMS)
def test_no_word_is_missing(room):
    source = (LookingGlass.page / f"room-{room}.js").read_text(encoding="utf-8")
    frame = set(re.findall(KEY, (LookingGlass.page / "words.js").read_text(encoding="utf-8")))
    own, body = source.split("words({")[1].split("\n});", 1)
    english, chinese = (set(re.findall(KEY, half)) for half in own.split("  zh: {"))
    assert english == chinese
    assert set(re.findall(r'say\("([\w-]+)"\)', body)) <= english | frame


def test_tokens_are_the_prompts_and_tell_how_they_came_to_be(visit, tokenizer):
    page = visit("tokens")
    ids, mask = render(PROMPT["messages"], tokenizer, add_generation_prompt=True)
    ids += tokenizer.encode(PROMPT["begins"])
    tokens = page.locator(".strip span")
    expect(tokens).to_have_count(len(ids))
    assert page.locator(".strip small").all_inner_texts() == [str(id) for id in ids]
    expect(page.locator(".strip .unscored")).to_have_count(len(mask) - sum(mask))
    tokens.first.focus()
    page.keyboard.press("End")
    expect(tokens.last).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(tokens.nth(len(ids) - 2)).to_be_focused()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(tokens.last).to_have_attribute("aria-selected", "true")
    expect(page.locator(".merges li").last.locator("code")).to_have_text(tokenizer.token_bytes(ids[-1]).decode())


def test_the_keyboard_reads_a_heat_map_and_the_table_says_the_same(visit):
    page = visit("layers")
    read = page.locator(".heat .read").first
    page.locator(".cells").first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    expect(read).to_contain_text("<|im_start|>, layer 0:")
    told = read.inner_text().split(": ")[1].split(" ")[0]
    page.locator(".heat summary").first.click()
    table = page.locator(".heat table").first
    expect(table.locator("tbody tr")).to_have_count(3)
    expect(table.locator("tbody tr").nth(1).locator("th")).to_have_text("layer 0")
    expect(table.locator("tbody tr").nth(1).locator("td").first).to_contain_text(told)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".bars caption")).to_have_text("What each block adds to the token's logit")
    figures = [float(cell.replace("−", "-")) for cell in page.locator(".bars td:last-child").all_inner_texts()]
    assert figures[-1] == pytest.approx(sum(figures[:-1]), abs=0.1)


def test_tabs_by_keyboard_and_an_address_that_brings_one_back(visit):
    page = visit("tokens")
    page.locator("#tab-tokens").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-layers")).to_be_focused()
    drawn(page)
    page.keyboard.press("End")
    expect(page.locator("#title")).to_have_text("Side by side")
    drawn(page)
    page.reload()
    expect(page.locator("#tab-pair")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#begins")).to_have_value("In Paris")


def test_a_head_is_switched_off_and_the_answer_changes(visit):
    page = visit("attention")
    page.locator("[data-of='1.2']").click()
    expect(page.locator("h3", has_text="Pattern of layer 1, head 2")).to_be_visible()
    page.get_by_role("button", name="Switch layer off").click()
    drawn(page)
    expect(page.locator("#off")).to_contain_text("Switched off: layer 1")
    expect(page.get_by_role("button", name="Switch layer off")).to_have_attribute("aria-pressed", "true")
    divergence = page.locator("#content p", has_text="KL divergence").inner_text()
    assert float(re.search(r"[\d.]+(e−\d+)?", divergence)[0].replace("−", "-")) > 0
    page.locator("#begins").fill("In Rome")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#room")).to_be_focused()
    expect(page.locator("#begins")).to_have_value("In Rome")
    page.get_by_role("button", name="Switch all on again").click()
    expect(page.locator("#off")).to_be_hidden()


def test_the_slider_shows_another_checkpoint_and_other_numbers(visit):
    page = visit("layers")
    page.locator(".heat summary").first.click()
    rows = page.locator(".heat table").first.locator("tbody tr").first
    last = rows.inner_text()
    expect(page.locator("#step-name")).to_have_text("small, step 30")
    page.locator("#step").focus()
    page.keyboard.press("Home")
    drawn(page)
    expect(page.locator("#step-name")).to_have_text("small, step 10")
    page.locator(".heat summary").first.click()
    assert rows.inner_text() != last


def test_whoever_reaches_for_the_slider_finds_the_answers_there(visit):
    page = visit("layers")
    asked = []
    page.on("requestfinished", lambda request: asked.append(request) if request.url.endswith("/inspect/lens") else None)
    page.locator("#step").focus()
    for _ in range(300):
        if len(asked) == 2:  # the two other checkpoints
            break
        page.wait_for_timeout(20)
    assert {request.post_data_json["checkpoint"] for request in asked} == {"step-00000010", "step-00000020"}
    page.keyboard.press("Home")
    drawn(page)
    expect(page.locator("#step-name")).to_have_text("small, step 10")
    assert len(asked) == 2


def test_a_model_that_came_without_a_log_has_a_name_and_no_step(browser, runs):
    with serving(runs) as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(
            f"{url}/inspect#{urlencode({'room': 'time', 'prompt': json.dumps(PROMPT), 'checkpoint': 'dense/model'})}"
        )
        drawn(page)
        expect(page.locator("#step-name")).to_have_text("dense")
        page.locator("#tab-pair").click()
        drawn(page)
        expect(page.get_by_label("Compare with")).to_have_value("small/model")  # the stage before
        assert not re.search(r"undefined|null|NaN", page.locator("body").inner_text())


def test_each_model_of_a_folder_is_shown_as_it_is(browser, runs):
    with serving(runs) as url, browser.new_context(locale="en-US") as context:
        page = context.new_page()
        asked = {"room": "attention", "prompt": json.dumps(PROMPT), "checkpoint": "dense/model"}
        page.goto(f"{url}/inspect#{urlencode(asked)}")
        drawn(page)
        page.locator("[data-of='2.1']").click()
        expect(page.locator("#model")).to_contain_text("3 layers")
        expect(page.locator("#model")).not_to_contain_text("experts")
        page.locator("#step").focus()
        page.keyboard.press("Home")
        drawn(page)
        expect(page.locator("h3", has_text="Pattern of layer 1, head 1")).to_be_visible()
        expect(page.locator("#model")).to_contain_text("2 layers × 4 heads · 4 experts")
        page.locator("#tab-experts").click()
        drawn(page)
        expect(page.locator("#content .cells")).to_be_visible()
        page.locator("#step").focus()
        page.keyboard.press("End")
        drawn(page)
        expect(page.locator("#content")).to_contain_text("This model is dense")


def test_the_widest_picture_on_the_sharpest_screen(visit):
    page = visit("layers", {"text": "word " * 480}, device_scale_factor=3)
    picture = page.locator(".cells").first
    assert picture.evaluate("c => parseInt(c.style.width)") > 65535 / 3, "more than any browser draws"
    assert painted(picture) > 3


def test_ticks_differ(visit):
    ticks = visit("tokens").evaluate(
        """async () => {
            const { chart } = await import("/inspect/page/chart.js");
            const points = [[1, -0.0325], [2, -0.03]];
            const plot = chart({ series: [{ name: "a", points }], label: "a", xTitle: "x", yTitle: "y" });
            document.querySelector("#content").replaceChildren(plot);
            while (!plot.querySelector("text")) await new Promise(requestAnimationFrame);
            return [...plot.querySelectorAll("text[text-anchor=end]:not(.title)")].map((e) => e.textContent);
        }"""
    )
    assert ticks == ["−0.032", "−0.031", "−0.03"]


def test_other_weights_of_the_rewards_give_other_advantages(visit):
    page = visit("practice")
    advantages = page.locator("#content tbody tr td:nth-last-child(2)")
    assert advantages.all_inner_texts() == ["1.15", "−0.58", "−0.58"]
    page.get_by_label("closed").fill("3")
    expect(advantages).to_have_text(["0.58", "0.58", "−1.15"])
    expect(page.locator("#content .changed")).to_have_count(3)
    page.get_by_role("button", name="As they were").click()
    expect(advantages).to_have_text(["1.15", "−0.58", "−0.58"])


def test_what_is_typed_is_looked_at_and_never_becomes_part_of_the_page(visit):
    evil = '<img src=x onerror=alert(1)>"><script>alert(2)</script>'
    page = visit("tokens")
    page.get_by_label("Text", exact=True).first.check()
    page.locator("#text").fill(evil)
    page.keyboard.press("Control+Enter")
    drawn(page)
    text = "".join(page.locator(".strip b").all_inner_texts()).replace("␣", " ")
    assert text.endswith(evil)
    assert page.locator("img:not(.brand img), script:not([src])").count() == 0


def test_a_mistake_is_told_and_can_be_mended(browser, url):
    with browser.new_context() as context:  # not `visit`: the browser complains of an answer 400
        page = context.new_page()
        page.goto(f"{url}/inspect#{urlencode({'prompt': json.dumps({'text': 'word ' * 600})})}")
        expect(page.locator("#notice")).to_contain_text("shorten it")
        page.locator("#text").fill("word")
        page.locator("#prompt .primary").click()
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.locator(".strip span").last).to_be_visible()


def test_dark_and_light_pictures(visit):
    page = visit("layers", color_scheme="dark")
    corner = "c => [...c.getContext('2d').getImageData(3, c.height - 9, 1, 1).data].join()"
    dark = page.locator(".cells").first.evaluate(corner)
    page.click("#theme")
    drawn(page)
    assert page.locator(".cells").first.evaluate(corner) != dark


def test_the_code_of_a_room_is_shown(visit):
    page = visit("layers")
    page.locator("#links button").click()
    expect(page.locator("#source")).to_contain_text("def ")
