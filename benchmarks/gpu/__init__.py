"""What this project does on a GPU: right first, then how fast, in one command of eight minutes.

    python -m benchmarks.gpu --out DIR                          # make gpu
    python -m benchmarks.gpu --out DIR --device cpu --quick     # the same parts on a CPU with next to nothing to do

Every part works in a process of its own, and what it finds is written as it finds it: a part that fails, or that takes
too long, costs no other and keeps what it had. DIR then holds of each part `NAME.jsonl` (a line a figure), `NAME.json`
(the same, and how it ended) and `NAME.log` (what it said); of all of them `report.json` and `report.txt`.

It needs no network, no installed package and no `tyro`: only torch, numpy, tokenizers, tiktoken, safetensors, rich,
filelock, jinja2, pytest, and transformers to compare with.
"""
