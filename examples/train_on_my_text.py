"""Train a small model on a text of your own (paragraphs apart by empty lines), and let it go on writing.

python examples/train_on_my_text.py novel.txt 1000
"""

import json
import sys
from pathlib import Path

import minimind
from minimind.recipe import Recipe, find, load
from minimind.stages import pretrain


def main(text: str, steps: int = 200, out: Path = Path("runs/my-text")) -> None:
    """Paragraphs become documents, documents a model."""
    paragraphs = [part for part in Path(text).read_text(encoding="utf-8").split("\n\n") if part.strip()]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "corpus.jsonl").open("w", encoding="utf-8") as corpus:
        corpus.writelines(json.dumps({"text": paragraph}) + "\n" for paragraph in paragraphs)

    # recipes/tiny/pretrain.toml with three changes
    changes = {"data.files": [str(out / "corpus.jsonl")], "data.valid_fraction": 0.0, "train.max_steps": steps}
    model = minimind.load(pretrain.run(load(Recipe, find("tiny", "pretrain"), changes), out))
    beginning = paragraphs[0][:20]
    print(beginning + model.generate(beginning, max_new_tokens=80))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
