"""A few lines of data for each stage: enough for steps, too few to learn from."""

import json


def write_rows(folder, many):
    """Write text.jsonl, chat.jsonl, pair.jsonl with `many` lines, and prompt.jsonl with fewer."""

    def chat(n, answer):
        return [{"role": "user", "content": f"{n} + 1?"}, {"role": "assistant", "content": answer}]

    rows = {
        "text": [{"text": f"Number {n} is followed by {n + 1}. " * (1 + n % 4)} for n in range(many)],
        "chat": [{"messages": chat(n, f"It is {n + 1}.")} for n in range(many)],
        "pair": [{"chosen": chat(n, f"It is {n + 1}."), "rejected": chat(n, f"{n}, or so")} for n in range(many)],
        "prompt": [{"messages": chat(n, ""), "gt": [str(n + 1)]} for n in range(max(12, many // 5))],
    }
    for name, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
