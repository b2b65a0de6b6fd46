// The glass box: an answer as the tokens it was made of, each with what the model could have said instead.

import { $, h } from "./dom.js";
import { say } from "./words.js";

const BITS = 6; // of surprise (a probability of 1.6 %) have the strongest colour

const exact = new TextDecoder("utf-8", { fatal: true });

/** A token's text so that it can be seen: blanks and newlines have signs, parts of characters are bytes. */
function visible(bytes) {
  try {
    return exact.decode(new Uint8Array(bytes)).replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
  } catch {
    return bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");
  }
}

const percent = (logprob) => {
  const p = 100 * Math.exp(logprob);
  return `${p >= 99.95 ? "100" : p >= 10 ? p.toFixed(0) : p >= 0.1 ? p.toFixed(1) : "<0.1"} %`;
};

/** Shows a message's tokens, and adds new ones as they come. */
export class Glass {
  constructor() {
    this.root = h("div", { class: "tokens", role: "group", "aria-label": say("alternatives") });
    this.root.addEventListener("click", (event) => this.open(event.target.closest("[role=button]")));
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.decoder = new TextDecoder(); // a character's bytes may come in several tokens
    this.tokens = [];
  }

  update(tokens) {
    for (const token of tokens.slice(this.tokens.length)) {
      const [bytes, logprob, , thought] = token;
      const text = this.decoder.decode(new Uint8Array(bytes), { stream: true });
      const span = h("span", {
        role: "button", tabindex: this.tokens.length ? "-1" : "0", class: thought ? "thought" : "",
        "aria-label": `${visible(bytes)} ${percent(logprob)}`, "data-at": this.tokens.length,
      }, text ? text.replaceAll("\n", "⏎\n") : "·");
      span.style.setProperty("--surprise", Math.min(1, -logprob / Math.LN2 / BITS).toFixed(3));
      this.root.append(span);
      this.tokens.push(token);
    }
  }

  open(span) {
    if (!span) return;
    const [bytes, logprob, alternatives] = this.tokens[span.dataset.at];
    const same = ([other]) => other.join() === bytes.join();
    const rows = alternatives.some(same) ? alternatives : [...alternatives, [bytes, logprob]];
    const list = h("ol", {}, ...rows.map((row) => {
      const bar = h("i");
      bar.style.setProperty("--p", Math.exp(row[1]));
      return h("li", same(row) ? { class: "chosen", "aria-current": "true", title: say("chosen") } : {},
        h("code", {}, visible(row[0])), bar, h("span", {}, percent(row[1])));
    }));
    const bits = (-logprob / Math.LN2).toFixed(1);
    peek(span, h("p", {}, h("code", {}, visible(bytes)), h("b", {}, percent(logprob)), h("small", {}, `${bits} ${say("bits")}`)), list);
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    const here = event.target.closest("[role=button]");
    if (!here) return;
    if (event.key === "Enter" || event.key === " ") this.open(here);
    else if (step) {
      const at = Math.max(0, Math.min(this.tokens.length - 1, Number(here.dataset.at) + step));
      here.tabIndex = -1;
      this.root.children[at].tabIndex = 0;
      this.root.children[at].focus();
      if (!$("peek").hidden) this.open(this.root.children[at]);
    } else return;
    event.preventDefault();
  }
}

let looked = null;

/** Show a small window beside an element. */
function peek(element, ...content) {
  const window = $("peek");
  looked?.classList.remove("looked");
  looked = element;
  looked.classList.add("looked");
  window.replaceChildren(...content);
  window.setAttribute("aria-label", say("alternatives"));
  window.hidden = false;
  const at = element.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = window;
  const below = at.bottom + 8 + height < innerHeight || at.top < height + 8;
  window.style.setProperty("left", `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`);
  window.style.setProperty("top", `${Math.max(8, below ? at.bottom + 8 : at.top - height - 8)}px`);
}

export function closePeek() {
  const was = !$("peek").hidden;
  $("peek").hidden = true;
  looked?.classList.remove("looked");
  return was;
}
