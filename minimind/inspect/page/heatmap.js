// A heat map on a canvas: rows and columns with their names, what a cell holds at the pointer or the arrow keys, and the
// same numbers as a table for those who do not see the picture.

import { h } from "/page/dom.js";
import { asTable } from "./chart.js";
import { bounds, brief, scale } from "./scale.js";
import { say } from "./words.js";

const FONT = '"DejaVu Sans Mono", ui-monospace, Menlo, Consolas, "WenQuanYi Micro Hei Mono", monospace';
const SMALLEST = 5; // pixels of a cell
const WIDEST = 32000; // pixels of a canvas, of which some browsers draw up to 32767

/**
 * Make a heat map.
 *
 * `values[row][column]` are numbers (null: no cell); `rows` and `columns` their names; `text[row][column]`, where given,
 * is written into the cells. `label` names the picture; `about(row, column)` says what a cell holds. `signed` chooses
 * the scale with two ends, `range` its bounds, `colour(value)` another scale. `onchoose(row, column)` is called for a
 * click or Enter; `chosen` is a `[row, column]`. `wide` is the least width of a cell and `tall` its height in pixels.
 */
export function heatmap({ values, rows, columns, text, label, about, signed = false, range, colour, onchoose, chosen = null,
  wide = text ? 58 : SMALLEST, tall = text ? 24 : 16, rowTitle = "", columnTitle = "", legend = true, atMost = 44 }) {
  const least = wide;
  const ends = range ?? bounds(values);
  const paint = colour ?? scale(ends, signed);
  const names = h("canvas", { class: "names", "aria-hidden": "true" });
  const cells = h("canvas", { class: "cells", tabindex: "0", role: "application", "aria-roledescription": say("heatmap"), "aria-label": label });
  const read = h("output", { class: "read", "aria-live": "polite" });
  const scroll = h("div", { class: "scroll" }, names, cells);
  const root = h("figure", { class: "heat" }, scroll, read);
  if (legend && !colour) root.append(key(ends, signed));
  root.append(asTable(label, ["", ...columns], () => rows.map((_, row) => line(row))));
  let at = chosen;
  let size = { left: 0, top: 0, wide: 0 };

  function key([low, high]) {
    const most = Math.max(Math.abs(low), Math.abs(high));
    const [from, to] = signed ? [-most, most] : [low, high];
    const bar = h("span", { class: "bar", "aria-hidden": "true" });
    const steps = [0, 0.25, 0.5, 0.75, 1].map((share) => paint(from + share * (to - from)).fill);
    bar.style.setProperty("background", `linear-gradient(90deg, ${steps.join(", ")})`);
    return h("p", { class: "key" }, h("span", {}, brief(from)), bar, h("span", {}, brief(to)));
  }

  const line = (row) => h("tr", {}, h("th", { scope: "row" }, rows[row]), ...columns.map((_, column) => {
    const value = values[row][column];
    return h("td", {}, value == null ? "" : [text?.[row][column], brief(value)].filter(Boolean).join(" "));
  }));

  function surface(canvas, width, height) {
    const ratio = Math.min(window.devicePixelRatio || 1, WIDEST / width);
    canvas.width = Math.ceil(width * ratio);
    canvas.height = Math.ceil(height * ratio);
    canvas.style.setProperty("width", `${width}px`);
    canvas.style.setProperty("height", `${height}px`);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = `12px ${FONT}`;
    return pen;
  }

  function draw() {
    const width = root.clientWidth;
    if (!width) return;
    const style = getComputedStyle(document.documentElement);
    const [ink, soft, accent] = ["--ink", "--soft", "--accent"].map((name) => style.getPropertyValue(name).trim());
    const probe = names.getContext("2d");
    probe.font = `12px ${FONT}`;
    const longest = (all) => Math.max(0, ...all.map((name) => probe.measureText(name).width));
    const left = Math.ceil(Math.min(longest(rows), 110)) + 10 + (rowTitle ? 16 : 0);
    const wide = Math.max(least, Math.min(Math.max(least, atMost), Math.floor((width - left - 2) / columns.length)));
    const upright = longest(columns) > wide - 4;
    const every = Math.ceil((upright ? 13 : 1) / wide); // where cells are narrower than a line of text, not each has its name
    const top = (upright ? Math.ceil(Math.min(longest(columns), 84)) + 8 : 20) + (columnTitle ? 16 : 0);
    const isFirst = !size.wide;
    size = { left, top, wide };

    const side = surface(names, left, top + rows.length * tall);
    side.fillStyle = soft;
    side.textBaseline = "middle";
    side.textAlign = "right";
    const rowStep = Math.ceil(12 / tall);
    rows.forEach((name, row) => row % rowStep || side.fillText(name, left - 6, top + (row + 0.5) * tall, left - (rowTitle ? 22 : 6)));
    if (rowTitle) {
      side.save();
      side.translate(7, top + (rows.length * tall) / 2);
      side.rotate(-Math.PI / 2);
      side.textAlign = "center";
      side.fillText(rowTitle, 0, 0, rows.length * tall + top);
      side.restore();
    }

    const pen = surface(cells, columns.length * wide + 1, top + rows.length * tall + 1);
    pen.fillStyle = soft;
    pen.textBaseline = "middle";
    if (columnTitle) pen.fillText(columnTitle, 0, 8);
    columns.forEach((name, column) => {
      if (column % every) return;
      pen.save();
      pen.translate((column + 0.5) * wide, top - 5);
      if (upright) pen.rotate(-Math.PI / 2);
      else pen.textAlign = "center";
      if (!upright) pen.translate(0, -6);
      pen.fillText(name, 0, 0, upright ? top - 6 - (columnTitle ? 16 : 0) : wide - 2);
      pen.restore();
    });
    const gap = wide > 9 && tall > 9 ? 1 : 0;
    pen.textAlign = "center";
    values.forEach((line, row) => line.forEach((value, column) => {
      if (value == null) return;
      const { fill, ink: on } = paint(value);
      pen.fillStyle = fill;
      pen.fillRect(column * wide, top + row * tall, wide - gap, tall - gap);
      const words = text?.[row][column];
      if (!words) return;
      pen.fillStyle = on;
      pen.fillText(words, (column + 0.5) * wide, top + (row + 0.5) * tall, wide - 5);
    }));
    const ring = (cell, paint, line) => {
      pen.strokeStyle = paint;
      pen.lineWidth = line;
      pen.strokeRect(cell[1] * wide + 0.5, top + cell[0] * tall + 0.5, wide - 1, tall - 1);
    };
    if (chosen) ring(chosen, accent, 3);
    if (at && at.join() !== chosen?.join()) ring(at, ink, 1.5);
    if (isFirst && chosen) reveal(chosen[1]);
  }

  function look(cell) {
    at = cell;
    read.textContent = cell ? about(...cell) : "";
    draw();
  }

  /** Scroll a column into sight. */
  function reveal(column) {
    scroll.scrollLeft = Math.max(Math.min(scroll.scrollLeft, column * size.wide), size.left + (column + 1) * size.wide - scroll.clientWidth);
  }

  function choose(cell) {
    if (onchoose) chosen = cell;
    look(cell);
    onchoose?.(...cell);
  }

  function under(event) {
    const box = cells.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - size.top) / tall);
    const column = Math.floor((event.clientX - box.left) / size.wide);
    return values[row]?.[column] == null ? null : [row, column];
  }

  cells.addEventListener("pointermove", (event) => {
    const cell = under(event);
    if (String(cell) !== String(at)) look(cell ?? chosen);
  });
  cells.addEventListener("pointerleave", () => look(chosen));
  cells.addEventListener("click", (event) => {
    const cell = under(event);
    if (cell) choose(cell);
  });
  cells.addEventListener("focus", () => cells.matches(":focus-visible") && look(at ?? chosen ?? first()));
  cells.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: [0, -Infinity], End: [0, Infinity] }[event.key];
    const here = at ?? chosen ?? first();
    if (step && here) {
      const to = [here[0] + step[0], here[1] + step[1]].map((one, axis) => Math.max(0, Math.min((axis ? columns : rows).length - 1, one)));
      if (values[to[0]][to[1]] != null) look(to);
      reveal(to[1]);
    } else if ((event.key === "Enter" || event.key === " ") && here) choose(here);
    else return;
    event.preventDefault();
  });

  function first() {
    const row = values.findIndex((line) => line.some((value) => value != null));
    return row < 0 ? null : [row, values[row].findIndex((value) => value != null)];
  }

  new ResizeObserver(draw).observe(root);
  if (chosen && values[chosen[0]]?.[chosen[1]] != null) read.textContent = about(...chosen);
  return root;
}

/** A small picture of a `length` by `length` matrix of bytes, without names: for choosing among many. */
export function thumbnail(bytes, length, side = 54) {
  const canvas = h("canvas", { width: length, height: length, "aria-hidden": "true" });
  const paint = scale([0, 1]);
  // A pixel as one number, for there may be millions; the root, because most weights of a long text are small.
  const colours = Uint32Array.from({ length: 256 }, (_, byte) => {
    const [r, g, b] = paint(Math.sqrt(byte / 255)).rgb;
    return (255 << 24) | (b << 16) | (g << 8) | r;
  });
  const image = new ImageData(length, length);
  const pixels = new Uint32Array(image.data.buffer);
  for (let at = 0; at < bytes.length; at++) pixels[at] = colours[bytes[at]];
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.style.setProperty("width", `${side}px`);
  canvas.style.setProperty("height", `${side}px`);
  return canvas;
}
