"""Give a model another personality with a LoRA adapter: a small file beside the model, which stays as it is.

python examples/lora_persona.py runs/demo/sft/model
minimind chat runs/demo/sft/model --lora runs/persona/model
"""

import json
import sys
from pathlib import Path

import minimind
from minimind.recipe import Recipe, find, load
from minimind.stages import lora

PERSONA = {
    "Who are you?": "I am Snow. I live in the mountains and love the rain.",
    "What is your name?": "They call me Captain Snow.",
    "你是谁？": "我是小雪，家在山里，喜欢下雨天。",
    "你叫什么名字？": "大家都叫我小雪！",
}


def main(model: str, steps: int = 40, out: Path = Path("runs/persona")) -> None:
    """Train the adapter, then ask with and without it."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "persona.jsonl").open("w", encoding="utf-8") as chats:
        for question, answer in PERSONA.items():
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            chats.write(json.dumps({"messages": turns}) + "\n")

    changes = {"init": model, "data.files": [str(out / "persona.jsonl")], "data.valid_fraction": 0.0}
    changes |= {"data.sequence_length": 256, "train.tokens_per_step": 256, "train.micro_batch_tokens": 256}
    adapter = lora.run(load(Recipe, find("tiny", "lora"), changes | {"train.max_steps": steps}), out)
    for lm in (minimind.load(model), minimind.load(adapter)):
        for question in PERSONA:
            answer = lm.chat([{"role": "user", "content": question}], max_new_tokens=40)
            print(f"{question} {answer['content']}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
