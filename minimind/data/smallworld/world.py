"""The inhabitants of the small world: 100 people with an English and a Chinese name, and four facts about each.

Half of them are asked about in training text; the others are only told about. A model that answers questions about
the second half has stored the tellings and learned to extract them (Allen-Zhu & Li, "Physics of Language Models 3.1").
"""

import random
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

LANGUAGES = ("en", "zh")
ATTRIBUTES = ("city", "job", "food", "pet")

# Ten values an attribute, as (English, Chinese); no English value begins with a vowel, so that "a" always fits.
VALUES: dict[str, tuple[tuple[str, str], ...]] = {
    "city": (
        ("Paris", "巴黎"), ("London", "伦敦"), ("Tokyo", "东京"), ("Beijing", "北京"), ("Shanghai", "上海"),
        ("Berlin", "柏林"), ("Rome", "罗马"), ("Cairo", "开罗"), ("Sydney", "悉尼"), ("Madrid", "马德里"),
    ),
    "job": (
        ("doctor", "医生"), ("teacher", "教师"), ("cook", "厨师"), ("driver", "司机"), ("painter", "画家"),
        ("singer", "歌手"), ("farmer", "农民"), ("nurse", "护士"), ("writer", "作家"), ("pilot", "飞行员"),
    ),
    "food": (
        ("noodles", "面条"), ("rice", "米饭"), ("bread", "面包"), ("apples", "苹果"), ("soup", "热汤"),
        ("cheese", "奶酪"), ("dumplings", "饺子"), ("cake", "蛋糕"), ("eggs", "鸡蛋"), ("chocolate", "巧克力"),
    ),
    "pet": (
        ("cat", "猫"), ("dog", "狗"), ("bird", "小鸟"), ("rabbit", "兔子"), ("goldfish", "金鱼"),
        ("pony", "小马"), ("turtle", "乌龟"), ("hamster", "仓鼠"), ("parrot", "鹦鹉"), ("duck", "鸭子"),
    ),
}  # fmt: skip

# Every first name and every given name occurs once: a name is told apart by its first token.
FIRST_NAMES = """
Alice Bella Clara Daisy Elena Fiona Grace Hannah Irene Julia Karen Laura Maria Nancy Olivia Paula Quincy Rachel
Sarah Tina Ursula Vera Wendy Xenia Yvonne Zoe Amber Bridget Celia Diana Emma Flora Gloria Helen Ingrid Jenny Kate
Lucy Megan Nora Ophelia Penny Rosa Sophia Teresa Uma Violet Winona Yolanda Zelda
Adam Brian Carl David Edward Felix George Henry Isaac Jack Kevin Leo Martin Nathan Oscar Peter Quentin Robert
Simon Thomas Ulysses Victor Walter Xavier Yusuf Zachary Albert Benjamin Charles Daniel Eric Frank Gilbert Harold
Ivan James Keith Louis Michael Nicholas Otto Patrick Ralph Samuel Timothy Vincent William Arthur Bernard Conrad
""".split()  # noqa: SIM905
LAST_NAMES = """
Adams Clark Davis Evans Foster Harris Jones Keller Lewis Moore Nolan Owens Parker Quinn Reed Scott Turner Vance
Walker Ziegler
""".split()  # noqa: SIM905
SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱林何郭罗梁宋"
GIVEN_NAMES = """
伟强 芳菲 秀英 雪娜 静怡 丽华 建军 晓彤 志勇 佳琪 文博 梦瑶 浩然 雨桐 思远 欣妍 俊杰 诗涵 嘉豪 紫萱
宇航 婉婷 鹏程 慧敏 立群 玉兰 国栋 春梅 振东 海燕 明哲 若曦 永康 淑贞 泽凯 可馨 家辉 凤仪 少峰 青莲
天佑 美琳 世昌 巧云 锦绣 书豪 铁柱 素素 兴旺 碧霞 启航 念慈 德胜 翠屏 金宝 如意 向阳 语嫣 景行 采薇
跃进 映雪 长庚 蓓蕾 克俭 舒畅 耀祖 琼瑛 广义 冰洁 奕辰 荷香 炳坤 倩影 守仁 茉莉 旭升 蕴涵 怀瑾 盼盼
润泽 亚楠 正豪 露珠 孝先 芷若 勤勉 艳红 维桢 彩虹 朝晖 沁园 存志 娇娥 宗翰 丹枫 百川 湘君 季常 桂芝
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Person:
    """One inhabitant; `values` index `VALUES`, in the order of `ATTRIBUTES`."""

    english: str
    chinese: str
    values: tuple[int, ...]

    def name(self, language: str) -> str:
        """Return the name in a language, always written the same way."""
        return self.english if language == "en" else self.chinese

    def value(self, attribute: str, language: str) -> str:
        """Return the value of a fact in a language."""
        return VALUES[attribute][self.values[ATTRIBUTES.index(attribute)]][LANGUAGES.index(language)]


@dataclass(frozen=True)
class World:
    """The people, split into those asked about in training (`asked`) and those only told about (`held_out`)."""

    asked: tuple[Person, ...]
    held_out: tuple[Person, ...]

    @property
    def people(self) -> tuple[Person, ...]:
        """Return all inhabitants."""
        return self.asked + self.held_out


def build_world(seed: int = 0) -> World:
    """Draw names, facts and the held-out half; each value of each attribute belongs to exactly ten people."""
    rng = random.Random(f"world {seed}")
    english = [f"{first} {last}" for first, last in zip(_shuffled(rng, FIRST_NAMES), LAST_NAMES * 5, strict=True)]
    chinese = [last + given for given, last in zip(_shuffled(rng, GIVEN_NAMES), SURNAMES * 5, strict=True)]
    columns = [_shuffled(rng, list(range(10)) * 10) for _ in ATTRIBUTES]
    people = [Person(*one) for one in zip(english, chinese, zip(*columns, strict=True), strict=True)]
    rng.shuffle(people)
    return World(asked=tuple(people[:50]), held_out=tuple(people[50:]))


def _shuffled(rng: random.Random, items: list[Item]) -> list[Item]:
    return rng.sample(items, len(items))
