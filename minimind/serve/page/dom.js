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

/** A button that copies what `text()` gives, and shows for a moment that it has. */
export function copier(label, text) {
  const it = button("copy", label, async () => {
    await copy(text());
    it.replaceChildren(icon("done"));
    setTimeout(() => it.replaceChildren(icon("copy")), 1500);
  });
  return it;
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text); // not there without https, but on localhost
  const area = h("textarea", { class: "hidden" });
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused.focus();
}

/** Whether a key belongs to the Chinese that is being typed. WebKit ends a composition before the Enter that ends it. */
export const composing = (event) => event.isComposing || event.keyCode === 229;
