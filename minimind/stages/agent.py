"""Agents: reinforcement learning over whole episodes, in which the model calls tools and reads what they answer.

    prompt | call | <tool_response> ... | call | <tool_response> ... | answer
               1            0              1            0               1          mask

    loss = - Σ_episodes Σ_{tokens with mask 1} f(r_t) A(episode)

It is `train grpo` with longer answers. The reward is known at the end (is the expected result in the final answer?),
and every token that the model chose shares it: the digits it copied into a call, the name of the tool, the answer. What
the tools said is read, not learned: its probability is not the model's doing.
"""

from functools import partial
from pathlib import Path

from minimind.engine.sampling import stream_of
from minimind.recipe import Recipe
from minimind.rl import gym
from minimind.rl.environment import Make, ToolUse, multi_turn, repeatable
from minimind.rl.rollout import Sample
from minimind.stages import grpo, setup
from minimind.tools import sandbox


def run(recipe: Recipe, out: Path, resume: bool = True, make: Make | None = None) -> Path:
    """Train `recipe.init` in episodes that begin with the prompts in `recipe.data.files`; return `out`/model.

    `make` gives each sample an environment; by default it is that of the recipe, or the use of tools.

    Raises:
        UserError: bad data, recipe, tools, rewards, server or checkpoint; no model to start from; nothing to learn.
    """
    own = recipe.agent
    for file in own.tools:
        sandbox.load(file, sandbox.Limits(own.tool_seconds, own.tool_memory_mb))
    tokenizer = setup.load_tokenizer(recipe)

    def tool_use(sample: Sample) -> ToolUse:
        return ToolUse(tokenizer, own.max_turns, sample.thinking, repeatable(sample.sampling.seed))

    if own.environment and make is None:
        make_env = gym.load(own.environment)

        def make(sample: Sample) -> gym.GymEnvironment:
            # Of a group: what is compared has begun alike, and met with the same luck. Of 31 bits: NumPy's
            # `random.seed` takes no more than 32.
            seed = stream_of(recipe.train.seed, sample.group) % 2**31
            return gym.GymEnvironment(make_env, tokenizer, own.max_turns, sample.thinking, seed)

    row, longest = recipe.data.sequence_length, recipe.rl.max_new_tokens
    episodes = partial(multi_turn, make=make or tool_use, max_tokens=longest, row=row)
    return grpo.run(recipe, out, resume, episodes)
