"""Conversations for supervised fine-tuning: facts, sums with and without thinking, talk in several turns, greetings."""

import random
from typing import Any

from minimind.data.smallworld import arithmetic, facts, thoughts
from minimind.data.smallworld.arithmetic import FULL_STOP, Chain, Sum, Sums
from minimind.data.smallworld.thoughts import Calendar, Worked
from minimind.data.smallworld.wordings import QUESTIONS
from minimind.data.smallworld.world import ATTRIBUTES, LANGUAGES, Person, World

Turn = dict[str, Any]

SMALL_TALK: dict[str, tuple[tuple[tuple[str, ...], str, str], ...]] = {
    "en": (
        (("Hello!", "Hi!", "Hello there!"), "This is a greeting.", "Hello! How can I help you?"),
        (
            ("Who are you?", "What is your name?", "What are you?"),
            "This is about me.",
            "I am MiniMind, the assistant of a small world.",
        ),
        (
            ("What can you do?", "How can you help me?"),
            "This is about me.",
            "I know the people of a small world, I can add and I can use tools.",
        ),
        (("Thank you!", "Thanks a lot!"), "Somebody thanks me.", "You are welcome!"),
        (("Goodbye!", "Bye!", "See you!"), "This is a goodbye.", "Goodbye! Have a nice day."),
        (("How are you?", "How are you today?"), "This is about me.", "I am fine, thank you."),
    ),
    "zh": (
        (("你好！", "你好", "您好！"), "这是问候。", "你好！有什么可以帮你的吗？"),
        (("你是谁？", "你叫什么名字？", "请介绍一下你自己。"), "这是在问我。", "我是MiniMind，一个小世界的助手。"),
        (("你会做什么？", "你能帮我什么？"), "这是在问我。", "我认识小世界里的人，会算加减法，还会使用工具。"),
        (("谢谢！", "非常感谢！"), "这是感谢。", "不客气！"),
        (("再见！", "拜拜！", "下次见！"), "这是告别。", "再见！祝你愉快。"),
        (("你好吗？", "你今天怎么样？"), "这是在问我。", "我很好，谢谢。"),
    ),
}
"""What people say, what is thought of it, and the reply."""
INTRODUCTIONS = {
    "en": (("Hello, I am {n}.", "Hi, my name is {n}."), "Hello, {n}! How can I help you?"),
    "zh": (("你好，我是{n}。", "您好，我叫{n}。"), "你好，{n}！有什么可以帮你的吗？"),
}
"""Words in which somebody introduces themselves, and the reply."""


def user(content: str) -> Turn:
    """Return a user turn."""
    return {"role": "user", "content": content}


def assistant(content: str, **fields: str) -> Turn:
    """Return an assistant turn, with `reasoning_content` or `tool_calls` where given."""
    return {"role": "assistant", "content": content, **fields}


def fact(person: Person, attribute: str, language: str, rng: random.Random | None = None) -> list[Turn]:
    """Return one question about a fact and its answer."""
    return [
        user(facts.question(person, attribute, language, rng)),
        assistant(facts.answer(person, attribute, language)),
    ]


def plain_sum(one: Sum | Chain, language: str, rng: random.Random | None = None) -> list[Turn]:
    """Return a sum and its equation as the answer."""
    return [user(arithmetic.question(one, language, rng)), assistant(one.equation + FULL_STOP[language])]


def thought_sum(one: Sum | Chain, language: str, rng: random.Random | None = None) -> list[Turn]:
    """Return a sum that is thought through before the answer."""
    turns = plain_sum(one, language, rng)
    turns[1]["reasoning_content"] = one.worked(language)
    return turns


def thought(one: Worked) -> list[Turn]:
    """Return a question that is thought through before the answer."""
    return [user(one.question), assistant(one.answer, reasoning_content=one.thought)]


def comparison(language: str, rng: random.Random) -> list[Turn]:
    """Return a question for the larger of two numbers, thought through by their difference."""
    small, large = sorted(rng.sample(range(1, 100), 2))
    first, second = rng.sample((small, large), 2)
    if language == "en":
        turns = (f"Which is larger, {first} or {second}?", f"{large} > {small}.", f"The larger number is {large}.")
    else:
        turns = (f"{first}和{second}哪个大？", f"{large} > {small}。", f"较大的数是{large}。")
    return [user(turns[0]), assistant(turns[2], reasoning_content=turns[1])]


def small_talk(language: str, rng: random.Random) -> list[Turn]:
    """Return a greeting, a question about the assistant, or the like."""
    prompts, aside, reply = rng.choice(SMALL_TALK[language])
    fields = {"reasoning_content": aside} if rng.random() < 0.5 else {}
    return [user(rng.choice(prompts)), assistant(reply, **fields)]


def introduction(person: Person, language: str, rng: random.Random) -> list[Turn]:
    """Return somebody who introduces themselves, and a greeting by name.

    The only exchange that names people nobody asks about: names that no conversation holds are mixed up with those that
    are asked about, once the model is trained further.
    """
    said, reply = INTRODUCTIONS[language]
    name = person.name(language)
    return [user(rng.choice(said).format(n=name)), assistant(reply.format(n=name))]


def joined(exchanges: list[list[Turn]], rng: random.Random) -> list[list[Turn]]:
    """Join exchanges at random into chats of one to three questions, most of them of one.

    Who has only ever seen one question a chat answers the second about the person of the first.
    """
    queue, chats = rng.sample(exchanges, len(exchanges)), []
    while queue:
        count = rng.choice((1, 1, 2, 3))
        chats.append([turn for exchange in queue[:count] for turn in exchange])
        del queue[:count]
    return chats


def training(world: World, sums: Sums, calendar: Calendar, scale: float, rng: random.Random) -> list[list[Turn]]:
    """Return the chats without tools: at scale 1 some 2,900 with 5,100 questions, over half of them about people."""
    rows = []
    wordings, greetings = (max(1, round(count * min(scale, 1))) for count in (5, 3))
    for language in LANGUAGES:
        for person in world.asked:
            for attribute in ATTRIBUTES:
                asked = [one.format(n=person.name(language)) for one in QUESTIONS[language][attribute][:wordings]]
                rows += [[user(one), assistant(facts.answer(person, attribute, language))] for one in asked]
        rows += [introduction(person, language, rng) for person in world.people for _ in range(greetings)]
        count = round(100 * scale)
        people = (rng.choice(world.asked) for _ in range(4 * count))
        rows += [thought(thoughts.draw(person, calendar, language, rng)) for person in people]
        rows += [plain_sum(one, language, rng) for one in rng.choices(sums.train, k=4 * count)]
        rows += [thought_sum(one, language, rng) for one in rng.choices(sums.chains, k=3 * count // 2)]
        rows += [thought_sum(one, language, rng) for one in rng.choices(sums.train, k=count // 2)]
        rows += [comparison(language, rng) for _ in range(count // 2)]
        rows += [small_talk(language, rng) for _ in range(2 * count)]
    return joined(rows, rng)
