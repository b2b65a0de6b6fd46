// Markdown to DOM nodes, the part of it that models write. Every character that is no markup stays a text node, so that
// a model (or a user who pastes) can not put a tag, a script or a `javascript:` address into the page.

import { copier, h } from "./dom.js";
import { say } from "./words.js";

const INLINE = [
  // [pattern, element]; the first that matches at the earliest place wins
  [/`+([^`]|[^`][\s\S]*?[^`])`+(?!`)/, (m) => h("code", {}, m[1].trim() || m[1])],
  [/\*\*(?=\S)([\s\S]+?\S)\*\*/, (m) => h("strong", {}, ...inline(m[1]))],
  [/~~(?=\S)([\s\S]+?\S)~~/, (m) => h("del", {}, ...inline(m[1]))],
  [/\*(?=[^\s*])([^*]*[^\s*])\*/, (m) => h("em", {}, ...inline(m[1]))],
  [/(?<![\w])_(?=[^\s_])([^_]*[^\s_])_(?![\w])/, (m) => h("em", {}, ...inline(m[1]))],
  [/!?\[([^\]\n]+)\]\(([^()\s]+)\)/, (m) => link(m[2], inline(m[1])) ?? m[0]],
  [/\bhttps?:\/\/[^\s<>"'`，。；！？、（）]+[^\s<>"'`，。；！？、（）.,;:!?)]/, (m) => link(m[0], [m[0]]) ?? m[0]],
];

function link(address, children) {
  const safe = /^(https?:\/\/|mailto:)/i.test(address);
  return safe ? h("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children) : null;
}

/** A line's text with its markup, as a list of nodes and strings. */
function inline(text) {
  const out = [];
  while (text) {
    let best = null;
    for (const [pattern, make] of INLINE) {
      const match = pattern.exec(text);
      if (match && (!best || match.index < best.match.index)) best = { match, make };
    }
    if (!best) break;
    if (best.match.index) out.push(text.slice(0, best.match.index));
    out.push(best.make(best.match));
    text = text.slice(best.match.index + best.match[0].length);
  }
  if (text) out.push(text);
  return out;
}

function lines(text) {
  return text.split("\n").flatMap((line, i) => (i ? [h("br"), ...inline(line)] : inline(line)));
}

const FENCE = /^ {0,3}(```+|~~~+)\s*([^\s`]*)/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const ROW = /^\s*\|.*\|\s*$/;
const DIVIDER = /^\s*\|?(\s*:?-+:?\s*\|)+\s*:?-*:?\s*$/;

/** The text as block elements. */
export function markdown(text) {
  const rows = text.split("\n");
  const blocks = [];
  let i = 0;
  const begins = (row) => FENCE.test(row) || HEADING.test(row) || RULE.test(row) || ITEM.test(row) || /^ {0,3}>/.test(row);
  while (i < rows.length) {
    const row = rows[i];
    const fence = FENCE.exec(row);
    const heading = HEADING.exec(row);
    if (!row.trim()) i++;
    else if (fence) {
      const code = [];
      for (i++; i < rows.length && !rows[i].trim().startsWith(fence[1]); i++) code.push(rows[i]);
      i++;
      blocks.push(codeBlock(code.join("\n"), fence[2]));
    } else if (heading) {
      blocks.push(h(`h${Math.min(heading[1].length + 2, 6)}`, {}, ...inline(heading[2])));
      i++;
    } else if (RULE.test(row)) {
      blocks.push(h("hr"));
      i++;
    } else if (/^ {0,3}>/.test(row)) {
      const quoted = [];
      for (; i < rows.length && /^ {0,3}>/.test(rows[i]); i++) quoted.push(rows[i].replace(/^ {0,3}> ?/, ""));
      blocks.push(h("blockquote", {}, ...markdown(quoted.join("\n"))));
    } else if (ITEM.test(row)) {
      const taken = [];
      for (; i < rows.length && (ITEM.test(rows[i]) || /^\s+\S/.test(rows[i])); i++) taken.push(rows[i]);
      blocks.push(list(taken));
    } else if (ROW.test(row) && DIVIDER.test(rows[i + 1] ?? "")) {
      const taken = [row];
      for (i += 2; i < rows.length && ROW.test(rows[i]); i++) taken.push(rows[i]);
      blocks.push(table(taken));
    } else {
      const taken = [row];
      for (i++; i < rows.length && rows[i].trim() && !begins(rows[i]); i++) taken.push(rows[i]);
      blocks.push(h("p", {}, ...lines(taken.join("\n"))));
    }
  }
  return blocks;
}

function codeBlock(code, language) {
  return h("div", { class: "code" }, h("div", {}, h("span", {}, language), copier(say("copy"), () => code)), h("pre", { tabindex: "0" }, h("code", {}, code)));
}

function list(rows) {
  const first = ITEM.exec(rows[0]);
  const depth = first[1].length;
  const ordered = /\d/.test(first[2]);
  const items = [];
  for (const row of rows) {
    const item = ITEM.exec(row);
    if (item && item[1].length <= depth) items.push([item[3]]);
    else items.at(-1).push(row.slice(Math.min(depth + 2, row.search(/\S/))));
  }
  const start = ordered && parseInt(first[2]) !== 1 ? parseInt(first[2]) : null;
  return h(ordered ? "ol" : "ul", { start }, ...items.map((item) =>
    h("li", {}, ...inline(item[0]), ...(item.length > 1 ? markdown(item.slice(1).join("\n")) : []))));
}

function table(rows) {
  const cells = (row) => row.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => inline(cell.trim()));
  const line = (row, tag) => h("tr", {}, ...cells(row).map((cell) => h(tag, {}, ...cell)));
  return h("div", { class: "scroll", tabindex: "0" }, h("table", {},
    h("thead", {}, line(rows[0], "th")), h("tbody", {}, ...rows.slice(1).map((row) => line(row, "td")))));
}
