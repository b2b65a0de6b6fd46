"""Talk to `minimind serve` with OpenAI's own client: whole answers, streams, thoughts, tools, probabilities.

    pip install openai
    minimind serve runs/demo/sft/model
    python examples/openai_client.py

Every program that can talk to OpenAI can talk to a MiniMind in the same way: with another base URL.
"""

import argparse
import json

from openai import OpenAI

from minimind import tools


def chat(client: OpenAI, model: str) -> None:
    """A whole answer."""
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Who are you?"}], temperature=0, max_tokens=100
    )
    print(answer.choices[0].message.content)
    print(f"({answer.usage.prompt_tokens} tokens read, {answer.usage.completion_tokens} written)")


def stream(client: OpenAI, model: str) -> None:
    """The same as it is written."""
    question = [{"role": "user", "content": "给我讲一个小故事。"}]
    chunks = client.chat.completions.create(model=model, messages=question, max_tokens=100, stream=True)
    for chunk in chunks:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


def think(client: OpenAI, model: str) -> None:
    """Thoughts first, in a field of their own; `extra_body` holds what OpenAI itself does not know."""
    question = [{"role": "user", "content": "What is 12 + 30?"}]
    chunks = client.chat.completions.create(
        model=model, messages=question, max_tokens=200, stream=True, extra_body={"open_thinking": True}
    )
    for chunk in chunks:
        delta = chunk.choices[0].delta
        print(getattr(delta, "reasoning_content", None) or delta.content or "", end="", flush=True)
    print()


def use_tools(client: OpenAI, model: str) -> None:
    """The loop of every agent: ask; run what the model calls; tell it the results; until it answers in words."""
    messages = [{"role": "user", "content": "Calculate 12 * 34."}]
    for _ in range(4):  # a small model may call for ever
        reply = client.chat.completions.create(
            model=model, messages=messages, tools=tools.schemas(["calculate_math"]), temperature=0, max_tokens=200
        )
        message = reply.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls or []:
            result = tools.call(call.function.name, call.function.arguments)
            print(f"{call.function.name}({call.function.arguments}) -> {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        if not message.tool_calls:
            print(message.content)
            return


def look_inside(client: OpenAI, model: str) -> None:
    """How sure the model was of each token, and what else it might have said."""
    question = [{"role": "user", "content": "Hello!"}]
    answer = client.chat.completions.create(
        model=model, messages=question, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3
    )
    for token in answer.choices[0].logprobs.content:
        others = "  ".join(f"{other.token!r} {other.logprob:.2f}" for other in token.top_logprobs)
        print(f"{token.token!r:>12} {token.logprob:6.2f}   {others}")


def answer_in_json(client: OpenAI, model: str) -> None:
    """An answer that fits a schema, whatever the model would rather say."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "sunny": {"type": "boolean"}},
        "required": ["city", "sunny"],
        "additionalProperties": False,
    }
    question = [{"role": "user", "content": "What is the weather like in Paris?"}]
    shape = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
    answer = client.chat.completions.create(model=model, messages=question, response_format=shape, max_tokens=100)
    print(json.loads(answer.choices[0].message.content))


def main() -> None:
    """Show everything, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--api-key", default="none", help="what the server was started with, if anything")
    options = parser.parse_args()
    client = OpenAI(base_url=options.base_url, api_key=options.api_key)
    model = client.models.list().data[0].id
    for show in (chat, stream, think, use_tools, look_inside, answer_in_json):
        print(f"\n--- {show.__name__}")
        show(client, model)


if __name__ == "__main__":
    main()
