"""A tool of your own: a function with type hints and a docstring. It runs in a process apart, with limits.

minimind chat MODEL --tools examples/custom_tool.py
python examples/custom_tool.py MODEL "How many days are there from 2024-01-01 to 2024-12-31?"
"""

import datetime


def days_between(start: str, end: str) -> dict:
    """Count the days between two dates.

    start: The first date, as in 2024-01-31
    end: The second date
    """
    return {"days": (datetime.date.fromisoformat(end) - datetime.date.fromisoformat(start)).days}


if __name__ == "__main__":
    import sys

    import minimind
    from minimind import tools
    from minimind.tools import sandbox

    names = sandbox.load(__file__)
    model = minimind.load(sys.argv[1])
    messages = [{"role": "user", "content": sys.argv[2]}]
    for _ in range(3):  # a small model may call for ever
        message = model.chat(messages, tools=tools.schemas(names), max_new_tokens=100)
        messages.append(message)
        for call in message.get("tool_calls", []):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            result = tools.call(name, arguments)
            print(f"{name}({arguments}) -> {result}")
            messages.append({"role": "tool", "content": result})
        if not message.get("tool_calls"):
            print(message["content"])
            break
