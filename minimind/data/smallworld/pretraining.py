"""Pretraining text: an endless stream of documents in which every kind keeps its share of the bytes."""

import random
from collections.abc import Callable, Iterator

from minimind.data.smallworld import arithmetic, copying, facts, invented, stories, thoughts
from minimind.data.smallworld.decks import Deck
from minimind.data.smallworld.split import Split
from minimind.data.smallworld.world import LANGUAGES, Person

# A small model sees about three million tokens in the five minutes of the demo, so most of them are about the people.
# These are shares of the bytes; a digit costs a token, so that of the tokens sums and copying have more.
SHARES = {
    "biography": 0.255,
    "telling": 0.13,
    "interview": 0.145,
    "thoughts": 0.065,
    "sums": 0.115,
    "copying": 0.15,
    "tools": 0.1,
    "story": 0.022,
    "things": 0.018,
}


def documents(split: Split, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) for ever, both languages by turns; nothing in it is held out but the tellings of people."""
    world, sums = split.world, split.sums

    def decks(people: tuple[Person, ...]) -> dict[str, Deck[Person]]:
        return {language: Deck(people, rng) for language in LANGUAGES}

    told, named, asked, pondered = map(decks, (world.people, world.people, world.asked, world.asked))
    make: dict[str, Callable[[str], str]] = {
        "biography": lambda language: facts.biography(told[language].draw(1)[0], language, rng),
        "telling": lambda language: facts.telling(named[language].draw(rng.randint(1, 3)), language, rng),
        "interview": lambda language: facts.interview(asked[language].draw(rng.randint(1, 3)), language, rng),
        "thoughts": lambda language: thoughts.text(
            pondered[language].draw(rng.randint(1, 3)), split.calendar, language, rng
        ),
        "sums": lambda language: arithmetic.text(sums, language, rng),
        "copying": lambda language: copying.text(split, language, rng),
        "tools": lambda language: invented.text(language, rng),
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
