// Experts: which token goes where in a mixture of experts, how the load is spread, and what words an expert gets.

import { h } from "/page/dom.js";
import { heatmap } from "./heatmap.js";
import { kind, percent } from "./scale.js";
import { bars, visible } from "./strip.js";
import { words } from "./words.js";

const say = words({
  en: {
    title: "Experts",
    explanation: "In a mixture of experts each layer has several MLPs, and a router sends every token to the one, or the few, that it gives the highest probability. Rows are layers, columns tokens; colour and number say which expert a token goes to. Choose a cell to see the router's probabilities.",
    "no-experts": "This model is dense: it has one MLP a layer and no router. Train one with experts to see where its tokens go: minimind train pretrain tiny-moe",
    expert: "expert", routed: "Where each token goes", load: "Share of the tokens that each expert gets", router: "Router's probabilities", words: "Words that each expert gets most",
  },
  zh: {
    title: "专家",
    explanation: "在混合专家模型里，每层有好几个 MLP，路由器把每个词元送给它给出最高概率的那一个或几个。行是层，列是词元；颜色和数字表示词元去了哪个专家。点一格看路由器的概率。",
    "no-experts": "这是稠密模型：每层只有一个 MLP，没有路由器。训练一个有专家的模型，就能看到词元去了哪里：minimind train pretrain tiny-moe",
    expert: "专家", routed: "每个词元去了哪里", load: "每个专家分到的词元比例", router: "路由器的概率", words: "每个专家最常得到的词",
  },
});

export const room = {
  id: "experts",
  say,
  async show({ given, place, ask }) {
    if (!place.experts) return [h("p", {}, say("no-experts"))];
    const { tokens, layers } = await ask("experts", given());
    const part = h("div", { class: "side-by-side" });
    const first = layers.map(({ chosen }) => chosen.map(([expert]) => expert));

    function choose(row, position) {
      const { layer, probabilities, load, words } = layers[row];
      part.replaceChildren(
        h("div", {}, h("h3", {}, `${say("router")}: `, h("code", {}, visible(tokens[position]))), bars(probabilities[position].map((one, expert) => [`${say("expert")} ${expert}`, one]), { label: `${say("layer")} ${layer}`, write: percent, most: 1 })),
        h("div", {}, h("h3", {}, say("load")), bars(load.map((one, expert) => [`${say("expert")} ${expert}`, one]), { label: `${say("layer")} ${layer}`, write: percent, most: 1 })),
        h("div", {}, h("h3", {}, say("words")), ...words.map((most, expert) => h("p", {}, swatch(expert), ` ${say("expert")} ${expert}: `, ...most.flatMap(({ text, count }) => [h("code", { title: String(count) }, visible(text)), " "])))));
    }

    choose(0, tokens.length - 1);
    return [
      heatmap({ values: first, text: layers.map(({ chosen }) => chosen.map((some) => some.join(" "))), rows: layers.map(({ layer }) => `${say("layer")} ${layer}`), columns: tokens.map(visible), colour: kind, wide: 22, label: say("routed"),
        chosen: [0, tokens.length - 1], onchoose: choose,
        about: (row, position) => `${visible(tokens[position])}, ${say("layer")} ${layers[row].layer}: ${layers[row].chosen[position].map((expert) => `${say("expert")} ${expert} ${percent(layers[row].probabilities[position][expert])}`).join(" · ")}` }),
      part,
    ];
  },
};

function swatch(expert) {
  const box = h("i", { class: "swatch", "aria-hidden": "true" });
  box.style.setProperty("background", kind(expert).fill);
  return box;
}
