// A text as its tokens, each a button: the arrow keys walk along, Enter or a click chooses.

import { h } from "/page/dom.js";

/** A token's text so that it can be seen: blanks and line ends have signs; parts of characters are bytes already. */
export const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";

/**
 * Make a strip of `tokens` (texts). `about(at)` names one to a screen reader and in its title; `colour(at)` gives
 * `{fill, ink}` or nothing; `note(at)` is written small beneath; `mark(at)` is a class. `onchoose(at)` is called for the one
 * chosen.
 */
export function strip(tokens, { label, about, colour, note, mark, chosen = -1, onchoose }) {
  const root = h("div", { class: "strip", role: "listbox", "aria-label": label, "aria-orientation": "horizontal" });
  tokens.forEach((token, at) => {
    const one = h("span", { role: "option", tabindex: at === Math.max(0, chosen) ? "0" : "-1", "aria-selected": String(at === chosen), class: mark?.(at) ?? "",
      "aria-label": about(at), title: about(at), "data-at": at }, h("b", {}, visible(token)));
    if (note) one.append(h("small", {}, note(at)));
    const paint = colour?.(at);
    if (paint) {
      one.style.setProperty("background", paint.fill);
      one.style.setProperty("color", paint.ink);
    }
    root.append(one);
    if (token.endsWith("\n")) root.append(h("i", { class: "break" }));
  });
  const all = root.querySelectorAll("span");

  function choose(at) {
    all.forEach((one, i) => one.setAttribute("aria-selected", String(i === at)));
    onchoose?.(at);
  }

  root.addEventListener("click", (event) => {
    const one = event.target.closest("span");
    if (one) choose(Number(one.dataset.at));
  });
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    const here = Number(event.target.closest("span")?.dataset.at ?? 0);
    if (event.key === "Enter" || event.key === " ") choose(here);
    else if (step) {
      const to = all[Math.max(0, Math.min(all.length - 1, here + step))];
      all[here].tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    } else return;
    event.preventDefault();
  });
  return root;
}

/** Bars to both sides of nothing: `rows` are `[name, number]`, `most` the greatest size there is. */
export function bars(rows, { label, write, most = Math.max(...rows.map(([, value]) => Math.abs(value)), 1e-9) }) {
  const signed = rows.some(([, value]) => value < 0);
  return h("table", { class: signed ? "bars signed" : "bars" }, h("caption", {}, label), h("tbody", {}, ...rows.map(([name, value]) => {
    const bar = h("i", { class: value < 0 ? "less" : "more", "aria-hidden": "true" });
    bar.style.setProperty("--size", Math.min(1, Math.abs(value) / most) || 0);
    return h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, bar), h("td", {}, write(value)));
  })));
}
