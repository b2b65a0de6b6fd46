// Facts: put the activations of one question's run into another's, place by place, and see which place carries the fact.

import { h } from "/page/dom.js";
import { heatmap } from "./heatmap.js";
import { percent } from "./scale.js";
import { visible } from "./strip.js";
import { spoken, words } from "./words.js";

const say = words({
  en: {
    title: "Facts",
    explanation: "Where does a model keep what it knows? Ask about one person, then about another. Now run the second question again, but put in one place what the first run had there: the residual stream after one layer, at one position. Where the first answer comes back, the fact was there. Rows are layers, columns positions; each cell holds the probability of the first answer.",
    clean: "Question", corrupt: "Other question", pairs: "Questions of the small world", "choose-pair": "Choose two questions…", trace: "Trace",
    restored: "Probability of the first answer, with one place put in", "clean-answer": "The question is answered with", "corrupt-answer": "The other with",
    "from-to": "{0} in place of {1}", "same-length": "Questions of the same form are compared best: each position then has its counterpart.",
  },
  zh: {
    title: "事实",
    explanation: "模型把知道的事放在哪里？先问一个人，再问另一个人。然后把第二个问题重新跑一遍，但在某一处换上第一次运行在那里的状态：某一层之后、某个位置上的残差流。第一个答案在哪里回来，事实就在哪里。行是层，列是位置；每格是第一个答案的概率。",
    clean: "问题", corrupt: "另一个问题", pairs: "小世界的问题", "choose-pair": "选两个问题……", trace: "追踪",
    restored: "换上某一处之后第一个答案的概率", "clean-answer": "对问题的回答", "corrupt-answer": "对另一个问题的回答",
    "from-to": "用 {0} 换掉 {1}", "same-length": "形式相同的问题最好比较：这样每个位置都有对应。",
  },
});

const NAMES = ["clean", "corrupt"];
let asked = null; // {clean, corrupt}: the prompts that were traced last

export const room = {
  id: "facts",
  say,
  async show({ state, model, ask, set }) {
    const pairs = model.facts[spoken()];
    asked ??= pairs[0] ?? { clean: written("", ""), corrupt: written("", "") };
    const again = (pair) => { asked = pair; set({}); };
    const choice = h("select", { "aria-label": say("pairs"), onchange: (event) => again(pairs[event.target.value]) },
      h("option", { value: "", disabled: true, selected: true }, say("choose-pair")), ...pairs.map(({ label, clean }, at) => h("option", { value: at }, `${label} · ${say(clean.text == null ? "conversation" : "text")}`)));
    const form = h("form", { class: "questions", onsubmit: (event) => {
      event.preventDefault();
      const given = new FormData(event.target);
      again(Object.fromEntries(NAMES.map((name) => [name, asked[name].text == null ? written(given.get(name), given.get(`${name}-begins`)) : { text: given.get(name) }])));
    } }, ...NAMES.flatMap((name) => fields(name, asked[name])),
      h("div", { class: "row" }, h("small", {}, say("same-length")), pairs.length ? choice : "", h("button", { class: "primary" }, say("trace"))));
    return asked.clean.messages?.[0].content === "" ? [form] : [form, ...(await traced(state, ask))];
  },
};

const written = (question, begins) => ({ messages: [{ role: "user", content: question }], begins });

function fields(name, { text, messages, begins }) {
  const about = (name, rows = 1) => ({ name, rows, spellcheck: "false", autocomplete: "off" });
  const field = (label, input) => h("label", {}, h("span", {}, label), input);
  if (text != null) return [field(say(name), h("textarea", { ...about(name, text.split("\n").length), required: true }, text))];
  return [field(say(name), h("input", { ...about(name), required: true, value: messages[0].content })), field(say("begins"), h("input", { ...about(`${name}-begins`), value: begins }))];
}

async function traced(state, ask) {
  let found;
  try {
    found = await ask("facts", { clean: asked.clean, corrupt: asked.corrupt, checkpoint: state.checkpoint, off: state.off });
  } catch (error) {
    return [h("p", { role: "alert" }, error.message)]; // the form stays, so that the question can be mended
  }
  const { from, answer, other, first } = found;
  const tokens = found.tokens.slice(first); // what stands before is the same in both, and so are its states
  const up = [...found.restored.keys()].reverse();
  const restored = up.map((at) => found.restored[at].slice(first));
  const name = (row) => (up[row] ? `${say("layer")} ${up[row] - 1}` : say("embedding"));
  const swap = (at) => say("from-to").replace("{0}", visible(from[first + at])).replace("{1}", visible(tokens[at]));
  return [
    h("p", {}, `${say("clean-answer")} `, h("code", {}, visible(answer.text)), ` ${percent(found.clean)} → ${percent(found.corrupt)} · ${say("corrupt-answer")} `, h("code", {}, visible(other.text))),
    heatmap({ values: restored, text: restored.map((row) => row.map((value) => (value == null ? "" : (100 * value).toFixed(0)))), rows: up.map((_, row) => name(row)), columns: tokens.map(visible),
      range: [0, 1], wide: 24, label: say("restored"), about: (row, at) => `${swap(at)}, ${name(row)}: ${percent(restored[row][at])}` }),
  ];
}
