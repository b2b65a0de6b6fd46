// Attention: where each head looks, what kind of head it is, and what changes without it.

import { h } from "/page/dom.js";
import { heatmap, thumbnail } from "./heatmap.js";
import { later } from "./later.js";
import { brief, percent } from "./scale.js";
import { bars, visible } from "./strip.js";
import { words } from "./words.js";

const say = words({
  en: {
    title: "Attention",
    explanation: "Each head of each layer looks back over the text: row by row, a token spreads a weight of 1 over itself and what stands before it. Choose a head to read its pattern. Below: how much every head acts as one of three well-known kinds, measured on random tokens that are repeated. Switch heads, MLPs or whole layers off and see the answer change.",
    pattern: "Pattern of layer {0}, head {1}", "looks-at": "looks at", "all-heads": "Heads, one picture each", mean: "mean", "mean-of": "Mean of the heads of layer {0}",
    kinds: "What kind of head", previous: "previous token", first: "first token", induction: "induction",
    "previous-why": "looks at the token before", "first-why": "looks at the first token, often because it has nothing to say", "induction-why": "looks at what followed the same token last time, and so can copy it",
    "off-head": "Switch head off", "off-mlp": "Switch MLP off", "off-layer": "Switch layer off", before: "before", "after-off": "after",
    change: "What would be said next", divergence: "KL divergence from the whole model", "none-off": "Nothing is switched off.", query: "query: the token that looks", key: "key: the token that is looked at",
  },
  zh: {
    title: "注意力",
    explanation: "每层的每个头都回头看文本：一行一个词元，把总和为 1 的权重分给自己和前面的词元。选一个头看它的模式。下面是每个头有多像三种著名的头，用重复的随机词元测得。可以关掉头、MLP 或整层，看回答怎样改变。",
    pattern: "第 {0} 层第 {1} 个头的模式", "looks-at": "看向", "all-heads": "所有的头，每个一张小图", mean: "平均", "mean-of": "第 {0} 层各头的平均",
    kinds: "是哪种头", previous: "前一个词元", first: "第一个词元", induction: "归纳",
    "previous-why": "看前一个词元", "first-why": "看第一个词元，往往因为它没有话要说", "induction-why": "看同一个词元上次出现时的后一个，因此能复制",
    "off-head": "关掉这个头", "off-mlp": "关掉 MLP", "off-layer": "关掉整层", before: "之前", "after-off": "之后",
    change: "接下来会说什么", divergence: "与完整模型的 KL 散度", "none-off": "没有关掉任何部分。", query: "query：在看的词元", key: "key：被看的词元",
  },
});

let looked = { layer: 0, head: 0 };

const filled = (text, ...values) => text.replace(/\{(\d)\}/g, (_, at) => values[at]);
const same = (a, b) => a.layer === b.layer && a.head === b.head && a.mlp === b.mlp;
const nameOf = (layer, head, heads) => (head === heads ? filled(say("mean-of"), layer) : filled(say("pattern"), layer, head));

export const room = {
  id: "attention",
  say,
  async show({ state, given, ask, set }) {
    const { off } = state;
    const { tokens, patterns: packed } = await ask("attention", given());
    const patterns = packed.map((layer) => unpacked(layer, tokens.length ** 2));
    const names = tokens.map(visible);
    const mean = patterns[0].length - 1; // it comes after the heads
    const big = h("div");
    const grid = heads(patterns, tokens.length, off, choose);

    function choose(layer, head) {
      looked = { layer, head };
      const name = nameOf(layer, head, mean);
      const weights = rowsOf(patterns[layer][head], tokens.length);
      const toggle = (what, word) => h("button", { type: "button", class: "toggle", "aria-pressed": String(off.some((one) => same(one, what))), onclick: () => switchOff(what) }, say(word));
      grid.querySelectorAll("button").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.of === `${layer}.${head}`)));
      big.replaceChildren(
        h("h3", {}, name),
        heatmap({ values: weights, rows: names, columns: names, range: [0, 1], atMost: 26, tall: tokens.length > 60 ? 6 : 16, rowTitle: say("query"), columnTitle: say("key"), label: name,
          about: (row, column) => `${names[row]} ${say("looks-at")} ${names[column]}: ${percent(weights[row][column])}` }),
        h("p", { class: "controls" }, head < mean ? toggle({ layer, head }, "off-head") : "", toggle({ layer, mlp: true }, "off-mlp"), toggle({ layer }, "off-layer")));
    }

    function switchOff(what) {
      set({ off: off.some((one) => same(one, what)) ? off.filter((one) => !same(one, what)) : [...off, what] });
    }

    choose(Math.min(looked.layer, patterns.length - 1), Math.min(looked.head, mean)); // another model may have fewer
    return [
      h("div", { class: "side-by-side" }, h("div", {}, h("h3", {}, say("all-heads")), grid), big),
      h("h3", {}, say("change")), off.length ? later(ask("without", given()), effect) : h("p", { class: "soft" }, say("none-off")),
      h("h3", {}, say("kinds")), later(ask("heads", { checkpoint: state.checkpoint }), (scores) => kinds(scores, choose)),
    ];
  },
};

/** How much each head is of each kind. */
function kinds(scores, choose) {
  const rows = scores.first.map((_, layer) => `${say("layer")} ${layer}`);
  const columns = scores.first[0].map((_, head) => String(head));
  return [h("div", { class: "side-by-side" }, ...["previous", "first", "induction"].map((name) => h("div", {},
    h("p", {}, h("b", {}, say(name)), `: ${say(`${name}-why`)}`),
    heatmap({ values: scores[name], text: scores[name].map((row) => row.map((one) => one.toFixed(2))), rows, columns, wide: 40, range: [0, 1], columnTitle: say("head"), label: say(name), legend: false,
      about: (layer, head) => `${rows[layer]}, ${say("head")} ${head}: ${brief(scores[name][layer][head])}`, onchoose: choose }))))];
}

function heads(patterns, length, off, choose) {
  const root = h("div", { class: "heads", role: "group", "aria-label": say("all-heads") });
  const last = patterns[0].length - 1;
  const isOff = (layer, head) => off.some((one) => one.layer === layer && !one.mlp && (one.head ?? head) === head);
  root.style.setProperty("grid-template-columns", `repeat(${last + 2}, auto)`);
  root.append(h("span"), ...patterns[0].map((_, head) => h("span", {}, head === last ? say("mean") : String(head))));
  patterns.forEach((layer, at) => root.append(h("span", {}, String(at)), ...layer.map((pattern, head) => {
    const name = nameOf(at, head, last);
    return h("button", { type: "button", "data-of": `${at}.${head}`, class: isOff(at, head) ? "off" : "", "aria-label": name, title: name, onclick: () => choose(at, head) }, thumbnail(pattern, length, last > 8 ? 36 : 54));
  })));
  return root;
}

/** A layer's weights as the server sends them, `size` bytes a head with 255 for 1; their mean comes last. */
function unpacked(packed, size) {
  const text = atob(packed);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  const heads = Array.from({ length: bytes.length / size }, (_, head) => bytes.subarray(head * size, (head + 1) * size));
  const mean = new Float32Array(size);
  for (const one of heads) for (let at = 0; at < size; at++) mean[at] += one[at] / heads.length;
  return [...heads, Uint8Array.from(mean)];
}

/** Weights in 0…1, row by row; what a token cannot look at is null. */
const rowsOf = (bytes, length) =>
  Array.from({ length }, (_, row) => Array.from({ length }, (_, column) => (column > row ? null : bytes[row * length + column] / 255)));

/** What the model says, whole and without what is switched off. */
function effect({ before, after, answer, kl }) {
  const column = (name, text, rows) => h("div", {}, h("b", {}, name), h("p", {}, h("code", {}, visible(text))),
    bars(rows.map(({ text, probability }) => [h("code", {}, visible(text)), probability]), { label: say("change"), write: percent, most: 1 }));
  return [
    h("div", { class: "side-by-side" }, column(say("before"), answer.before, before), column(say("after-off"), answer.after, after)),
    h("p", { class: "soft" }, `${say("divergence")}: ${brief(kl)} ${say("nats")}`),
  ];
}
