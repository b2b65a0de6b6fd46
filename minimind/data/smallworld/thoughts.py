"""Questions that one thinks about first: what is remembered or counted, then what follows from it.

A thought uses sentences that the model has read elsewhere, so that thinking is remembering aloud.
The rules of `facts.py` for names hold here, too.
"""

import random
from typing import NamedTuple

from minimind.data.smallworld import facts
from minimind.data.smallworld.arithmetic import FULL_STOP
from minimind.data.smallworld.wordings import TELLINGS
from minimind.data.smallworld.world import ATTRIBUTES, Person

JOINED = {"en": " ", "zh": "\n"}
"""Between two sentences about people: a Chinese one begins a line."""

REMEMBERED = {"en": "I remember that", "zh": "我记得"}

COUNTRIES = (
    ("France", "法国"), ("Britain", "英国"), ("Japan", "日本"), ("China", "中国"), ("China", "中国"),
    ("Germany", "德国"), ("Italy", "意大利"), ("Egypt", "埃及"), ("Australia", "澳大利亚"), ("Spain", "西班牙"),
)  # fmt: skip
"""Of the cities in `VALUES`, in their order."""
COUNTRY = {
    "en": ("In which country does {n} live?", "{c} is in {v}.", "The home country of {n} is {v}."),
    "zh": ("{n}住在哪个国家？", "{c}在{v}。", "{n}的国家是{v}。"),
}

DAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "zh": ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"),
}
LATER = range(2, 8)
DAY = {
    "en": ("Today is {d}. Which day comes {k} days later?", "It will be {v}."),
    "zh": ("今天是{d}，{k}天以后是星期几？", "是{v}。"),
}


class Worked(NamedTuple):
    """A question, the thought that leads to its answer, the answer, and what matters of it in a word."""

    question: str
    thought: str
    answer: str
    word: str


def remembered(person: Person, attribute: str, language: str, rng: random.Random) -> Worked:
    """Return a question about a fact; the thought is how one has read of it."""
    clause = rng.choice(TELLINGS[language][attribute])
    clause = clause.format(n=person.name(language), v=person.value(attribute, language))
    thought = f"{REMEMBERED[language]} {clause}." if language == "en" else f"{REMEMBERED[language]}{clause}。"
    asked = facts.question(person, attribute, language, rng)
    word = person.value(attribute, language) + FULL_STOP[language]
    return Worked(asked, thought, facts.answer(person, attribute, language), word)


def country(person: Person, language: str) -> Worked:
    """Return the country of a person, in two steps: where they live, and where that is."""
    question, step, answer = COUNTRY[language]
    name, city = person.name(language), person.value("city", language)
    place = COUNTRIES[person.values[ATTRIBUTES.index("city")]][language == "zh"]
    first = facts.answer(person, "city", language)
    thought = JOINED[language].join((first, step.format(c=city, v=place)))
    return Worked(question.format(n=name), thought, answer.format(n=name, v=place), place + FULL_STOP[language])


def weekday(day: int, later: int, language: str) -> Worked:
    """Return which day of the week comes so many days after another; the thought counts how many are left."""
    names, stop = DAYS[language], FULL_STOP[language]
    counted = [f"{left}: {names[(day + later - left + 1) % 7]}{stop}" for left in range(later, 0, -1)]
    question, answer = (line.format(k=later, d=names[day], v=names[(day + later) % 7]) for line in DAY[language])
    thought = (" " if language == "en" else "").join(counted)
    return Worked(question, thought, answer, names[(day + later) % 7] + stop)


class Calendar:
    """All questions for a day of the week, split into `train` and `held_out`."""

    def __init__(self, seed: int) -> None:
        every = [(day, later) for day in range(7) for later in LATER]
        random.Random(f"weekdays {seed}").shuffle(every)
        self.held_out, self.train = every[:10], every[10:]


def draw(person: Person, calendar: Calendar, language: str, rng: random.Random) -> Worked:
    """Return a question of a random kind about a person, or about the calendar."""
    kind = rng.choice(("remembered", "remembered", "country", "weekday"))
    if kind == "remembered":
        return remembered(person, rng.choice(ATTRIBUTES), language, rng)
    return country(person, language) if kind == "country" else weekday(*rng.choice(calendar.train), language)


def text(people: list[Person], calendar: Calendar, language: str, rng: random.Random) -> str:
    """Return pretraining text: for each person a question, its thought and its answer, a line each."""
    return "\n".join("\n".join(draw(person, calendar, language, rng)[:3]) for person in people)
