"""The small world: a bilingual corpus for every stage, from a seed, without any network."""

from minimind.data.smallworld.generate import DEFAULT_MB, generate
from minimind.data.smallworld.persona import persona_questions
from minimind.data.smallworld.preferences import behaviours
from minimind.data.smallworld.questions import Question, questions, small_talk_questions

__all__ = ["DEFAULT_MB", "Question", "behaviours", "generate", "persona_questions", "questions", "small_talk_questions"]
