"""Pretraining text: an endless stream of documents in which every kind keeps its share of the bytes."""

import random
from collections.abc import Callable, Iterator

from minimind.data.smallworld import arithmetic, copying, facts, stories
from minimind.data.smallworld.arithmetic import Sums
from minimind.data.smallworld.copying import Draw
from minimind.data.smallworld.tooltasks import DrawTask
from minimind.data.smallworld.world import LANGUAGES, World

# A small model sees about three million tokens in the five minutes of the demo, so most of them are about the people.
# These are shares of the bytes; a digit costs a token, so that of the tokens sums and copying have more.
SHARES = {
    "biography": 0.3,
    "telling": 0.155,
    "interview": 0.19,
    "sums": 0.15,
    "copying": 0.15,
    "story": 0.03,
    "things": 0.025,
}


def documents(
    world: World, sums: Sums, draw_task: DrawTask, draw: Draw, rng: random.Random
) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) for ever, both languages by turns.

    `draw_task` and `draw` give tasks for the calculator and requests for tools that are not held out.
    """
    told = {language: facts.Census(world.people, rng) for language in LANGUAGES}
    named = {language: facts.Census(world.people, rng) for language in LANGUAGES}
    asked = {language: facts.Census(world.asked, rng) for language in LANGUAGES}
    make: dict[str, Callable[[str], str]] = {
        "biography": lambda language: facts.biography(told[language].draw(1)[0], language, rng),
        "telling": lambda language: facts.telling(named[language].draw(rng.randint(1, 3)), language, rng),
        "interview": lambda language: facts.interview(asked[language].draw(rng.randint(1, 3)), language, rng),
        "sums": lambda language: arithmetic.text(sums, language, rng),
        "copying": lambda language: copying.text(language, draw_task, draw, rng),
        "story": lambda language: stories.story(sums, language, rng),
        "things": lambda language: stories.things(language, rng),
    }
    written = dict.fromkeys(SHARES, 0.0)
    while True:
        kind = min(SHARES, key=lambda name: written[name] / SHARES[name])
        for language in LANGUAGES:
            text = make[kind](language)
            written[kind] += len(text.encode())
            yield kind, text
