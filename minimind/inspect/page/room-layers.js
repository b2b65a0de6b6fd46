// Through the layers: what each layer would say next, and who pushed the chosen token up or down.

import { h } from "/page/dom.js";
import { chart } from "./chart.js";
import { heatmap } from "./heatmap.js";
import { brief, percent } from "./scale.js";
import { bars, visible } from "./strip.js";
import { words } from "./words.js";

const say = words({
  en: {
    title: "Layers",
    explanation: "Each layer adds something to the residual stream. The logit lens reads that stream after every layer as if it were the last: through the final norm and the output matrix. Rows are layers, the embedding at the bottom; columns are positions; each cell holds the token that would be said next, the darker the more probable. Choose a cell to follow its token through the layers.",
    "through-layers": "Probability of the token after each layer", "rank-layers": "Rank of the token after each layer",
    contributions: "What each block adds to the token's logit",
    "norm-note": "The final norm divides the whole stream by one number, its root mean square at this position. With that number held fixed the logit is a sum, exactly: the bars add up to it.",
    sum: "sum = logit", attention: "attention", mlp: "MLP", "lens-label": "What each layer would say next",
  },
  zh: {
    title: "逐层",
    explanation: "每一层都往残差流里加一点东西。logit lens 把每层之后的残差流当作最后一层来读：经过末尾的归一化和输出矩阵。行是层，嵌入在最下面；列是位置；格里是接下来会说的词元，颜色越深概率越大。点一格，跟着它的词元走过各层。",
    "through-layers": "词元在各层之后的概率", "rank-layers": "词元在各层之后的名次",
    contributions: "每个模块给这个词元的 logit 加了多少",
    "norm-note": "末尾的归一化把整个残差流除以一个数，即这个位置上的均方根。固定这个数，logit 就恰好是一个和：各条加起来正好等于它。",
    sum: "总和 = logit", attention: "注意力", mlp: "MLP", "lens-label": "每一层接下来会说什么",
  },
});

export const room = {
  id: "layers",
  say,
  async show({ given, ask }) {
    const lens = await ask("lens", given());
    const text = (id) => visible(lens.texts[id]);
    const up = [...lens.cells.keys()].reverse(); // the embedding at the bottom, the answer on top
    const last = lens.tokens.length - 1;
    const part = h("div", { "aria-live": "polite" });

    async function choose(row, position) {
      const [token] = lens.cells[up[row]][position][0];
      const found = await ask("token", { ...given(), position, token });
      part.replaceChildren(h("h3", {}, h("code", {}, visible(lens.tokens[position])), " → ", h("code", {}, text(token))),
        h("div", { class: "side-by-side" }, h("div", {}, ...throughLayers(found)), h("div", {}, ...sum(found))));
    }

    await choose(0, last);
    return [
      heatmap({
        values: up.map((at) => lens.cells[at].map(([[, probability]]) => probability)), text: up.map((at) => lens.cells[at].map(([[id]]) => text(id))),
        rows: up.map(nameOf), columns: lens.tokens.map(visible), range: [0, 1], label: say("lens-label"), chosen: [0, last], onchoose: choose,
        about: (row, position) => `${visible(lens.tokens[position])}, ${nameOf(up[row])}: ` +
          lens.cells[up[row]][position].map(([id, probability]) => `${text(id)} ${percent(probability)}`).join(" · "),
      }),
      part,
    ];
  },
};

const nameOf = (at) => (at ? `${say("layer")} ${at - 1}` : say("embedding"));
const short = (at) => (at ? String(at - 1) : "–");

/** A token's probability and rank after each layer. */
function throughLayers({ layers }) {
  const points = layers.map(({ probability }, at) => [at, probability]);
  const line = (name, cells, tag) => h("tr", {}, h("th", { scope: "row" }, name), ...cells.map((cell) => h(tag, tag === "th" ? { scope: "col" } : {}, cell)));
  return [
    chart({ series: [{ name: say("probability"), points }], label: say("through-layers"), xTitle: say("layer"), yTitle: say("probability"), range: [0, 1], xName: short, yName: percent }),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": say("rank-layers") }, h("table", {}, h("caption", {}, say("rank-layers")), h("tbody", {},
      line(say("layer"), layers.map((_, at) => short(at)), "th"), line(say("rank"), layers.map(({ rank }) => (rank + 1).toLocaleString("en")), "td")))),
  ];
}

/** The token's logit as the sum that it is. */
function sum({ embedding, blocks, logit }) {
  const rows = blocks.flatMap(({ attention, mlp }, at) => [[`${at} ${say("attention")}`, attention], [`${at} ${say("mlp")}`, mlp]]);
  return [
    bars([[say("embedding"), embedding], ...rows, [say("sum"), logit]], { label: say("contributions"), write: brief }),
    h("p", { class: "soft" }, say("norm-note")),
  ];
}
