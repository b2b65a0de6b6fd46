"""What people train with elsewhere takes our directory as it is: TRL's SFT, DPO and GRPO trainers, peft's LoRA."""

import math

import pytest
import torch
from safetensors.torch import load_file
from small_models import ASKED, CALL, GREETED, THOUGHT, TOKENIZER, TOOL

import minimind
from minimind.tokenizer.chat import render

trl = pytest.importorskip("trl")
peft = pytest.importorskip("peft")
datasets = pytest.importorskip("datasets")

TALKS = [(ASKED, CALL, [TOOL]), (GREETED, THOUGHT, None), (GREETED, {"role": "assistant", "content": "你好！"}, None)]


OPTIONS = {
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "bf16": False,
    "use_cpu": True,
    "save_strategy": "no",
    "report_to": "none",
}


def train(model, out, peft_config=None):
    """Two steps of TRL's trainer on the directory `model`; the result is in `out`."""
    options = OPTIONS | {"per_device_train_batch_size": len(TALKS), "max_steps": 2}
    rows = [
        {
            "prompt": prompt,
            "completion": [answer],
            "tools": tools or [],
            "chat_template_kwargs": {"enable_thinking": "reasoning_content" in answer},
        }
        for prompt, answer, tools in TALKS
    ]
    data = datasets.Dataset.from_list(rows, on_mixed_types="use_json")
    trainer = trl.SFTTrainer(
        str(model), trl.SFTConfig(str(out), **options), train_dataset=data, peft_config=peft_config
    )
    trainer.train()
    trainer.save_model()
    return trainer


def losses(trainer):
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def our_loss(model, newline=True):
    """The mean over what the assistant says; as TRL counts a completion, with the `newline` that ends a turn."""
    lm, total, tokens = minimind.load(model, "cpu"), 0.0, 0
    for prompt, answer, tools in TALKS:
        ids, mask = render([*prompt, answer], TOKENIZER, tools)
        learned = torch.tensor([*mask[1:-1], newline])
        chosen = lm.logits(ids)[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        total, tokens = total - chosen[learned].sum().item(), tokens + int(learned.sum())
    return total / tokens


@pytest.mark.parametrize("shape", ["dense", "moe"])
def test_sft_trainer(model_of, tmp_path, shape):
    trainer = train(model_of(shape), tmp_path)
    first, second = losses(trainer)
    assert first == pytest.approx(our_loss(model_of(shape)), rel=1e-4)
    assert second < first
    ids, _ = render([*GREETED, THOUGHT], TOKENIZER)
    with torch.inference_mode():
        theirs = trainer.model(torch.tensor([ids])).logits[0]
    assert (minimind.load(tmp_path, "cpu").logits(ids) - theirs).abs().max() < 1e-3, "what TRL saved is ours again"


def test_assistant_only_loss(model_of, tmp_path):
    """Whole conversations: the marks in the template say what is learned, which is what we learn."""
    rows = [{"messages": [*prompt, answer], "tools": tools or []} for prompt, answer, tools in TALKS]
    options = OPTIONS | {"per_device_train_batch_size": len(TALKS), "max_steps": 1, "assistant_only_loss": True}
    trainer = trl.SFTTrainer(
        str(model_of("dense")),
        trl.SFTConfig(str(tmp_path), **options),
        train_dataset=datasets.Dataset.from_list(rows, on_mixed_types="use_json"),
    )
    trainer.train()
    assert losses(trainer) == [pytest.approx(our_loss(model_of("dense"), newline=False), rel=1e-4)]


def test_dpo_trainer(model_of, tmp_path):
    """What it finds of both answers before the first step is what our model says of their tokens."""
    answers = {
        side: {"role": "assistant", "content": text} for side, text in (("chosen", "你好！"), ("rejected", "再见。"))
    }
    row = {"prompt": GREETED, **{side: [answer] for side, answer in answers.items()}}
    options = OPTIONS | {"per_device_train_batch_size": 1, "max_steps": 2}
    trainer = trl.DPOTrainer(
        str(model_of("dense")),
        args=trl.DPOConfig(str(tmp_path), **options),
        train_dataset=datasets.Dataset.from_list([row]),
    )
    trainer.train()
    first, second = losses(trainer)
    assert first == pytest.approx(math.log(2), abs=1e-4)
    assert second < first
    lm = minimind.load(model_of("dense"), "cpu")
    for side, answer in answers.items():
        ids, mask = render([*GREETED, answer], TOKENIZER)
        learned = torch.tensor([*mask[1:-1], True])
        chosen = lm.logits(ids)[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        assert trainer.state.log_history[0][f"logps/{side}"] == pytest.approx(chosen[learned].sum().item(), rel=1e-4)


def get_current_weather(city: str) -> str:
    """天气 weather

    Args:
        city: which city
    """
    return f"{city}：晴"


@pytest.mark.slow
def test_grpo_with_tools(model_of, tmp_path):
    """TRL refuses tools where it cannot read calls back; it can, with the tokenizer's `response_template`."""
    groups = {"num_generations": 2, "per_device_train_batch_size": 2, "max_steps": 1, "max_completion_length": 8}
    trainer = trl.GRPOTrainer(
        str(model_of("dense")),
        reward_funcs=lambda completions, **_: [float(row) for row in range(len(completions))],
        args=trl.GRPOConfig(str(tmp_path), chat_template_kwargs={"enable_thinking": False}, **OPTIONS, **groups),
        train_dataset=datasets.Dataset.from_list([{"prompt": ASKED}] * 2),
        tools=[get_current_weather],
    )
    trainer.train()
    assert trainer.state.log_history[0]["reward_std"] > 0
    prompt, _ = render(ASKED, TOKENIZER, [TOOL], add_generation_prompt=True)
    answer = render([*ASKED, CALL], TOKENIZER, [TOOL])[0][len(prompt) :]
    read = trl.chat_template_utils.parse_response(trainer.processing_class, answer, prefix=prompt)
    assert [call["function"] for call in read["tool_calls"]] == CALL["tool_calls"]


@pytest.mark.parametrize("shape", ["dense", "moe"])
def test_lora_of_peft(model_of, tmp_path, shape):
    before = load_file(model_of(shape) / "model.safetensors")
    trainer = train(model_of(shape), tmp_path / "adapter", peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    first, second = losses(trainer)
    assert second < first
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 2 * 2, "A and B of two matrices in each of two layers"
    trainer.model.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {name.split(".")[-2] for name in before if not before[name].equal(merged[name])} == {"q_proj", "v_proj"}
    TOKENIZER.save(tmp_path / "merged")
    assert our_loss(tmp_path / "merged") < our_loss(model_of(shape))
