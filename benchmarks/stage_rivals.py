"""Fine-tuning as people do it today: trl's SFTTrainer and DPOTrainer, peft's LoRA, a distillation on transformers.

`float32` is what they come with on a CPU that does nothing else: padded batches of 8 drawn at random, AdamW, gradients
clipped to 1, eager. Two defaults of trl are changed in favour of its speed: gradient checkpointing is off, and so is
logging. `bfloat16` is the best of their settings that needs no kernel of a GPU: autocast, which is trl's own default,
and batches of conversations of similar lengths.
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from torch.nn import functional as F

from minimind.data.shard_reader import Shards
from minimind.losses.lm import IGNORE
from minimind.recipe import Recipe
from minimind.tokenizer.bpe import Tokenizer

ROWS = 8


@dataclass
class Watch(transformers.TrainerCallback):
    """Sees every batch through the collator, and when steps end."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def watching(self, collate: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The same collator, but batches are counted."""

        def counted(examples: Any) -> Any:
            batch = collate(examples)
            seen = batch["attention_mask"]
            twice = 0
            if "completion_mask" in batch:  # pairs: the second half begins with the first half's prompts
                half = len(seen) // 2
                twice = int((seen[half:] - batch["completion_mask"][half:]).sum())
            self.tokens.append(int(seen.sum()) - twice)
            self.positions.append(seen.numel() - twice)
            return batch

        return counted

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


@dataclass(frozen=True)
class Ended:
    """Of the steps after the warm-up: their tokens and seconds."""

    tokens: int
    seconds: float
    padding: float
    warmup_seconds: float
    settings: str


def train_theirs(recipe: Recipe, tokenizer: Tokenizer, shards: Shards, dtype: str, warmup: int, steps: int) -> Ended:
    """Train `recipe.init` on the same data with their trainer for the recipe's stage."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bars()
    watch, half = Watch(), dtype == "bfloat16"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        options: dict[str, Any] = {
            "output_dir": folder,
            "use_cpu": True,
            "max_steps": warmup + steps,
            "per_device_train_batch_size": ROWS,
            "learning_rate": recipe.optim.lr,
            "bf16": half,
            "gradient_checkpointing": False,
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        if half and recipe.stage != "dpo":  # whose trainer cannot sort by length
            options["train_sampling_strategy"] = "group_by_length"
        trainer = make_trainer(recipe, tokenizer, shards, options)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(watch)
        trainer.data_collator = watch.watching(trainer.data_collator)
        trainer.train()
    counted = slice(warmup, warmup + steps)
    tokens = sum(watch.tokens[counted])
    return Ended(
        tokens,
        seconds=watch.ends[-1] - watch.ends[warmup],
        padding=1 - tokens / sum(watch.positions[counted]),
        warmup_seconds=watch.ends[warmup] - watch.ends[0],
        settings=f"{type(trainer).__name__}, {dtype}, {trainer.args.optim.value}, batch {ROWS}, "
        f"{options.get('train_sampling_strategy', 'random')}, eager",
    )


def make_trainer(recipe: Recipe, tokenizer: Tokenizer, shards: Shards, options: dict[str, Any]) -> Any:
    words = transformers.AutoTokenizer.from_pretrained(recipe.init)
    if recipe.stage == "dpo":
        args = trl.DPOConfig(**options, beta=recipe.dpo.beta, max_length=recipe.data.sequence_length)
        data = Dataset.from_list(pairs(shards))
        return DPOTrainer(model=load(recipe.init), args=args, train_dataset=data, processing_class=words)
    data = Dataset.from_list(conversations(shards))
    if recipe.stage == "distill":
        arguments = transformers.TrainingArguments(**options)
        collate = transformers.DataCollatorForSeq2Seq(words, padding=True)
        student, teacher = load(recipe.init), load(recipe.distill.teacher)
        return Distillation(recipe, teacher, model=student, args=arguments, train_dataset=data, data_collator=collate)
    args = trl.SFTConfig(**options, max_length=recipe.data.sequence_length)
    adapter = None
    if recipe.stage == "lora":
        lora = recipe.lora
        adapter = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets)
    return trl.SFTTrainer(
        model=load(recipe.init), args=args, train_dataset=data, processing_class=words, peft_config=adapter
    )


def load(directory: str) -> Any:
    """The directory as transformers reads it, in float32, as trl does by default."""
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def conversations(shards: Shards) -> list[dict[str, list[int]]]:
    rows = []
    for ids, supervised in shards:
        labels = [id if said else IGNORE for id, said in zip(ids.tolist(), supervised.tolist(), strict=True)]
        rows.append({"input_ids": ids.tolist(), "labels": labels, "attention_mask": [1] * len(ids)})
    return rows


def pairs(shards: Shards) -> list[dict[str, list[int]]]:
    rows = []
    for start, length in zip(shards.starts.tolist(), shards.lengths.tolist(), strict=True):
        ids, branches = shards.read(start, length), shards.read_branches(start, length)
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        rows.append({name: ids[branches == branch].tolist() for branch, name in enumerate(names)})
    return rows


class DPOTrainer(trl.DPOTrainer):
    """Trl's, on pairs that are tokens already."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


class Distillation(transformers.Trainer):
    """The distillation of every tutorial: both models' logits, cross-entropy and KL divergence where there are labels.

    trl has no trainer of its own for a teacher on given text: its DistillationTrainer lets the student write first.
    """

    def __init__(self, recipe: Recipe, teacher: Any, **rest: Any) -> None:
        super().__init__(**rest)
        self.teacher, self.about = teacher.eval().requires_grad_(False), recipe.distill

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        alpha, heat = self.about.alpha, self.about.temperature
        output = model(**inputs, use_cache=False)
        with torch.no_grad():
            seen = self.teacher(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        scored = inputs["labels"][:, 1:] != IGNORE
        student = F.log_softmax(output.logits[:, :-1][scored].float() / heat, -1)
        teacher = F.softmax(seen.logits[:, :-1][scored].float() / heat, -1)
        divergence = F.kl_div(student, teacher, reduction="batchmean")
        loss = alpha * output.loss + (1 - alpha) * heat**2 * divergence
        return (loss, output) if return_outputs else loss
