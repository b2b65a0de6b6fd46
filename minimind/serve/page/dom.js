// Small helpers. Nothing on this page is ever built from a string of HTML: text goes in as text.

/** `h("p", {class: "x", onclick: f}, "text", node)` makes an element. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const $ = (id) => document.getElementById(id);

/** One of the symbols at the top of index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  svg.setAttribute("aria-hidden", "true");
  return svg;
}

export function button(name, label, onclick) {
  return h("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick }, icon(name));
}
