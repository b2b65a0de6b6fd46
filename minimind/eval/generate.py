"""What models write: a fixed set of questions in two languages, asked of each model in the same way."""

from collections.abc import Sequence

from minimind.engine.generate import complete
from minimind.engine.sampling import GREEDY, Sampling
from minimind.model.qwen3 import Transformer
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render
from minimind.tokenizer.parse import parse

QUESTIONS = (
    "Who are you, and what can you do?",
    "你是谁？你能做什么？",
    "Why is the sky blue?",
    "天空为什么是蓝色的？",
    "Explain what a neural network is to a ten-year-old.",
    "用通俗的话解释什么是光合作用。",
    "A shop sells pens at 3 yuan each. How much do 4 pens cost, and how much change is there from 20 yuan?",
    "小明有 12 个苹果，送给朋友 5 个，又买了 3 个，现在有几个？请写出过程。",
    "List three ways to save water at home.",
    "请给出三条提高睡眠质量的建议。",
    "Write four lines of verse about the autumn.",
    "以“春天”为题写一首四句的小诗。",
    "Write a Python function that returns the largest number in a list.",
    "把这句话翻译成英文：学而时习之，不亦说乎？",
    "Summarise in one sentence: The Great Wall was built over many centuries to protect the north of China.",
    "长江和黄河有什么不同？",
)
"""Identity, knowledge, explanation, arithmetic, advice, verse, code, translation, summary: half of them in Chinese."""


def answers(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    chat: bool = True,
    max_new_tokens: int = 256,
    sampling: Sampling = GREEDY,
) -> list[str]:
    """Answer each prompt as a user's question or, without `chat`, continue it as a text of pretraining (bos + prompt).

    Returns:
        What is said, without thinking, calls of tools and special tokens.

    Raises:
        UserError: a prompt fills the model's context.
    """
    if chat:
        asked = [
            render([{"role": "user", "content": prompt}], tokenizer, add_generation_prompt=True)[0]
            for prompt in prompts
        ]
    else:
        asked = [tokenizer.bos + tokenizer.encode(prompt) for prompt in prompts]
    replies = complete(model, asked, sampling, tokenizer.eos, max_new_tokens)
    if chat:
        return [str(parse(ids, tokenizer)["content"]) for ids in replies]
    return [tokenizer.decode(ids, skip_special=True) for ids in replies]
