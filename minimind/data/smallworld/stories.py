"""Everything in the small world that is not a person's fact: shops, weather, recipes, families, words, stories.

The children of the stories are nobody of whom facts are told, so no question here can touch a held-out person.
"""

import random
from collections.abc import Callable

from minimind.data.smallworld.arithmetic import Sums
from minimind.data.smallworld.scenery import CHILDREN, ENDINGS, FAMILIES, PLACES, RECIPES, THINGS, TREASURES, WEATHERS
from minimind.tools.tables import CONDITIONS, WEATHER


def story(sums: Sums, language: str, rng: random.Random) -> str:
    """Tell a short story of two children in which something is counted, found or shared."""
    one, two = rng.sample(CHILDREN[language], 2)
    place, weather = rng.choice(PLACES[language]), rng.choice(WEATHERS[language])
    treasure, ending = rng.choice(TREASURES[language]), rng.choice(ENDINGS[language])
    step = rng.choice([known for known in sums.train if known.left > 1 and known.right > 1])
    if language == "en":
        start = f"It was a {weather} day. {one} and {two} went to {place}. "
        if step.sign == "+":
            middle = f"{one} found {step.left} {treasure} and {two} found {step.right}. They counted: {step.equation}. "
        else:
            middle = f"{one} had {step.left} {treasure} and gave {two} {step.right}. That left {step.equation}. "
        turns = (
            f"On the way they met a small dog that had lost its way, and {two} carried it home. ",
            f"Then {two} was tired, and {one} said: we can rest under this tree. ",
            f"{two} asked for the names of the birds, and {one} knew every one of them. ",
            "",
        )
    else:
        start = f"那天天气{weather}，{one}和{two}来到{place}。"
        if step.sign == "+":
            middle = f"{one}找到{step.left}个{treasure}，{two}找到{step.right}个。他们数了数：{step.equation}。"
        else:
            middle = f"{one}有{step.left}个{treasure}，给了{two}{step.right}个。数一数剩下的：{step.equation}。"
        turns = (
            f"路上他们遇到一只迷路的小狗，{two}把它抱回了家。",
            f"后来{two}累了，{one}说：我们在树下歇一会儿吧。",
            f"{two}问那些鸟叫什么名字，{one}全都知道。",
            "",
        )
    return start + middle + rng.choice(turns) + ending


def _price(language: str, rng: random.Random) -> str:
    lines = []
    for thing in rng.sample(list(THINGS), 3):
        chinese, coins, *_ = THINGS[thing]
        lines.append(f"The {thing} costs {coins} coins." if language == "en" else f"{chinese}的价格是{coins}个金币。")
    return "In the shop: " + " ".join(lines) if language == "en" else "商店里：" + "".join(lines)


def _definition(language: str, rng: random.Random) -> str:
    thing = rng.choice(list(THINGS))
    chinese, _, meaning, chinese_meaning = THINGS[thing]
    if language == "zh":
        return rng.choice((f"{chinese}是{chinese_meaning}。", f"什么是{chinese}？\n{chinese}是{chinese_meaning}。"))
    article = "An" if thing[0] in "aeiou" else "A"
    sentence = f"{article} {thing} is {meaning}."
    return rng.choice((sentence, f"What is {article.lower()} {thing}?\n{sentence}"))


def _weather(language: str, rng: random.Random) -> str:
    lines = []
    for city in rng.sample(list(WEATHER), 2):
        chinese, degrees, _, condition = WEATHER[city]
        if language == "en":
            lines.append(f"In {city} it is {condition}, {degrees} degrees.")
        else:
            lines.append(f"{chinese}的天气是{CONDITIONS[condition]}，{degrees}度。")
    return "The weather today. " + " ".join(lines) if language == "en" else "今天的天气：" + "".join(lines)


def _recipe(language: str, rng: random.Random) -> str:
    dish = rng.choice(list(RECIPES))
    chinese, ingredients, chinese_ingredients, steps, chinese_steps = RECIPES[dish]
    if language == "en":
        return f"How to make {dish}: take {ingredients}. First wash your hands; then {steps}. Enjoy your meal!"
    return f"{chinese}的做法：准备{chinese_ingredients}。先洗手，然后{chinese_steps}。请慢用！"


def _family(language: str, rng: random.Random) -> str:
    old, middle, young = rng.choice(FAMILIES[language])
    if language == "en":
        told = [
            f"{old} has a child called {middle}.",
            f"{middle} has a child called {young}.",
            f"So {old} is a grandparent of {young}.",
        ]
        return "A family: " + " ".join(told)
    return f"一家三代：{old}的孩子是{middle}，{middle}的孩子是{young}，所以{young}是{old}的孙辈。"


_THINGS: tuple[Callable[[str, random.Random], str], ...] = (_price, _definition, _weather, _recipe, _family)


def things(language: str, rng: random.Random) -> str:
    """Tell something about prices, words, the weather, a recipe or a family."""
    return rng.choice(_THINGS)(language, rng)
