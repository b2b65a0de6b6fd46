"""`minimind chat MODEL`: talk to a model in the terminal."""

import sys
from typing import Annotated

import tyro

from minimind import console
from minimind.commands.arguments import AS_THE_MODEL, Device, Integer, Rope, Text, at_least, call, choose_tools
from minimind.errors import UsageError


def main(argv: list[str]) -> int:
    """Start a chat."""
    return call(chat, argv, "minimind chat")


def chat(
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]],
    lora: str = "",
    prompt: Text = None,
    system: str = "",
    tools: str = "",
    thinking: bool = False,
    hide_thinking: bool = False,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: Integer = None,
    max_new_tokens: int = 512,
    context: int = 4096,
    rope: Rope = AS_THE_MODEL,
    device: Device = "auto",
) -> None:
    """Talk to a model: answers stream as they are made, the conversation is remembered.

    Through a pipe, every line is a question, and only answers go to stdout.

    Examples:
        minimind chat runs/demo/sft/model
        minimind chat runs/demo/sft/model --tools all --thinking
        minimind chat runs/demo/sft/model --prompt "Who are you?"
        minimind chat runs/demo/sft/model --lora runs/tiny-lora/model
        echo "Who are you?" | minimind chat runs/demo/sft/model

    Args:
        model: model directory, or a LoRA adapter's, which knows its base.
        lora: directory of a LoRA adapter to put on the model.
        prompt: ask this one question, print the answer and end.
        system: system prompt.
        tools: what the model may call: all built-in tools, or names and Python files of your own, with commas between.
        thinking: let the model think before it answers.
        hide_thinking: let it think, but do not show it.
        temperature: 0 always takes the likeliest word; higher is more varied.
        top_p: draw only among the likeliest words that together have this probability.
        top_k: draw only among this many likeliest words; 0: among all.
        seed: of the random numbers, so that a chat can be repeated.
        max_new_tokens: longest answer.
        context: longest conversation in tokens.
        rope: how far positions may go; --context says how much of that is used.
    """
    from minimind.api import load
    from minimind.commands.conversation import Conversation
    from minimind.commands.terminal import Terminal
    from minimind.engine.sampling import Sampling

    at_least(1, max_new_tokens=max_new_tokens, context=context)
    if prompt is not None and not prompt.strip():
        raise UsageError("--prompt is empty: ask something, or leave the flag out to talk")
    chosen = choose_tools(tools)
    rules = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    lm = load(model, device, rope.scaling(model), lora or None, context)
    talk = Conversation(lm, system, chosen, thinking or hide_thinking, rules)
    terminal = Terminal(talk, show_thinking=not hide_thinking)
    if prompt is not None:
        terminal.answer(prompt)
    elif sys.stdin.isatty():
        console.say(console.bold(model), f", {talk.lm.model.config.parameters() / 1e6:.1f} M parameters.")
        terminal.converse()
    else:
        for number, line in enumerate(sys.stdin, start=1):
            if "\ufffd" in line:
                console.warn(f"line {number} of the input is not {sys.stdin.encoding}: what cannot be read is \ufffd")
            if line.strip():
                terminal.answer(line.strip())
