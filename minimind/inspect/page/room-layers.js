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
    text: "Each layer adds something to the residual stream. The logit lens reads that stream after every layer as if it were the last: through the final norm and the output matrix. Rows are layers, the embedding at the bottom; columns are positions; each cell holds the token that would be said next, the darker the more probable. Choose a cell to follow its token through the layers.",
    "would-say": "would say", "through-layers": "Probability of the token after each layer", "rank-layers": "Rank of the token after each layer",
    contributions: "What each block adds to the token's logit",
    "norm-note": "The final norm divides the whole stream by one number, its root mean square at this position. With that number held fixed the logit is a sum, exactly: the bars add up to it.",
    sum: "sum = logit", attention: "attention", mlp: "MLP", follow: "Token to follow", after: "after", "lens-label": "What each layer would say next", "most-likely": "likeliest",
  },
  zh: {
    title: "逐层",
    text: "每一层都往残差流里加一点东西。logit lens 把每层之后的残差流当作最后一层来读：经过末尾的归一化和输出矩阵。行是层，嵌入在最下面；列是位置；格里是接下来会说的词元，颜色越深概率越大。点一格，跟着它的词元走过各层。",
    "would-say": "会说", "through-layers": "词元在各层之后的概率", "rank-layers": "词元在各层之后的名次",
    contributions: "每个模块给这个词元的 logit 加了多少",
    "norm-note": "末尾的归一化把整个残差流除以一个数，即这个位置上的均方根。固定这个数，logit 就恰好是一个和：各条加起来正好等于它。",
    sum: "总和 = logit", attention: "注意力", mlp: "MLP", follow: "跟踪的词元", after: "之后", "lens-label": "每一层接下来会说什么", "most-likely": "最可能的",
  },
});

export const room = {
  id: "layers",
  say,
  async show({ given, ask }) {
    const lens = await ask("lens", given());
    const depth = lens.cells.length; // of layers and the embedding, the embedding first
    const text = (id) => visible(lens.texts[id]);
    const name = (at) => (at === 0 ? say("embedding") : `${say("layer")} ${at - 1}`);
    const up = [...Array(depth).keys()].reverse();
    const part = h("div");

    async function choose(row, position) {
      const [token] = lens.cells[up[row]][position][0];
      const more = await ask("token", { ...given(), position, token });
      const told = more.layers.map(({ probability }, at) => [at, probability]);
      const rows = [[say("embedding"), more.embedding], ...more.blocks.flatMap(({ attention, mlp }, at) => [[`${at} ${say("attention")}`, attention], [`${at} ${say("mlp")}`, mlp]])];
      part.replaceChildren(
        h("h3", {}, `${visible(lens.tokens[position])} → `, h("code", {}, text(token))),
        h("div", { class: "side-by-side" },
          h("div", {}, chart({ series: [{ name: say("probability"), points: told }], label: say("through-layers"), xTitle: say("layer"), yTitle: say("probability"), range: [0, 1], xName: (at) => (at ? String(at - 1) : "–") }),
            h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": say("rank-layers") }, h("table", {}, h("caption", {}, say("rank-layers")),
              h("tbody", {}, h("tr", {}, h("th", { scope: "row" }, say("layer")), ...more.layers.map((_, at) => h("th", { scope: "col" }, at ? String(at - 1) : "–"))),
                h("tr", {}, h("th", { scope: "row" }, say("rank")), ...more.layers.map(({ rank }) => h("td", {}, (rank + 1).toLocaleString("en"))))))),
          h("div", {}, bars([...rows, [say("sum"), more.logit]], { label: say("contributions"), write: brief }), h("p", { class: "soft" }, say("norm-note")))));
    }

    const last = lens.tokens.length - 1;
    const map = heatmap({
      values: up.map((at) => lens.cells[at].map(([[, probability]]) => probability)),
      text: up.map((at) => lens.cells[at].map(([[id]]) => text(id))),
      rows: up.map(name), columns: lens.tokens.map(visible), range: [0, 1], label: say("lens-label"), chosen: [0, last],
      about: (row, position) => `${visible(lens.tokens[position])}, ${name(up[row])}: ${lens.cells[up[row]][position].map(([id, probability]) => `${text(id)} ${percent(probability)}`).join(" · ")}`,
      onchoose: choose,
    });
    await choose(0, last);
    return [map, part];
  },
};
