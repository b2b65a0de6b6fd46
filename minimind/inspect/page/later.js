// What takes longer than the rest of a room comes later, in its own place.

import { h } from "/page/dom.js";
import { say } from "./words.js";

/** A place that says so until `answer` is there, and then holds the elements that `draw` makes of it. */
export function later(answer, draw) {
  const place = h("div", { "aria-busy": "true" }, h("p", { class: "soft" }, say("computing")));
  answer.then((found) => place.replaceChildren(...draw(found)), (error) => place.replaceChildren(h("p", { role: "alert" }, error.message)))
    .finally(() => place.setAttribute("aria-busy", "false"));
  return place;
}
