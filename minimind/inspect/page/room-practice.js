// Practice: the episodes of reinforcement learning as they were, and what other reward weights would have made of them.

import { h } from "/page/dom.js";
import { bounds, brief, scale } from "./scale.js";
import { strip, visible } from "./strip.js";
import { words } from "./words.js";

const say = words({
  en: {
    title: "Practice",
    explanation: "In reinforcement learning the model answers the same prompt several times; rewards say how good each answer was, and an answer's advantage is how much better it was than its group. Tokens of better answers are made more probable, those of worse ones less. Change the weights of the rewards and see whose advantage changes sign.",
    "no-practice": "Nothing was kept of this run's episodes. Train with --set.rl.dump DIR, and open the run again.",
    "which-rollout": "Rollout", "which-prompt": "Prompt", weights: "Weights of the rewards", reward: "reward", advantage: "advantage", "was-advantage": "advantage then", completion: "completion", completions: "Completions, best first",
    "colour-by": "Colour by", ratio: "probability ratio trainer / engine", mask: "trained on", "episode": "Completion {0}, token by token", reset: "As they were",
  },
  zh: {
    title: "练习场",
    explanation: "强化学习让模型对同一个提示回答好几次；奖励说明每个回答有多好，一个回答的优势就是它比同组的平均好多少。好回答的词元变得更可能，差回答的更不可能。改一改各项奖励的权重，看看谁的优势变了号。",
    "no-practice": "这次训练没有保存回合。训练时加上 --set.rl.dump DIR，再打开这个目录。",
    "which-rollout": "rollout", "which-prompt": "提示", weights: "各项奖励的权重", reward: "奖励", advantage: "优势", "was-advantage": "当时的优势", completion: "回答", completions: "各个回答，好的在前",
    "colour-by": "着色依据", ratio: "概率比 训练端 / 采样端", mask: "参与训练", "episode": "第 {0} 个回答，逐个词元", reset: "恢复原样",
  },
});

let looked = { rollout: null, group: null, sample: 0, by: "advantage" };
let weights = null; // of the reward's components, as the reader has set them

const mean = (all) => all.reduce((sum, one) => sum + one, 0) / all.length;

/** `group_advantages` of minimind/rl/advantages.py, for one group: to show what edited rewards would have given. */
function advantages(rewards, divides) {
  if (new Set(rewards).size < 2) return rewards.map(() => 0);
  const middle = mean(rewards);
  const sigma = Math.sqrt(rewards.reduce((sum, one) => sum + (one - middle) ** 2, 0) / (rewards.length - 1));
  return rewards.map((one) => (one - middle) / (divides ? sigma + 1e-4 : 1));
}

/** A turn of an episode: what was said, which tools were called, what they gave. */
const turn = ({ role, content, tool_calls: calls = [] }) =>
  h("p", {}, h("b", {}, say(role)), " ", content ?? "", ...calls.map((call) => h("code", {}, ` ${JSON.stringify(call.function ?? call)}`)));

export const room = {
  id: "practice",
  say,
  async show({ ask }) {
    const kept = await ask("practice");
    if (!kept.rollouts.length) return [h("p", {}, say("no-practice"))];
    looked.rollout = kept.rollouts.includes(looked.rollout) ? looked.rollout : kept.rollouts[0];
    weights ??= { ...kept.components };
    const table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": say("completions") });
    const inside = h("div");
    const prompt = h("div", { class: "episode" });
    const groups = h("select", { onchange: (event) => { looked.group = Number(event.target.value); looked.sample = 0; draw(); } });
    let episodes = null;

    async function load() {
      const found = await ask("rollout", { rollout: looked.rollout });
      episodes = found.groups;
      const differs = ({ samples }) => new Set(samples.map(({ reward }) => reward)).size > 1; // from the others nothing is learned
      looked.group = Math.min(looked.group ?? Math.max(0, episodes.findIndex(differs)), episodes.length - 1);
      groups.replaceChildren(...episodes.map(({ prompt }, at) => h("option", { value: at, selected: at === looked.group }, prompt.at(-1).content.slice(-60))));
      draw();
    }

    function draw() {
      const { prompt: turns, samples } = episodes[looked.group];
      looked.sample = Math.min(looked.sample, samples.length - 1);
      prompt.replaceChildren(...turns.map(turn));
      const rewards = samples.map(({ components }) => Object.entries(components).reduce((sum, [name, value]) => sum + (weights[name] ?? 0) * (value ?? 0), 0));
      const now = advantages(rewards, kept.divide_by_sigma);
      const order = [...rewards.keys()].sort((a, b) => rewards[b] - rewards[a]);
      const names = Object.keys(kept.components);
      table.replaceChildren(h("table", {}, h("caption", {}, say("completions")),
        h("thead", {}, h("tr", {}, ...[say("completion"), ...names, say("reward"), say("advantage"), say("was-advantage")].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, ...order.map((at) => h("tr", { class: at === looked.sample ? "here" : "" },
          h("th", { scope: "row" }, h("button", { type: "button", class: "link", "aria-pressed": String(at === looked.sample), onclick: () => { looked.sample = at; draw(); } }, samples[at].completion.trim().slice(0, 80) || "∅")),
          ...names.map((name) => h("td", { class: "number" }, brief(samples[at].components[name]))), h("td", { class: "number" }, brief(rewards[at])),
          h("td", { class: `number ${samples[at].advantage == null || Math.sign(now[at]) === Math.sign(samples[at].advantage) ? "" : "changed"}` }, brief(now[at])), h("td", { class: "number" }, brief(samples[at].advantage)))))));
      episode(samples);
    }

    function episode(samples) {
      const { tokens, messages } = samples[looked.sample];
      const all = (value) => bounds(samples.map((one) => one.tokens.map(value))); // one scale for the group
      const paint = { advantage: scale(all(({ advantage }) => advantage), true), ratio: scale(all(({ ratio }) => Math.log(ratio ?? 1)), true), mask: scale([0, 1]) };
      const value = { advantage: ({ advantage }) => advantage, ratio: ({ ratio }) => Math.log(ratio ?? 1), mask: ({ mask }) => Number(mask) };
      const shown = { advantage: ({ advantage }) => brief(advantage), ratio: ({ ratio }) => brief(ratio), mask: ({ mask }) => (mask ? "1" : "0") };
      const by = h("select", { onchange: (event) => { looked.by = event.target.value; draw(); } }, ...["advantage", "ratio", "mask"].map((name) => h("option", { value: name, selected: name === looked.by }, say(name))));
      inside.replaceChildren(
        h("h3", {}, say("episode").replace("{0}", looked.sample)),
        h("p", { class: "controls" }, h("label", {}, say("colour-by"), by)),
        strip(tokens.map(({ text }) => text), { label: say("completion"), colour: (at) => paint[looked.by](value[looked.by](tokens[at])), note: (at) => shown[looked.by](tokens[at]), mark: (at) => (tokens[at].mask ? "" : "unscored"),
          about: (at) => `${visible(tokens[at].text)}: ${say("advantage")} ${brief(tokens[at].advantage)}, ${say("ratio")} ${brief(tokens[at].ratio)}` }),
        h("div", { class: "episode" }, ...messages.map(turn)));
    }

    const rollouts = h("select", { onchange: (event) => { looked.rollout = Number(event.target.value); load(); } }, ...kept.rollouts.map((at) => h("option", { value: at, selected: at === looked.rollout }, String(at))));
    const inputs = () => Object.entries(weights).map(([name, value]) => h("label", {}, name, h("input", { type: "number", step: "0.1", value, oninput: (event) => { weights[name] = Number(event.target.value); draw(); } })));
    const edit = h("fieldset", { class: "controls" });
    const fill = () => edit.replaceChildren(h("legend", {}, say("weights")), ...inputs(), h("button", { type: "button", class: "toggle", onclick: () => { weights = { ...kept.components }; fill(); draw(); } }, say("reset")));
    fill();
    await load();
    return [h("p", { class: "controls" }, h("label", {}, say("which-rollout"), rollouts), h("label", {}, say("which-prompt"), groups)), prompt, edit, table, inside];
  },
};
