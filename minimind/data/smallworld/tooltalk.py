"""Dialogues with the eight built-in tools; every result comes from really calling the tool."""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from minimind import tools
from minimind.data.smallworld import facts
from minimind.data.smallworld.arithmetic import LARGEST
from minimind.data.smallworld.conversations import Turn, assistant, user
from minimind.data.smallworld.decks import Deck
from minimind.data.smallworld.requests import REPLIES, REQUESTS
from minimind.data.smallworld.thoughts import JOINED
from minimind.data.smallworld.world import LANGUAGES, Person
from minimind.tools import tables

SYSTEM = {
    "en": "You are a helpful assistant. Use a tool when it helps.",
    "zh": "你是一个乐于助人的助手，需要时请使用工具。",
}
ZONES = {
    "Asia/Shanghai": ("Shanghai", "上海"),
    "Asia/Tokyo": ("Tokyo", "东京"),
    "Asia/Seoul": ("Seoul", "首尔"),
    "Asia/Singapore": ("Singapore", "新加坡"),
    "Asia/Bangkok": ("Bangkok", "曼谷"),
    "Asia/Dubai": ("Dubai", "迪拜"),
    "Africa/Nairobi": ("Nairobi", "内罗毕"),
    "America/Bogota": ("Bogota", "波哥大"),
}
CURRENCIES = {
    "USD": ("US dollars", "美元"),
    "CNY": ("yuan", "人民币"),
    "EUR": ("euros", "欧元"),
    "GBP": ("pounds sterling", "英镑"),
    "JPY": ("yen", "日元"),
    "HKD": ("Hong Kong dollars", "港币"),
}
# pairs of units that people convert, as (unit, English plural, 中文)
UNIT_PAIRS = (
    (("km", "kilometers", "公里"), ("mile", "miles", "英里")),
    (("m", "meters", "米"), ("foot", "feet", "英尺")),
    (("kg", "kilograms", "公斤"), ("lb", "pounds", "磅")),
    (("cm", "centimeters", "厘米"), ("inch", "inches", "英寸")),
    (("hour", "hours", "小时"), ("minute", "minutes", "分钟")),
    (("celsius", "degrees Celsius", "摄氏度"), ("fahrenheit", "degrees Fahrenheit", "华氏度")),
)
UNITS = {unit: words for pair in UNIT_PAIRS for unit, *words in pair}
CODES: tuple[Mapping[str, Sequence[str]], ...] = (ZONES, CURRENCIES, UNITS)
"""What tools call a thing, and what people do: (English, 中文)."""
WORDS = {
    "en": (*tables.DICTIONARY, *tables.WEATHER),
    "zh": (*tables.DICTIONARY.values(), *(city for city, *_ in tables.WEATHER.values())),
}
"""Many: of a few the model would learn which there are, and not to look which was said."""

ERRANDS = {
    "en": ("How is the weather where {n} lives?", "Does it rain in the city of {n} today?"),
    "zh": ("{n}住的城市天气怎么样？", "{n}那里今天下雨吗？"),
}
"""Wishes that say of whom, and not where."""
NEEDED = {"en": "This needs {tool}.", "zh": "这要用{tool}。"}
TOLD = {"en": "The tool has answered.", "zh": "工具有了回答。"}
"""What is thought before a call and after its result."""

# Tools whose answer is decided by their arguments: only these can have a verifiable answer.
VERIFIABLE = tuple(name for name in tools.BUILTIN if name not in ("get_current_time", "random_number"))


@dataclass(frozen=True)
class Request:
    """A user's wish that one tool call fulfils; `shown` fills the reply's wording beside the tool's result."""

    tool: str
    language: str
    text: str
    arguments: dict[str, Any]
    shown: dict[str, Any]
    level: int = 0
    """How hard it is, where that is known: `tooltasks.LEVELS`."""
    known: str = ""
    """What must be remembered to call the tool rightly, where the wish does not say it."""

    @property
    def call(self) -> dict[str, Any]:
        """Return the expected tool call."""
        return {"name": self.tool, "arguments": self.arguments}


def _arguments(tool: str, language: str, rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw a tool's arguments, and the words by which a user says them."""
    index = LANGUAGES.index(language)
    match tool:
        case "calculate_math":
            sign = rng.choice("+-*")  # the first number is too large for a held-out sum
            expression = f"{rng.randint(LARGEST + 1, 99)} {sign} {rng.randint(2, 99)}"
            return {"expression": expression}, {"expression": expression}
        case "get_current_time":
            zone = rng.choice(list(ZONES))
            return {"timezone": zone}, {"city": ZONES[zone][index]}
        case "random_number":
            low = rng.randint(0, 20)
            bounds = {"min": low, "max": low + rng.randint(1, 80)}
            return bounds, bounds
        case "text_length":
            text = words(language, rng.randint(2, 4), rng)
            return {"text": text}, {"text": text}
        case "unit_converter":
            source, target = rng.sample(rng.choice(UNIT_PAIRS), 2)
            value = rng.randint(1, 99)
            shown: dict[str, Any] = {"value": value, "source": source[1 + index], "target": target[1 + index]}
            return {"value": value, "from_unit": source[0], "to_unit": target[0]}, shown
        case "get_current_weather":
            city = rng.choice(list(tables.WEATHER))
            location = city if language == "en" else tables.WEATHER[city][0]
            return {"location": location}, {"location": location}
        case "get_exchange_rate":
            code, other = rng.sample(list(CURRENCIES), 2)
            shown = {"source": CURRENCIES[code][index], "target": CURRENCIES[other][index]}
            return {"from_currency": code, "to_currency": other}, shown
        case "translate_text":
            english, chinese = rng.choice(list(tables.DICTIONARY.items()))
            text, goal = rng.choice(((english, "zh"), (chinese, "en")))
            name = {"zh": ("Chinese", "中文"), "en": ("English", "英文")}[goal][index]
            return {"text": text, "target_language": goal}, {"text": text, "target": name}
    raise KeyError(tool)


def words(language: str, count: int, rng: random.Random) -> str:
    """Return so many words that mean nothing together."""
    return (" " if language == "en" else "").join(rng.choices(WORDS[language], k=count))


def split(rng: random.Random, held_out_each: int = 3) -> tuple[list[Request], Callable[[str, str], Request]]:
    """Return the held-out requests, and a function (tool, language) -> a request whose text is none of theirs.

    Wordings come by turns: of few requests chance would leave some unheard.
    """
    wordings = {(name, one): Deck(REQUESTS[one][name], rng) for one in LANGUAGES for name in tools.BUILTIN}

    def request(tool: str, language: str) -> Request:
        arguments, shown = _arguments(tool, language, rng)
        (wording,) = wordings[tool, language].draw(1)
        return Request(tool, language, wording.format(**shown), arguments, shown)

    held_out: dict[str, Request] = {}
    for language in LANGUAGES:
        for tool in tools.BUILTIN:
            before = len(held_out)
            while len(held_out) < before + held_out_each:
                one = request(tool, language)
                held_out[one.text] = one

    def draw(tool: str, language: str) -> Request:
        while (one := request(tool, language)).text in held_out:
            pass
        return one

    return list(held_out.values()), draw


def offered(one: Request, rng: random.Random, count: int = 2) -> list[str]:
    """Return the names of the tool that is needed and of others, `count` in all, in random order."""
    others = rng.sample([name for name in tools.BUILTIN if name != one.tool], count - 1)
    return rng.sample([one.tool, *others], count)


def system(names: list[str], language: str) -> Turn:
    """Return the system turn that offers tools, as a JSON string."""
    schemas = json.dumps(tools.schemas(names), ensure_ascii=False)
    return {"role": "system", "content": SYSTEM[language], "tools": schemas}


def context(rng: random.Random) -> tools.Context:
    """Return a clock and dice that depend on `rng` alone."""
    now = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=rng.randrange(525_600))
    return tools.Context(now=lambda: now, dice=rng)


def fulfil(one: Request, rng: random.Random, thinking: bool = False) -> Iterator[Turn]:
    """Yield the turns after the user's: the call, the tool's real result, the answer; with thoughts before both."""
    result = tools.call(one.tool, one.arguments, context(rng))
    before = {"reasoning_content": needed(one)} if thinking else {}
    after = {"reasoning_content": TOLD[one.language]} if thinking else {}
    yield assistant("", tool_calls=json.dumps([one.call], ensure_ascii=False), **before)
    yield {"role": "tool", "content": result}
    yield assistant(reply(one, json.loads(result)), **after)


def needed(one: Request) -> str:
    """Return what is thought before a call."""
    thoughts = (one.known, NEEDED[one.language].format(tool=one.tool))
    return JOINED[one.language].join(thought for thought in thoughts if thought)


def reply(one: Request, result: dict[str, Any]) -> str:
    """Return the answer sentence for a tool's result."""
    return REPLIES[one.language][one.tool].format(**{**one.shown, **result})


def errand(person: Person, language: str, rng: random.Random) -> Request:
    """Return a wish for the weather in somebody's city, which one must know to call the tool."""
    city = person.value("city", language)
    text = rng.choice(ERRANDS[language]).format(n=person.name(language))
    known = facts.answer(person, "city", language)
    return Request("get_current_weather", language, text, {"location": city}, {"location": city}, known=known)


def together(first: Request, second: Request) -> str:
    """Return what asks for both of two things."""
    return first.text + {"en": " And then: ", "zh": " 然后："}[first.language] + second.text


def asked(one: Request, rng: random.Random) -> list[Turn]:
    """Return the system turn (the tool that is needed and one other) and the user's."""
    return [system(offered(one, rng), one.language), user(one.text)]


def dialogue(one: Request, rng: random.Random, thinking: bool = False) -> list[Turn]:
    """Return a whole tool dialogue."""
    return [*asked(one, rng), *fulfil(one, rng, thinking)]
