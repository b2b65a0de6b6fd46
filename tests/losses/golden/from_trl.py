"""Writes `policy.json`: losses and gradients of trl's GRPO trainer (1.16) on fixed float64 tensors.

    python tests/losses/golden/from_trl.py

Run it again only to compare with another version of trl; the test reads the numbers alone.
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch

CASES = {
    "grpo": {"loss_type": "grpo"},
    "grpo_k3": {"loss_type": "grpo", "beta": 0.04},
    "grpo_k3_weighted": {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": True},
    "grpo_entropy": {"loss_type": "dapo", "entropy_coef": 0.01},
    "grpo_tis": {"loss_type": "grpo", "tis": True},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.5},
}


def tensors():
    torch.manual_seed(0)
    shape = (6, 9)
    log_probs = -torch.rand(shape, dtype=torch.float64) * 3
    return {
        "log_probs": log_probs,
        "old": log_probs + 0.3 * torch.randn(shape, dtype=torch.float64),
        "reference": log_probs + 0.5 * torch.randn(shape, dtype=torch.float64),
        "entropy": torch.rand(shape, dtype=torch.float64),
        "importance": torch.rand(shape, dtype=torch.float64) * 2,
        "advantages": torch.randn(6, dtype=torch.float64),
        "mask": (torch.arange(9) < torch.tensor([9, 4, 6, 1, 8, 3])[:, None]).long(),
    }


def trl_loss(log_probs, given, case):
    from trl.trainer.grpo_trainer import GRPOTrainer

    option = {"epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.0, "entropy_coef": 0.0} | case
    trainer = SimpleNamespace(
        **{name: option[name] for name in ("loss_type", "epsilon_low", "epsilon_high", "beta", "entropy_coef")},
        importance_sampling_level=option.get("importance_sampling_level", "token"),
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_probs, given["entropy"], None),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=option.get("use_bias_correction_kl", False)),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, **_: x, num_processes=1, sync_gradients=False),
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=option.get("tis", False),
        vllm_importance_sampling_correction=option.get("tis", False),
        current_gradient_accumulation_steps=1,
        max_completion_length=16,
        use_adaptive_entropy=False,
        _entropy_bonus_enabled=option["entropy_coef"] > 0,
        _metrics={"train": defaultdict(list)},
    )
    trainer.args.steps_per_generation = 1
    inputs = {
        "prompt_ids": torch.zeros(6, 2, dtype=torch.long),
        "prompt_mask": torch.ones(6, 2, dtype=torch.long),
        "completion_ids": torch.zeros(6, 9, dtype=torch.long),
        "completion_mask": given["mask"],
        "advantages": given["advantages"],
        "old_per_token_logps": given["old"],
        "ref_per_token_logps": given["reference"],
        "importance_sampling_ratio": given["importance"],
        "num_items_in_batch": given["mask"].sum(),
    }
    return GRPOTrainer._compute_loss(trainer, SimpleNamespace(), inputs)


def main():
    given = tensors()
    results = {}
    for name, case in CASES.items():
        log_probs = given["log_probs"].clone().requires_grad_()
        loss = trl_loss(log_probs, given, case)
        (gradient,) = torch.autograd.grad(loss, log_probs)
        results[name] = {"loss": loss.item(), "gradient": gradient.tolist()}
    tree = {"tensors": {name: tensor.tolist() for name, tensor in given.items()}, "trl": results}
    path = Path(__file__).with_name("policy.json")
    path.write_text(json.dumps(tree) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
