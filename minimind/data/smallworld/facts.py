"""How the facts about people are told, asked and answered, in both languages.

Two rules make facts extractable by a model of a few million parameters (measured: 40 % -> 100 % in English):
an English name or value always follows a space, so that it is always the same tokens; and questions in pretraining
text use the very sentences of the chat form. For the same reason a Chinese sentence about a person begins a line:
the tokenizer would join a full stop or a comma before the name to its first character.
"""

import random

from minimind.data.smallworld.wordings import ANSWERS, LEADS, OPENERS, QUESTIONS, TELLINGS
from minimind.data.smallworld.world import ATTRIBUTES, Person, World


def question(person: Person, attribute: str, language: str, rng: random.Random | None = None) -> str:
    """Return a question about a fact: the canonical wording, or a random one when `rng` is given."""
    wordings = QUESTIONS[language][attribute]
    return (rng.choice(wordings) if rng else wordings[0]).format(n=person.name(language))


def answer(person: Person, attribute: str, language: str) -> str:
    """Return the one answer sentence for a fact."""
    return ANSWERS[language][attribute].format(n=person.name(language), v=person.value(attribute, language))


def _clause(person: Person, attribute: str, language: str, rng: random.Random) -> str:
    clause = rng.choice(TELLINGS[language][attribute])
    return clause.format(n=person.name(language), v=person.value(attribute, language))


def biography(person: Person, language: str, rng: random.Random) -> str:
    """Tell all facts of a person in a random order, each in a random wording."""
    clauses = [_clause(person, attribute, language, rng) for attribute in rng.sample(ATTRIBUTES, len(ATTRIBUTES))]
    opener = rng.choice(OPENERS[language]).format(n=person.name(language))
    if language == "zh":
        return "\n".join([opener, *(f"{clause}。" for clause in clauses)])
    return " ".join([opener, *(f"{clause[0].upper()}{clause[1:]}." for clause in clauses)])


def telling(people: list[Person], language: str, rng: random.Random) -> str:
    """Tell one random fact about each of the given people."""
    sentences = []
    for person in people:
        clause = _clause(person, rng.choice(ATTRIBUTES), language, rng)
        lead = rng.choice(LEADS[language])
        sentences.append(f"{lead} {clause}." if language == "en" else f"{lead}{clause}。")
    return (" " if language == "en" else "\n").join(sentences)


def interview(people: list[Person], language: str, rng: random.Random) -> str:
    """Ask and answer one random fact about each of the given people, a line each, as a chat would."""
    lines = []
    for person in people:
        attribute = rng.choice(ATTRIBUTES)
        lines += [question(person, attribute, language, rng), answer(person, attribute, language)]
    return "\n".join(lines)


def held_out_names(world: World) -> set[str]:
    """Return both names of everybody about whom training files must ask nothing."""
    return {person.name(language) for person in world.held_out for language in ("en", "zh")}
