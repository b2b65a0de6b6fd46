"""Our training beside transformers at its best here: bfloat16, SDPA, compiled, fused AdamW, the very same packed rows.

Its attention gets a mask of who sees whom, since SDPA takes no packed documents otherwise; ours skips what is masked.
Both take turns, so that what else the machine does hits both.
"""

import torch
from torch import nn

from benchmarks.gpu.work import Tell, Work, timed
from minimind import runtime
from minimind.bench.ours import Ours
from minimind.bench.race import race
from minimind.bench.reference import build
from minimind.config import ModelConfig
from minimind.data.packing import Batch, PackedStream
from minimind.train.job import split, to_device


class Transformers:
    """Its optimizer steps on our stream's rows."""

    def __init__(self, config: ModelConfig, stream: PackedStream, rows: int, micro_rows: int, work: Work) -> None:
        self.on, self.stream, self.rows, self.micro_rows = work.on, stream, rows, micro_rows
        self.dtype = runtime.compute_dtype(work.on)
        self.model = build(config, seed=0).to(work.on)
        self.model.set_attn_implementation("sdpa")  # type: ignore[operator]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-4, fused=True)
        if work.sizes.compiled:
            self.model.compile()

    def step(self) -> int:
        """The same accumulation and clipping as ours."""
        batch = self.stream.next_batch(self.rows)
        for micro in split(batch, self.micro_rows):
            with torch.autocast(self.on.type, self.dtype, enabled=self.dtype != torch.float32):
                loss = self.loss(to_device(micro, self.on))
            (loss / batch.num_items).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return int((batch.document_ids >= 0).sum())

    def loss(self, batch: Batch) -> torch.Tensor:
        """Summed over the tokens that have a next one; labels are shifted already."""
        visible = (batch.document_ids[:, :, None] == batch.document_ids[:, None, :]).tril()[:, None]
        logits = self.model(input_ids=batch.input_ids, attention_mask=visible, position_ids=batch.positions).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten(), reduction="sum")


def rival(work: Work, tell: Tell) -> None:
    """Turns of both."""
    sizes = work.sizes
    recipe = work.recipe(sizes.dense, **{"train.micro_batch_tokens": sizes.micro_batches[0]})
    shards = work.shards(recipe)
    ours = Ours(recipe, work.tokenizer, shards)
    length = recipe.data.sequence_length
    rows = recipe.train.tokens_per_step // length
    stream = PackedStream(shards, length, seed=recipe.train.seed)
    theirs = Transformers(ours.model.config, stream, rows, ours.micro_batch_tokens // length, work)
    contestants = {"minimind": ours, "transformers": theirs}
    for name, contestant in contestants.items():
        tell(
            {
                "engine": name,
                "warm_up_seconds": round(timed(lambda c=contestant: [c.step() for _ in range(2)], work.on), 2),
            }
        )
    laps = race(contestants, sizes.race_seconds, work.on)
    best = laps["transformers"].tokens_per_second
    for name, lap in laps.items():
        speed = lap.tokens_per_second
        tell(
            {
                "engine": name,
                "tokens_per_second": round(speed, 1),
                "ratio": round(speed / best, 2),
                "turns": [round(turn, 1) for turn in lap.speeds],
            }
        )
