// Side by side: two models on one prompt, what changed token by token and layer by layer.

import { h } from "/page/dom.js";
import { heatmap } from "./heatmap.js";
import { bounds, brief, percent, scale } from "./scale.js";
import { bars, strip, visible } from "./strip.js";
import { words } from "./words.js";

const say = words({
  en: {
    title: "Side by side",
    explanation: "Two models read the same prompt: before and after a stage, dense and with experts. Each token is coloured by how much the two disagree on what comes after it, the Kullback–Leibler divergence in nats. Choose one to see what each would say; the map below shows after which layer they part.",
    "no-pair": "There is no second model here. Open a run beside others, or the folder of all runs: minimind inspect RUNS", other: "Compare with", "kl-tokens": "How much the two disagree after each token", "kl-layers": "How much the two disagree after each layer", "would-say": "what comes next", "other-depth": "The two models have different numbers of layers.",
  },
  zh: {
    title: "并排",
    explanation: "两个模型读同一段输入：某个阶段之前和之后，稠密的和有专家的。词元的颜色表示两者对下一个词元的分歧有多大，即以奈特计的 KL 散度。点一个词元，看两者各会说什么；下面的图表示它们在哪一层之后分开。",
    "no-pair": "这里没有第二个模型。请打开旁边还有其他训练的训练目录，或所有训练的上级目录：minimind inspect RUNS", other: "与之比较", "kl-tokens": "在每个词元之后两者分歧多大", "kl-layers": "在每一层之后两者分歧多大", "would-say": "接下来会说", "other-depth": "两个模型的层数不同。",
  },
});

let other = null; // the name of the second model

export const room = {
  id: "pair",
  say,
  async show({ state, given, model, ask, set }) {
    const others = [...model.others, ...model.checkpoints.slice(0, -1)];
    if (!others.length) return [h("p", {}, say("no-pair"))];
    other ??= (stageBefore(model.checkpoints, state.checkpoint) ?? others[0]).name;
    const { tokens, kl, kl_layers: layers, first, second, first_top: one, second_top: two } = await ask("pair", { ...given(), other });
    const paint = scale([0, bounds(kl)[1]]);
    const part = h("div", { class: "side-by-side", "aria-live": "polite" });
    const column = (name, rows) => h("div", {}, h("b", {}, name), bars(rows.map(({ text, probability }) => [h("code", {}, visible(text)), probability]), { label: say("would-say"), write: percent, most: 1 }));
    const choose = (at) => part.replaceChildren(column(first, one[at]), column(second, two[at]));
    const worst = kl.indexOf(Math.max(...kl));
    choose(worst);
    const choice = h("select", { onchange: (event) => { other = event.target.value; set({}); } }, ...others.map(({ name }) => h("option", { value: name, selected: name === other }, name)));
    return [
      h("p", { class: "controls" }, h("label", {}, say("other"), choice)),
      strip(tokens, { label: say("kl-tokens"), about: (at) => `${visible(tokens[at])}: ${brief(kl[at])} ${say("nats")}`, colour: (at) => paint(kl[at]), note: (at) => (kl[at] < 0.005 ? "0" : brief(kl[at])), chosen: worst, onchoose: choose }),
      part,
      h("h3", {}, say("kl-layers")),
      layers ? byLayer(tokens, layers) : h("p", {}, say("other-depth")),
    ];
  },
};

/** The last checkpoint of another stage before the one that is looked at: what its training started from. */
function stageBefore(checkpoints, name) {
  const here = checkpoints.findIndex((one) => one.name === name);
  return checkpoints.slice(0, here).findLast(({ stage }) => stage !== checkpoints[here].stage);
}

function byLayer(tokens, layers) {
  const up = [...layers.keys()].reverse();
  const name = (at) => (at ? `${say("layer")} ${at - 1}` : say("embedding"));
  return heatmap({ values: up.map((at) => layers[at]), rows: up.map(name), columns: tokens.map(visible), label: say("kl-layers"), wide: 18, tall: 20,
    about: (row, at) => `${visible(tokens[at])}, ${name(up[row])}: ${brief(layers[up[row]][at])} ${say("nats")}` });
}
