// Tokens: how the text is cut, which tokens are trained on, and how each came to be.

import { h } from "/page/dom.js";
import { brief } from "./scale.js";
import { strip, visible } from "./strip.js";
import { words } from "./words.js";

const say = words({
  en: {
    title: "Tokens",
    explanation: "A model reads numbers, not letters. Byte-pair encoding starts from the bytes of the text and joins the pair that was most frequent in the tokenizer's training text, again and again; what is left are tokens. In a conversation only the assistant's tokens are trained on; the others are faded here. Choose a token to see, merge by merge, how it came to be.",
    "bytes-per-token": "bytes per token", control: "control token", "trained-on": "trained on", "not-trained-on": "not trained on",
    "how-made": "How it came to be", "one-piece": "One byte or a control token: it was never joined from others.", merge: "merge",
    id: "id", other: "other scripts", zh: "Chinese",
  },
  zh: {
    title: "词元",
    explanation: "模型读的是数字，不是字母。字节对编码从文本的字节出发，反复合并分词器训练文本里最常相邻的一对，最后剩下的就是词元。在对话里只有助手的词元参与训练，其余的在这里变淡。点一个词元，看它是怎样一步步合并出来的。",
    "bytes-per-token": "每个词元的字节数", control: "控制词元", "trained-on": "参与训练", "not-trained-on": "不参与训练",
    "how-made": "它的由来", "one-piece": "单个字节或控制词元：它不由别的词元合并而成。", merge: "合并",
    id: "编号", other: "其他文字", zh: "汉字",
  },
});

/** `{name: text}` as a line of terms and figures. */
const figures = (all) => h("dl", { class: "figures" }, ...Object.entries(all).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

export const room = {
  id: "tokens",
  say,
  async show({ given, ask }) {
    const { tokens, bytes_per_token } = await ask("tokens", given());
    const made = h("div", { "aria-live": "polite" });
    const scored = tokens.some(({ supervised }) => supervised) && tokens.some(({ supervised }) => !supervised);
    const about = ({ text, id, bytes, control, supervised }) =>
      [visible(text), `${say("id")} ${id}`, `${bytes} ${say("bytes")}`, control && say("control"), scored && say(supervised ? "trained-on" : "not-trained-on")].filter(Boolean).join(", ");

    async function choose(at) {
      const token = tokens[at];
      const { steps } = await ask("merges", { id: token.id });
      made.replaceChildren(h("h3", {}, `${say("how-made")}: `, h("code", {}, visible(token.text))), h("p", { class: "soft" }, about(token)), history(steps));
    }

    return [
      figures({ [say("tokens")]: String(tokens.length), ...Object.fromEntries(Object.entries(bytes_per_token).filter(([, value]) => value != null).map(([name, value]) => [`${say("bytes-per-token")}, ${say(name)}`, brief(value)])) }),
      strip(tokens.map(({ text }) => text), {
        label: say("title"), about: (at) => about(tokens[at]), note: (at) => tokens[at].id,
        mark: (at) => [tokens[at].control && "control", scored && !tokens[at].supervised && "unscored"].filter(Boolean).join(" "), onchoose: choose,
      }),
      made,
    ];
  },
};

/** A token's merges, one a line: the piece that was just joined marked. */
function history(steps) {
  if (steps.length < 2) return h("p", {}, say("one-piece"));
  return h("ol", { class: "merges" }, ...steps.map(({ pieces, joined, rank }) =>
    h("li", {}, ...pieces.map((piece, at) => h("code", { class: at === joined ? "joined" : "" }, visible(piece))),
      rank == null ? "" : h("small", {}, `${say("merge")} ${rank.toLocaleString("en")}`))));
}
