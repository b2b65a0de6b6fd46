"""The chat page in a real browser, on a server whose model says what the test tells it to."""

import json
import re
from typing import ClassVar

import pytest
from chromium import needs_chromium
from conftest import Scripted, script, serving, wait_until
from playwright.sync_api import expect

pytestmark = needs_chromium


class Stage(Scripted):
    scripts: ClassVar[list[list[int]]] = []


@pytest.fixture(scope="module")
def stage(model, tokenizer):
    """`stage(["a"], ["b"])`: the model's next two answers; `stage.url`, `stage.service`."""

    def says(*answers, pause=0.0):
        # What the last test left behind would take one of these answers.
        wait_until(lambda: not says.service.engine.engine.has_work)
        Stage.scripts[:] = [script(tokenizer, *parts) for parts in answers]
        Stage.pause = pause

    with serving(model, tokenizer, Stage, context=2048) as (says.url, says.service):
        yield says


@pytest.fixture
def visit(browser, stage):
    """Open the page in a fresh profile; whatever the browser complains about fails the test."""
    contexts, complaints = [], []

    def visit(url=stage.url, width=1100, expected=(), **options):
        context = browser.new_context(viewport={"width": width, "height": 740}, locale="en-US", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)  # as above
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on(
            "console",
            lambda m: (
                complaints.append(m.text) if m.type == "error" and not any(e in m.text for e in expected) else None
            ),
        )
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not complaints


def ask(page, text):
    expect(page.locator("#send")).to_be_visible()  # while an answer is written, Enter keeps the text and sends nothing
    page.fill("#question", text)
    page.keyboard.press("Enter")
    expect(page.locator(".user .bubble").last).to_have_text(text)


def press(page, key):
    """A key that playwright does not have: `key` are its properties, in JavaScript."""
    event = f"new KeyboardEvent('keydown', {{bubbles: true, cancelable: true, ...{key}}})"
    page.locator("#question").evaluate(f"e => e.dispatchEvent({event})")


def done(page):
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator(".waiting")).to_have_count(0)


def answers(page):
    return page.locator(".answer .prose")


def test_answers_stream_in_and_a_reload_keeps_them(visit, stage):
    stage(["One ", "two ", "three 世界 🙂."], ["Again."], pause=0.3)
    page = visit()
    expect(page.locator("#model")).to_have_text("minimind")
    ask(page, "Count!")
    expect(answers(page)).to_contain_text("One")
    assert page.locator("#stop").is_visible(), "it is still being written"
    Stage.pause = 0.0
    expect(answers(page)).to_have_text("One two three 世界 🙂.")
    done(page)
    expect(page.locator(".answer .acts small")).to_contain_text("tokens/s")
    ask(page, "And?")
    done(page)
    page.reload()
    expect(answers(page)).to_have_text(["One two three 世界 🙂.", "Again."])
    expect(page.locator(".user .bubble")).to_have_text(["Count!", "And?"])
    expect(page.locator("#list button").first).to_have_text("Count!")
    page.click("#new")
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator(".answer")).to_have_count(0)
    page.locator("#list button").first.click()
    expect(answers(page)).to_have_count(2)
    page.locator("#list li").hover()
    page.locator("#list .icon").click()
    expect(page.locator("#list li")).to_have_count(0)
    page.reload()
    expect(page.locator("#welcome")).to_be_visible()


def test_an_answer_can_be_stopped(visit, stage):
    stage(["word " * 200], ["Fine."], pause=0.03)
    page = visit()
    ask(page, "Talk")
    expect(answers(page)).to_contain_text("word word")
    page.click("#stop")
    done(page)
    expect(page.locator(".answer .acts")).to_contain_text("stopped")
    assert 2 <= answers(page).inner_text().count("word") < 150
    engine = stage.service.engine.engine
    wait_until(lambda: not engine.has_work, 3)  # the whole answer would take twice as long
    ask(page, "Go on")
    done(page)
    expect(answers(page).last).to_have_text("Fine.")


def test_a_question_may_come_before_the_page_knows_the_model(visit, stage):
    stage(["First."])
    page = visit("about:blank")
    held = []
    page.route("**/props", lambda route: held.append(route))
    page.goto(stage.url)
    ask(page, "a")
    page.wait_for_timeout(100)
    assert answers(page).count() == 0, "nobody was asked yet"
    while len(held) < 2:  # the page's own request, and the question's
        page.wait_for_timeout(20)
    for route in held:
        route.continue_()
    expect(answers(page)).to_have_text("First.")


def test_leaving_a_conversation_stops_its_answer_and_keeps_what_was_said(visit, stage):
    stage(["One."], ["word " * 200], ["Fine."], pause=0.03)
    page = visit()
    ask(page, "a")
    done(page)
    page.click("#new")
    ask(page, "Talk")
    expect(answers(page)).to_contain_text("word word")
    page.locator("#list button", has_text="Talk").click()
    expect(answers(page)).to_contain_text("word word")
    assert page.locator("#stop").is_visible(), "it is the one that is shown"
    page.locator("#list button", has_text="a").last.click()
    expect(answers(page)).to_have_text("One.")
    done(page)
    page.locator("#list button", has_text="Talk").click()
    expect(answers(page)).to_contain_text("word word")
    expect(page.locator(".answer .acts")).to_contain_text("stopped")
    page.get_by_role("button", name="Answer again").click()
    expect(answers(page)).to_have_text("Fine.")
    stage(["word " * 200], ["Fine."], pause=0.03)
    ask(page, "More")
    expect(answers(page).last).to_contain_text("word")
    page.click("#new")
    done(page)
    ask(page, "b")
    expect(answers(page)).to_have_text("Fine.")


def test_two_tabs_know_of_each_other(visit, stage):
    stage(["Yes."])
    page = visit()
    ask(page, "a")
    done(page)
    other = page.context.new_page()
    other.goto(page.url)
    ask(other, "b")
    expect(page.locator(".user .bubble")).to_have_text(["a", "b"])
    done(other)
    expect(answers(page)).to_have_count(2)
    page.reload()
    other.reload()
    expect(answers(other)).to_have_count(2)
    other.click("#open-settings")
    other.fill("[name=system]", "Be brief.")
    other.get_by_role("button", name="Done").click()
    other.click("#think")
    expect(page.locator("#think")).to_have_attribute("aria-pressed", "true")
    page.click("#theme")
    kept = page.evaluate("JSON.parse(localStorage.getItem('minimind.settings'))")
    assert (kept["system"], kept["theme"], kept["thinks"]) == ("Be brief.", "dark", True)
    other.locator("#list li").hover()
    other.locator("#list .icon").click()
    expect(page.locator("#welcome")).to_be_visible()
    page.close()
    other.reload()
    expect(other.locator("#list li")).to_have_count(0)


def test_a_conversation_that_two_tabs_answer_at_once_becomes_two(visit, stage):
    stage(["One."], ["word " * 250], ["Two."], pause=0.03)
    page = visit()
    ask(page, "a")
    done(page)
    other = page.context.new_page()
    other.goto(page.url)
    expect(answers(other)).to_have_text("One.")
    ask(page, "b")
    expect(answers(page).last).to_contain_text("word word")
    expect(other.locator(".user .bubble")).to_have_text(["a", "b"])
    ask(other, "c")
    for one, said in ((page, ["a", "b"]), (other, ["a", "b", "c"])):
        done(one)
        one.reload()
        expect(one.locator(".user .bubble")).to_have_text(said)
        expect(one.locator("#list li")).to_have_count(2)
    expect(answers(page).last).to_contain_text("word word")
    expect(answers(other).last).to_have_text("Two.")


def test_after_the_server_was_away_the_question_is_answered_anew(visit, stage):
    stage(["word " * 200], ["Fine."], pause=0.03)
    page = visit()
    ask(page, "Talk")
    expect(answers(page)).to_contain_text("word")
    page.evaluate(
        """() => {
            const { prototype } = ReadableStreamDefaultReader, { read } = prototype;
            prototype.read = () => {
                prototype.read = read;
                return Promise.reject(new TypeError("network error")); // what Chromium says of a broken connection
            };
        }"""
    )
    expect(page.locator("#notice p")).to_have_text("The server cannot be reached.")
    with page.expect_request(re.compile("chat/completions")) as request:
        page.click("#notice button")
    assert json.loads(request.value.post_data)["messages"] == [{"role": "user", "content": "Talk"}]
    expect(answers(page)).to_have_text(["Fine."])
    done(page)
    page.reload()
    expect(answers(page)).to_have_text(["Fine."])


def test_a_server_that_came_back_with_another_model_is_asked_for_it(visit, stage):
    stage(["Fine."])
    page = visit("about:blank", expected=["404"])
    page.route("**/props", lambda route: route.fulfill(json={"model": "dpo", "tools": [], "n_ctx": 9}), times=1)
    page.goto(stage.url)
    expect(page.locator("#model")).to_have_text("dpo")
    ask(page, "a")
    expect(page.locator("#notice")).to_contain_text("'dpo'")
    page.click("#notice button")
    expect(answers(page)).to_have_text("Fine.")
    expect(page.locator("#model")).to_have_text("minimind")


def test_escape_stops_too(visit, stage):
    stage(["word " * 200], pause=0.03)
    page = visit()
    ask(page, "Talk")
    expect(answers(page)).to_contain_text("word")
    press(page, "{key: 'Escape', isComposing: true}")  # Chinese that is not typed after all
    page.wait_for_timeout(100)
    assert page.locator("#stop").is_visible()
    page.keyboard.press("Escape")
    done(page)
    expect(page.locator(".answer .acts")).to_contain_text("stopped")


CALL = ["<tool_call>", '\n{"name": "calculate_math", "arguments": {"expression": "12 * 3"}}\n', "</tool_call>"]


def test_tools_are_run_on_the_server_and_shown(visit, stage):
    stage(["Let me see.\n", *CALL], ["It is 36."])
    page = visit()
    page.click("#tools")
    expect(page.locator("#tool-list label")).to_have_count(2)
    page.get_by_label("calculate_math").check()
    page.keyboard.press("Escape")
    expect(page.locator("#tool-list")).to_be_hidden()
    with page.expect_request(re.compile("chat/completions")) as request:
        ask(page, "12 * 3?")
    sent = json.loads(request.value.post_data)
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["calculate_math"]
    done(page)
    card = page.locator(".card")
    expect(card).to_contain_text("calculate_math")
    expect(card).to_contain_text("expression = 12 * 3")
    expect(card.locator(".result")).to_contain_text("result = 36")
    expect(answers(page)).to_have_text(["Let me see.", "It is 36."])
    page.reload()
    expect(card.locator(".result")).to_contain_text("36")
    expect(page.locator("#tools b")).to_have_text("1")


@pytest.mark.parametrize("edited", [False, True], ids=["reload", "edit"])
def test_a_tool_that_still_runs_leaves_no_call_open(visit, stage, edited):
    stage(["Let me see.\n", *CALL], ["Fine."])
    page = visit()
    page.click("#tools")
    page.get_by_label("calculate_math").check()
    page.route("**/tools/*", lambda route: None)  # it runs and runs
    with page.expect_request("**/tools/*"):
        ask(page, "12 * 3?")
    expect(page.locator(".card")).to_contain_text("Running…")
    if edited:
        page.locator(".user").hover()
        page.get_by_role("button", name="Edit").click()
        page.get_by_role("button", name="Save and send").click()
        expect(answers(page)).to_have_text("Fine.")
        done(page)
    else:
        page.reload()
        expect(page.locator(".card .result")).to_contain_text("error = stopped")
    with page.expect_request(re.compile("chat/completions")) as request:
        ask(page, "And?")
    sent = json.loads(request.value.post_data)["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", *([] if edited else ["tool"]), "user"]
    done(page)
    expect(answers(page).last).to_have_text("Fine.")


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
def test_answers_and_code_are_copied(visit, stage, secure):
    stage(["Look:\n\n```\nx = 1\n```"], ["word " * 200], pause=0.03)
    page = visit("about:blank", permissions=["clipboard-read", "clipboard-write"])
    if not secure:  # as on http://192.168.1.2:8000
        page.add_init_script("Object.defineProperty(Navigator.prototype, 'clipboard', {value: undefined})")
    page.goto(stage.url)
    ask(page, "a")
    done(page)
    ask(page, "b")
    expect(answers(page).last).to_contain_text("word")
    for button, text in ((".code .icon", "x = 1"), (".answer .acts .icon", "Look:\n\n```\nx = 1\n```")):
        it = page.locator(button).first.element_handle()
        it.focus()
        page.wait_for_timeout(100)
        assert it.evaluate("e => e === document.activeElement"), "it was not replaced meanwhile"
        it.click()
        page.wait_for_function("it => it.querySelector('use').getAttribute('href') === '#i-done'", arg=it)
        page.fill("#question", "")
        page.keyboard.press("Control+V")
        expect(page.locator("#question")).to_have_value(text)
    page.fill("#question", "")


def test_thoughts_can_be_folded(visit, stage):
    stage(["I wonder.\n", "</think>", "\n\n", "Yes."], pause=0.6)
    page = visit()
    page.click("#think")
    ask(page, "Hm?")
    expect(page.locator("details.thought[open]")).to_contain_text("I wonder.")
    Stage.pause = 0.0
    done(page)
    expect(answers(page)).to_have_text("Yes.")
    thought = page.locator("details.thought")
    expect(thought).not_to_have_attribute("open", "")
    expect(thought.locator("div")).to_be_hidden()
    thought.locator("summary").click()
    expect(thought.locator("div")).to_have_text("I wonder.")


EVIL = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(2)</script>",
    "[click](javascript:alert(3))",
    "**<svg/onload=alert(4)>**",
    '`<iframe srcdoc="<script>alert(5)</script>">`',
    "```html\n<script>alert(6)</script>\n```",
    "[a](data:text/html,<script>alert(7)</script>)",
    '"><style>*{display:none}</style><a href="javascript:alert(8)">x</a>',
    "| <b onclick=alert(9)>a</b> | b |\n|---|---|\n| <img src=x onerror=alert(10)> | c |",
    "![x](https://evil.example/steal.png)",
]


def test_nothing_that_is_said_becomes_part_of_the_page(visit, stage):
    evil = "\n\n".join(EVIL)
    call = ["<tool_call>", "\n" + json.dumps({"name": EVIL[0], "arguments": {EVIL[0]: EVIL[1]}}) + "\n", "</tool_call>"]
    stage([*EVIL[:2], "\n", "</think>", "\n\n", evil + "\n", *call], ["\n", "</think>", "\n\n", evil])
    page = visit(expected=["404"])
    page.click("#think")
    page.click("#tools")
    page.get_by_label("text_length").check()
    ask(page, EVIL[0])
    done(page)
    page.click("#glass")
    page.click("#glass")
    page.reload()
    for text in (EVIL[0], EVIL[1], EVIL[3].strip("*"), "<iframe srcdoc", "alert(6)"):
        expect(answers(page).last).to_contain_text(text)
    expect(page.locator("#list button").first).to_have_text(EVIL[0])
    ours = "img:not(.brand img), script:not([src^='/page/']), #turns svg:not(:has(use))"
    assert page.locator(f"{ours}, iframe, style, [onerror], [onclick], [onload]").count() == 0
    links = page.eval_on_selector_all("#turns a", "all => all.map((a) => a.href)")
    assert all(link.startswith("https://") for link in links), links


def test_markdown(visit, stage):
    stage(
        [
            "# Title\n\nSome **bold**, *soft* and `code`.\nSecond line, see https://example.org/a.\n\n"
            "1. one\n2. two\n   - deep\n\n> quoted\n\n```python\nprint('<b>')\n```\n\n"
            "| a | b |\n|---|---|\n| 1 | 2 |\n\n---\n"
            "2 * 3 * 4 and snake_case_name"
        ]
    )
    page = visit()
    ask(page, "Show")
    done(page)
    prose = answers(page)
    for selector, text in {
        "h3": "Title", "strong": "bold", "em": "soft", "p code": "code", "ol > li:first-child": "one",
        "ol ul li": "deep", "blockquote": "quoted", "pre code": "print('<b>')", "td:last-child": "2",
    }.items():  # fmt: skip
        expect(prose.locator(selector)).to_have_text(text)
    expect(prose.locator("a")).to_have_attribute("href", "https://example.org/a")
    expect(prose.locator("p").last).to_have_text("2 * 3 * 4 and snake_case_name")
    assert prose.locator("hr").count() == 1
    assert prose.locator("p br").count() == 1


def test_the_glass_box(visit, stage, tokenizer):
    text = "Hello 世界 🙂!"
    stage([text])
    page = visit()
    ask(page, "Hi")
    done(page)
    page.click("#glass")
    expect(answers(page)).to_be_hidden()
    tokens = page.locator(".tokens span")
    assert tokens.count() == len(tokenizer.encode(text))
    assert "".join(tokens.all_inner_texts()).replace("·", "") == text
    surprises = tokens.evaluate_all("all => all.map((e) => Number(e.style.getPropertyValue('--surprise')))")
    assert min(surprises) > 0.9, "a random model finds everything unlikely"
    tokens.first.click()
    peek = page.locator("#peek")
    expect(peek.locator("li")).to_have_count(11)  # the ten likeliest, and the scripted one, which is not among them
    expect(peek.locator(".chosen code")).to_have_text("H")
    shares = [float(s.strip(" %<")) for s in peek.locator("li span").all_inner_texts()]
    assert sum(shares[:10]) <= 101
    assert shares[:10] == sorted(shares[:10], reverse=True)
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    expect(peek.locator(".chosen code")).not_to_have_text("H")
    page.keyboard.press("Escape")
    expect(peek).to_be_hidden()
    page.reload()
    assert page.locator(".tokens span").count() == len(tokenizer.encode(text)), "kept"


def test_the_glass_box_shows_thoughts_and_calls_in_their_order(visit, stage):
    stage(["Hm.\n", "</think>", "\n\n", "Now.\n", *CALL], ["\n", "</think>", "\n\n", "36"])
    page = visit()
    page.click("#think")
    page.click("#tools")
    page.get_by_label("calculate_math").check()
    ask(page, "12 * 3?")
    done(page)
    page.click("#glass")
    first = "".join(page.locator(".tokens").first.locator("span").all_inner_texts()).replace("⏎", "")
    assert first == "Hm.\n</think>\n\nNow.\n" + "".join(CALL)
    assert page.locator(".tokens .thought").count() > 0


def test_editing_and_answering_again(visit, stage):
    stage(["First."], ["Second."], ["Third."], ["Fourth."])
    page = visit()
    for text in ("a", "b"):
        ask(page, text)
        done(page)
    expect(answers(page)).to_have_text(["First.", "Second."])
    page.get_by_role("button", name="Answer again").last.click()
    expect(answers(page)).to_have_text(["First.", "Third."])
    done(page)
    page.locator(".user").first.hover()
    page.get_by_role("button", name="Edit").first.click()
    page.locator(".editing textarea").fill("c")
    page.get_by_role("button", name="Save and send").click()
    expect(answers(page)).to_have_text(["Fourth."])
    expect(page.locator(".user .bubble")).to_have_text(["c"])


def test_on_a_phone(visit, stage):
    stage(
        [
            "A long answer with averyveryveryveryveryveryveryveryveryveryverylongwordthatdoesnotfit.\n\n```\n"
            + "x" * 120
            + "\n```"
        ]
    )
    page = visit(width=360, has_touch=True, is_mobile=True)
    expect(page.locator("#side")).to_be_hidden()
    ask(page, "https://" + "a" * 100)
    done(page)
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate(
            "document.querySelector('#talk').scrollWidth <= document.querySelector('#talk').clientWidth"
        )
        for selector in ("#send", "#question", "#glass"):
            box = page.locator(selector).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
        page.tap("#glass")
    page.tap("#tools")
    box = page.locator("#tool-list").bounding_box()
    assert 0 <= box["x"] < box["x"] + box["width"] <= 360
    page.tap("#open-side")
    expect(page.locator("#list li")).to_be_visible()
    page.tap("#list li button >> nth=0")
    expect(page.locator("#side")).to_be_hidden()


def test_both_languages(visit, stage):
    stage(["好。"])
    page = visit()
    for language, word, place in (("zh", "新对话", "说点什么……"), ("en", "New chat", "Say something…")):
        page.click("#language")
        expect(page.locator("#new span")).to_have_text(word)
        expect(page.locator("#question")).to_have_attribute("placeholder", place)
        assert page.evaluate("document.documentElement.lang") == language
    page.click("#language")
    page.reload()
    expect(page.locator("#new span")).to_have_text("新对话")
    missing = page.evaluate(
        """async () => {
            const { say, speak } = await import("/page/words.js");
            const words = [...document.querySelectorAll("[data-say], [data-say-label], [data-say-placeholder]")]
                .flatMap((e) => ["data-say", "data-say-label", "data-say-placeholder"].map((a) => e.getAttribute(a)));
            return ["en", "zh"].flatMap((name) => { speak(name); return words.filter((w) => w && !say(w)); });
        }"""
    )
    assert missing == []


def test_everything_has_a_name_and_works_by_keyboard(visit, stage):
    stage(["Yes."])
    page = visit()
    ask(page, "Name?")
    done(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, [role=meter]")].filter((e) =>
            !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length)).map((e) => e.outerHTML)"""
    )
    assert nameless == []
    page.locator("h1").click()
    page.keyboard.press("/")
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(page.locator("#question")).to_have_value("one\ntwo")
    for chosen in ("isComposing: true", "keyCode: 229"):  # Enter chose a Chinese character; WebKit says it so
        press(page, f"{{key: 'Enter', {chosen}}}")
        expect(page.locator("#question")).to_have_value("one\ntwo")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#question")).to_be_focused()
    expect(answers(page)).to_have_text("Yes.")
    page.keyboard.press("Alt+n")
    expect(page.locator("#welcome")).to_be_visible()


def test_settings_are_sent_and_kept(visit, stage):
    stage(["Yes."])
    page = visit()
    page.click("#open-settings")
    page.fill("[name=system]", "Be brief.")
    page.fill("[name=max_tokens]", "7")
    page.fill("[name=seed]", "3")
    page.locator("[name=temperature]").fill("0.3")
    page.get_by_role("button", name="Done").click()
    page.reload()
    with page.expect_request(re.compile("chat/completions")) as request:
        ask(page, "hi")
    done(page)
    sent = json.loads(request.value.post_data)
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (sent["max_tokens"], sent["seed"], sent["temperature"]) == (7, 3, 0.3)


def test_an_error_is_shown_and_can_be_retried(visit, stage):
    stage(["Fine."])
    page = visit(expected=["400"])
    ask(page, "word " * 2500 + "end")
    expect(page.locator("#notice")).to_contain_text("the context is 2048")
    expect(page.locator("#notice button")).to_have_text("Try again")
    page.click("#new")
    ask(page, "short")
    done(page)
    expect(answers(page)).to_have_text("Fine.")
    expect(page.locator("#notice")).to_be_hidden()


def test_dark_and_light(visit, stage):
    page = visit(color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.click("#theme")
    light = page.evaluate(colour)
    assert dark != light
    page.reload()
    assert page.evaluate(colour) == light


def test_a_server_with_a_key(visit, model, tokenizer):
    Stage.scripts[:] = [script(tokenizer, "Welcome.")]
    with serving(model, tokenizer, Stage, api_key="secret") as (url, _):
        page = visit(url, expected=["401"])
        expect(page.locator("#settings")).to_be_visible()
        page.fill("[name=key]", "secret")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_have_text("minimind")
        ask(page, "hi")
        done(page)
        expect(answers(page)).to_have_text("Welcome.")


def test_the_reference_works_without_a_network(visit, stage):
    page = visit(f"{stage.url}/docs")
    expect(page.locator("details").first).to_contain_text("/v1/chat/completions")
    page.locator("summary").first.click()
    expect(page.locator("details[open]")).to_contain_text("max_completion_tokens")
    expect(page.locator("#curl")).to_contain_text('"model": "minimind"')
