// Line charts as SVG, with a cursor that the pointer or the arrow keys move, and the numbers as a table.

import { h } from "/page/dom.js";
import { brief, KINDS } from "./scale.js";
import { say } from "./words.js";

const [TALL, LEFT, BOTTOM, TOP, RIGHT] = [230, 48, 36, 10, 14]; // pixels
const DASHES = ["", "7 4", "2 3"]; // lines differ by more than their colour

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const look = (number) => ({ class: "line", stroke: KINDS[number % KINDS.length], "stroke-dasharray": DASHES[number % DASHES.length] });

/** About `count` round numbers from `low` to `high`. */
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * ([1, 2, 5].find((one) => one * unit >= raw) ?? 10);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

/**
 * Make a line chart of `series`: `{name, points: [[x, y], ...]}`, x rising; not finite y are gaps. `label` names it,
 * `xTitle` and `yTitle` its axes; `range` are the bounds of y; `mark` is an x with a line through it; `onchoose(x)` is
 * called for a click or Enter at a point; `xName(x)` writes an x, `yName(y)` a y.
 */
export function chart({ series, label, xTitle, yTitle, range, mark, onchoose, xName = (x) => x.toLocaleString("en"), yName = brief }) {
  const xs = [...new Set(series.flatMap(({ points }) => points.map(([x]) => x)))].sort((a, b) => a - b);
  const ys = series.flatMap(({ points }) => points.map(([, y]) => y)).filter(Number.isFinite);
  const [low, high] = range ?? [Math.min(...ys), Math.max(...ys)];
  if (!xs.length || !ys.length) return h("p", { class: "soft" }, say("nothing"));
  const [left, right] = [xs[0], xs.at(-1)];
  const values = series.map(({ points }) => new Map(points));
  const read = h("output", { class: "read", "aria-live": "polite" });
  const picture = svg("svg", { class: "chart", tabindex: 0, role: "application", "aria-label": label, "aria-roledescription": say("chart") });
  const root = h("figure", { class: "plot" }, picture);
  const cursor = svg("line", { y1: TOP, y2: TALL - BOTTOM, class: "cursor", visibility: "hidden" });
  let at = Math.max(0, xs.indexOf(mark));
  let X = null; // from an x to pixels

  function draw() {
    const wide = root.clientWidth;
    if (!wide) return;
    X = (x) => LEFT + ((x - left) / (right - left || 1)) * (wide - LEFT - RIGHT);
    const Y = (y) => TALL - BOTTOM - ((y - low) / (high - low || 1)) * (TALL - BOTTOM - TOP);
    picture.style.setProperty("width", `${wide}px`);
    picture.style.setProperty("height", `${TALL}px`);
    picture.replaceChildren();
    for (const y of ticks(low, high, 5)) {
      picture.append(svg("line", { x1: LEFT, x2: wide - RIGHT, y1: Y(y), y2: Y(y), class: "grid" }),
        svg("text", { x: LEFT - 7, y: Y(y) + 4, "text-anchor": "end" }, yName === brief ? String(y).replace("-", "−") : yName(y))); // a tick is round, and `brief` makes 0.035 a 0.04
    }
    for (const x of ticks(left, right, Math.min(xs.length - 1 || 1, wide / 90))) {
      picture.append(svg("text", { x: X(x), y: TALL - BOTTOM + 16, "text-anchor": "middle" }, xName(x)));
    }
    picture.append(svg("text", { x: wide - RIGHT, y: TALL - 4, "text-anchor": "end", class: "title" }, xTitle),
      svg("text", { x: 0, y: TALL - 4, class: "title" }, `↑ ${yTitle}`));
    series.forEach(({ points }, number) => {
      const shown = points.map(([x, y]) => (Number.isFinite(y) ? `${X(x).toFixed(1)} ${Y(y).toFixed(1)}` : null));
      picture.append(svg("path", { d: shown.map((point, i) => point && `${i && shown[i - 1] ? "L" : "M"}${point}`).filter(Boolean).join(""), ...look(number) }));
      if (points.length <= 24) {
        for (const [x, y] of points) if (Number.isFinite(y)) picture.append(svg("circle", { cx: X(x), cy: Y(y), r: 3, fill: KINDS[number % KINDS.length] }));
      }
    });
    if (mark != null) picture.append(svg("line", { x1: X(mark), x2: X(mark), y1: TOP, y2: TALL - BOTTOM, class: "mark" }));
    picture.append(cursor);
  }

  function readAt(index) {
    at = index;
    cursor.setAttribute("visibility", "visible");
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, X(xs[at]));
    const told = series.map(({ name }, i) => [name, values[i].get(xs[at])]).filter(([, y]) => y != null);
    read.textContent = `${xTitle} ${xName(xs[at])}: ${told.map(([name, y]) => `${name} ${yName(y)}`).join(" · ")}`;
  }

  picture.addEventListener("pointermove", (event) => {
    const x = event.clientX - picture.getBoundingClientRect().left;
    readAt(xs.reduce((best, one, i) => (Math.abs(X(one) - x) < Math.abs(X(xs[best]) - x) ? i : best), 0));
  });
  picture.addEventListener("click", () => onchoose?.(xs[at]));
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step) readAt(Math.max(0, Math.min(xs.length - 1, at + step)));
    else if (event.key === "Enter" || event.key === " ") onchoose?.(xs[at]);
    else return;
    event.preventDefault();
  });
  if (series.length > 1) {
    root.append(h("ul", { class: "legend" }, ...series.map(({ name }, number) =>
      h("li", {}, svg("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, svg("line", { x1: 0, x2: 22, y1: 4, y2: 4, ...look(number) })), name))));
  }
  const line = (x) => h("tr", {}, h("th", { scope: "row" }, xName(x)), ...values.map((found) => h("td", {}, found.has(x) ? yName(found.get(x)) : "")));
  root.append(read, asTable(label, [xTitle, ...series.map(({ name }) => name)], () => xs.map(line)));
  new ResizeObserver(draw).observe(root);
  return root;
}

/** A picture's numbers, folded away: `lines()` makes the rows when they are asked for. */
export function asTable(label, columns, lines) {
  const fold = h("details", { class: "alternative" }, h("summary", {}, say("as-table")));
  fold.addEventListener("toggle", () => {
    if (!fold.open || fold.children.length > 1) return;
    fold.append(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, h("table", {}, h("caption", {}, label),
      h("thead", {}, h("tr", {}, ...columns.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, ...lines()))));
  });
  return fold;
}
