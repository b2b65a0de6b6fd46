"""Reinforcement learning without a critic: several answers to each prompt, and each learns from how it compares.

    A_i  = R_i - mean of its group                    (GRPO: divided by the group's σ; Shao et al. 2024)
    loss = - Σ_answers Σ_tokens f(r_t) A_i            r_t = π(token) / π_old(token)

What f is, and what the sum is divided by, is the algorithm: `rl.algorithm` = grpo, dr_grpo, dapo, gspo, cispo or
ppo_clip (`minimind/losses/policy.py`). A group whose answers are all right or all wrong has nothing to compare; it is
left out.
"""

from pathlib import Path

from minimind.recipe import Recipe
from minimind.stages import common, groups


def run(recipe: Recipe, out: Path, resume: bool = True) -> Path:
    """Train `recipe.init` on answers to the prompts in `recipe.data.files`; return `out`/model.

    Raises:
        UserError: bad data, recipe, rewards, server or checkpoint; no model to start from; nothing to learn.
    """
    groups.check(recipe, out)
    tokenizer = common.load_tokenizer(recipe)
    model = common.make_model(recipe, tokenizer)
    return groups.train(recipe, out, model, tokenizer, resume)
