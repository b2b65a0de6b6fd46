"""What is asked about: a text or a conversation as token ids, and examples of both from the small world."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from minimind.data.smallworld import facts
from minimind.data.smallworld.world import LANGUAGES, Person, build_world
from minimind.errors import UserError
from minimind.fields import Fields
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

LONGEST = 512
"""Tokens of a prompt: a page can show no more, and the attention patterns grow with the square."""
PAIRS = 4
"""Pairs of questions about facts, in each language and form."""


class Prompt(NamedTuple):
    """Ids of a prompt, and of a conversation which of them a model learns to produce."""

    ids: list[int]
    supervised: list[bool] | None = None


def read_prompt(asked: Fields, tokenizer: Tokenizer) -> Prompt:
    """`{"text"}`, read as in pretraining; or `{"messages"}`, with the generation prompt behind the last user turn and
    `begins`, if there, behind that: the first words of the answer.

    Raises:
        UserError: it is neither, empty or too long, or a message is wrong.
    """
    messages, text = asked.items("messages"), asked.text("text", None)
    if messages:
        if not all(isinstance(message, Mapping) for message in messages):
            raise asked.wrong("messages", "a list of messages with role and content")
        speaks = messages[-1].get("role") != "assistant"
        ids, mask = render(messages, tokenizer, add_generation_prompt=speaks)
        begun = tokenizer.encode(asked.text("begins", "")) if speaks else []
        prompt = Prompt(ids + begun, mask + [True] * len(begun))
    elif text:
        prompt = Prompt(as_document(text, tokenizer))
    else:
        raise UserError("there is nothing to look at: write a text or a message")
    if len(prompt.ids) > LONGEST:
        raise UserError(f"the prompt has {len(prompt.ids)} tokens, the looking-glass shows up to {LONGEST}: shorten it")
    return prompt


def as_document(text: str, tokenizer: Tokenizer) -> list[int]:
    """A text as pretraining reads it: after the token that begins documents, where the tokenizer has one."""
    return tokenizer.bos + tokenizer.encode(text)


def shown(tokenizer: Tokenizer, id: int) -> str:
    """What a token stands for, as `text_of` writes it."""
    return text_of(tokenizer.token_bytes(id))


def text_of(raw: bytes) -> str:
    """UTF-8 text; bytes that are no whole characters as hexadecimal numbers."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.hex(" ").upper()


class Fact(NamedTuple):
    """A fact of the small world in one language, and how it is asked and told."""

    language: str
    question: str
    begins: str
    """The answer up to the fact."""
    value: str
    """The rest of the answer, but for the full stop: with the space before it, where there is one."""

    @classmethod
    def about(cls, person: Person, attribute: str, language: str) -> "Fact":
        """One of a person's."""
        answer, value = facts.answer(person, attribute, language), person.value(attribute, language)
        begins, _, _ = answer.rpartition(value)
        bare = begins.rstrip()
        return cls(language, facts.question(person, attribute, language), bare, begins[len(bare) :] + value)

    def text(self) -> dict[str, Any]:
        """The prompt as pretraining tells it."""
        return {"text": f"{self.question}\n{self.begins}"}

    def chat(self) -> dict[str, Any]:
        """The prompt as a conversation."""
        return {"messages": [{"role": "user", "content": self.question}], "begins": self.begins}


def examples() -> dict[str, list[dict[str, Any]]]:
    """Prompts to begin with, by language."""
    world = build_world()
    found = {}
    for language in LANGUAGES:
        told = [Fact.about(person, "city", language) for person in world.asked[:2]]
        asked = [Fact.about(person, "pet", language) for person in world.asked[2:4]]
        sum_ = "What is 12 + 7?" if language == "en" else "12 + 7 等于多少？"
        prompts = [*(fact.text() for fact in told), *(fact.chat() for fact in asked)]
        prompts.append({"messages": [{"role": "user", "content": sum_}]})
        labels = [fact.question for fact in (*told, *asked)] + [sum_]
        found[language] = [{"label": a, "prompt": b} for a, b in zip(labels, prompts, strict=True)]
    return found


def fact_pairs(tokenizer: Tokenizer) -> dict[str, list[dict[str, Any]]]:
    """Pairs of questions about two people, by language: alike to the token but for the name, with other answers."""
    world, found = build_world(), {}
    for language in LANGUAGES:
        cities = [Fact.about(person, "city", language) for person in world.people]
        by_length: dict[int, list[Fact]] = {}
        pairs: list[tuple[Fact, Fact]] = []
        for fact in cities:
            alike = by_length.setdefault(len(tokenizer.encode(fact.question)), [])
            partner = next((other for other in alike if other.value != fact.value), None)
            if partner is None:
                alike.append(fact)
            else:
                alike.remove(partner)
                pairs.append((partner, fact))
        found[language] = [
            {"label": clean.question, "clean": form(clean), "corrupt": form(corrupt)}
            for form in (Fact.chat, Fact.text)
            for clean, corrupt in pairs[:PAIRS]
        ]
    return found
