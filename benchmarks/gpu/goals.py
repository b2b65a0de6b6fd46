"""What the figures come to: the goals for one H100, and how long the whole way from text to a chat model takes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.work import Row

MINI_BYTES = {"pretrain": 1.2e9, "sft": 1.6e9}
"""Of `pretrain_t2t_mini.jsonl` and `sft_t2t_mini.jsonl`, as the hubs list them (rounded)."""
BYTES_PER_TOKEN = 3.36
"""Of JSON Lines, with the built-in tokenizer: 33.2 MB of a real bilingual corpus are 9.9 M tokens."""

Found = Mapping[str, Sequence[Row]]


def first(rows: Sequence[Row], **like: Any) -> Row:
    """The first row with these values and no error, or an empty one."""
    return next((r for r in rows if "error" not in r and all(r.get(k) == v for k, v in like.items())), {})


def path_minutes(found: Found, sizes: Sizes) -> list[Row]:
    """Minutes of one epoch of each stage on the mini data, at the speeds that were measured."""
    training = found.get("training", [])
    speeds = {stage: first(training, preset=sizes.dense, stage=stage).get("tokens_per_second") for stage in MINI_BYTES}
    rows: list[Row] = []
    for stage, size in MINI_BYTES.items():
        speed = speeds[stage]
        minutes = size / BYTES_PER_TOKEN / speed / 60 if speed else None
        tokens = round(size / BYTES_PER_TOKEN)
        rows.append({"stage": stage, "tokens": tokens, "tokens_per_second": speed, "minutes": minutes})
    known = [row["minutes"] for row in rows if row["minutes"]]
    rows.append({"stage": "both", "minutes": sum(known) if len(known) == len(rows) else None})
    return rows


def goals(found: Found, sizes: Sizes) -> list[Row]:
    """Each goal, what was measured, and whether that is enough; nothing where nothing was measured."""
    training, answers = found.get("training", []), found.get("generation", [])
    dense, moe = (first(training, preset=preset, stage="pretrain") for preset in (sizes.dense, sizes.moe))
    speeds = dense.get("tokens_per_second"), moe.get("tokens_per_second")
    one, many = (first(answers, preset=sizes.dense, engine="minimind", batch=batch) for batch in (1, 64))
    failed = [row for row in found.get("correctness", []) if row["outcome"] == "failed"]
    both = path_minutes(found, sizes)[-1]["minutes"]
    wanted: list[tuple[str, float | None, float, float | None]] = [
        ("tests failed", len(failed) if "correctness" in found else None, 0, 0),
        ("MFU of the data sheet", dense.get("mfu_of_data_sheet"), 0.45, None),
        ("tokens/s, training", speeds[0], 1.1e6, None),
        ("MoE step over dense", speeds[0] / speeds[1] if speeds[0] and speeds[1] else None, 0, 1.3),
        ("share of bandwidth, 1 answer", one.get("share_of_bandwidth"), 0.6, None),
        ("tokens/s, 64 answers", many.get("decode_tokens_per_second"), 15000, None),
        ("memory over plan", dense.get("memory_over_plan"), 0.9, 1.1),
        ("speed over plan", dense.get("speed_over_plan"), 0.9, 1.1),
        ("minutes, mini data, 1 epoch of pretraining and SFT", both, 0, 12),
    ]
    rows: list[Row] = []
    for name, value, least, most in wanted:
        met = None if value is None else least <= value <= (math.inf if most is None else most)
        rows.append({"goal": name, "measured": value, "least": least, "most": most, "met": met})
    return rows
