"""Tools that are made up for one text or dialogue: who calls them must have read their schema.

Tools that always take the same arguments are learned by heart, and a new one is then called with the arguments of an
old one. Here names and parameters are drawn anew each time, so that nothing but the schema can tell what they are. Some
pairs of verb and noun are held out: tools that no training file holds, with parameters in a combination of their own.
"""

import json
import random
from dataclasses import dataclass
from typing import Any

from minimind.data.smallworld import tooltalk
from minimind.data.smallworld.conversations import Turn, assistant, user
from minimind.data.smallworld.tooltalk import Request
from minimind.data.smallworld.world import LANGUAGES

VERBS = (
    ("find", "找"), ("play", "播放"), ("open", "打开"), ("close", "关上"), ("order", "订购"), ("send", "寄出"),
    ("show", "展示"), ("start", "启动"), ("stop", "停止"), ("buy", "买"), ("sell", "卖"), ("clean", "打扫"),
    ("check", "检查"), ("move", "搬走"), ("paint", "粉刷"), ("lend", "借出"), ("mark", "标记"), ("count", "清点"),
    ("wash", "清洗"), ("rent", "租"),
)  # fmt: skip
NOUNS = (
    ("song", "歌曲"), ("film", "电影"), ("book", "书"), ("table", "桌子"), ("room", "房间"), ("taxi", "出租车"),
    ("letter", "信"), ("lamp", "台灯"), ("door", "门"), ("game", "游戏"), ("garden", "花园"), ("ticket", "票"),
    ("chair", "椅子"), ("window", "窗户"), ("ship", "船"), ("train", "火车"), ("bag", "包"), ("coat", "外套"),
    ("clock", "钟"), ("phone", "电话"), ("picture", "画"), ("box", "箱子"), ("bottle", "瓶子"), ("toy", "玩具"),
)  # fmt: skip
# (in English and in the schema, in Chinese)
WORDED = (
    ("title", "标题"), ("name", "名字"), ("place", "地点"), ("owner", "主人"), ("color", "颜色"), ("street", "街道"),
    ("note", "备注"), ("topic", "主题"), ("style", "风格"), ("label", "标签"), ("maker", "厂家"), ("team", "队伍"),
)  # fmt: skip
NUMBERED = (
    ("day", "日子"), ("hour", "小时"), ("size", "尺寸"), ("amount", "数量"), ("price", "价格"), ("page", "页码"),
    ("year", "年份"), ("floor", "楼层"), ("weight", "重量"), ("speed", "速度"),
)  # fmt: skip
ADJECTIVES = (
    ("first", "第一"), ("second", "第二"), ("new", "新"), ("old", "旧"), ("main", "主要"), ("home", "家里的"),
    ("best", "最好的"), ("last", "最后的"), ("next", "下一个"), ("other", "另一个"), ("real", "真正的"),
    ("full", "完整的"),
)  # fmt: skip
"""Put before most parameters, so that there are too many to know them all."""
WORDINGS = {
    "en": ("{verb} the {noun}: {said}.", "Please {verb} a {noun} with {said}.", "{verb} me a {noun}, {said}."),
    "zh": ("{verb}{noun}：{said}。", "请{verb}{noun}，{said}。", "帮我{verb}{noun}，{said}。"),
}
RESULT = json.dumps({"done": True})
DONE = {"en": "Done.", "zh": "好了。"}


@dataclass(frozen=True)
class Parameter:
    """What a tool takes: a number or some words."""

    name: str
    chinese: str
    number: bool

    @property
    def schema(self) -> dict[str, str]:
        """The parameter as JSON schema has it."""
        kind = "integer" if self.number else "string"
        return {"type": kind, "description": f"The {self.said('en').strip()}"}

    def said(self, language: str) -> str:
        """What a user says before the value."""
        return f"{self.name.replace('_', ' ')} " if language == "en" else self.chinese


@dataclass(frozen=True)
class Tool:
    """What nobody has ever called."""

    verb: tuple[str, str]
    noun: tuple[str, str]
    parameters: tuple[Parameter, ...]

    @property
    def name(self) -> str:
        """Such as `wash_coat`."""
        return f"{self.verb[0]}_{self.noun[0]}"

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as it is offered."""
        properties = {one.name: one.schema for one in self.parameters}
        description = f"{self.verb[0].capitalize()} a {self.noun[0]}"
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        return {
            "type": "function",
            "function": {"name": self.name, "description": description, "parameters": parameters},
        }


def draw(rng: random.Random, held_out: bool = False, like: Tool | None = None) -> Tool:
    """Return a tool of one or two parameters; one `like` another shares its verb or its noun in two of three cases."""
    while True:
        verb, noun = rng.choice(VERBS), rng.choice(NOUNS)
        if like is not None:
            verb, noun = rng.choice(((like.verb, noun), (verb, like.noun), (verb, noun)))
        other = like is None or (verb, noun) != (like.verb, like.noun)
        if other and ((VERBS.index(verb) + NOUNS.index(noun)) % 6 == 0) == held_out:
            break
    kinds = [(rng.choice((WORDED, NUMBERED)), rng.random() < 0.6) for _ in range(rng.choice((1, 1, 2)))]
    parameters: dict[str, Parameter] = {}
    for words, adjective in kinds:
        name, chinese = rng.choice(words)
        if adjective:
            before = rng.choice(ADJECTIVES)
            name, chinese = f"{before[0]}_{name}", before[1] + chinese
        parameters[name] = Parameter(name, chinese, words is NUMBERED)
    return Tool(verb, noun, tuple(parameters.values()))


def request(tool: Tool, language: str, rng: random.Random) -> Request:
    """Draw a wish for the tool.

    In three of five cases the user does not say what a value is where its type tells; then the schema alone knows.
    """
    kinds = [one.number for one in tool.parameters]
    named = len(set(kinds)) < len(kinds) or rng.random() < 0.4
    index = LANGUAGES.index(language)
    arguments: dict[str, Any] = {}
    said = []
    for one in tool.parameters:
        value = rng.randint(1, 99) if one.number else tooltalk.words(language, rng.randint(1, 2), rng)
        arguments[one.name] = value
        said.append(f"{one.said(language)}{value}" if named else str(value))
    listed = (" and ", "，")[index].join(rng.sample(said, len(said)))
    wording = rng.choice(WORDINGS[language])
    text = wording.format(verb=tool.verb[index], noun=tool.noun[index], said=listed)
    return Request(tool.name, language, text[0].upper() + text[1:], arguments, {})


def text(language: str, rng: random.Random) -> str:
    """Return pretraining text: a tool's schema, or what two or three tools take in short; requests and their calls."""
    first = draw(rng)
    if rng.random() < 0.5:
        offered = called = [first]
        lines = [json.dumps(first.schema["function"], ensure_ascii=False)]
    else:
        offered = [first, *(draw(rng, like=first) for _ in range(rng.choice((1, 2))))]
        called = rng.sample(offered, 2)
        lines = [f"{tool.name}: {', '.join(one.name for one in tool.parameters)}" for tool in offered]
    for tool in called:
        one = request(tool, language, rng)
        lines += [one.text, json.dumps(one.call, ensure_ascii=False)]
    return "\n".join(lines)


def dialogue(language: str, rng: random.Random, held_out: bool = False) -> list[Turn]:
    """Return a dialogue with two or three such tools on offer; for training two of them are called, one after another.

    Held-out ones have one call, of one of two.
    """
    first = draw(rng, held_out)
    others = [draw(rng, held_out, like=first) for _ in range(1 if held_out else rng.choice((1, 1, 2)))]
    schemas = [tool.schema for tool in rng.sample([first, *others], 1 + len(others))]
    system = {"role": "system", "content": tooltalk.SYSTEM[language]}
    turns = [{**system, "tools": json.dumps(schemas, ensure_ascii=False)}]
    for tool in [first] if held_out else [first, others[0]]:
        one = request(tool, language, rng)
        turns += [user(one.text), assistant("", tool_calls=json.dumps([one.call], ensure_ascii=False))]
        turns += [{"role": "tool", "content": RESULT}, assistant(DONE[language])]
    return turns
