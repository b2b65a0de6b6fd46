// The prompt: a free text, or a conversation turn by turn, and the first words of the answer to it.

import { $, button, h } from "/page/dom.js";
import { say } from "./words.js";

const ROLES = ["system", "user", "assistant"];

let turns = [];

function show() {
  $("turns").replaceChildren(...turns.map((turn, at) => {
    const role = h("select", { "aria-label": say("kind"), onchange: (event) => { turn.role = event.target.value; show(); } },
      ...ROLES.map((name) => h("option", { value: name, selected: name === turn.role }, say(name))));
    const text = h("textarea", { rows: "1", spellcheck: "false", "aria-label": say(turn.role), oninput: (event) => (turn.content = event.target.value) });
    text.value = turn.content;
    return h("div", { class: "turn" }, role, text, button("close", say("remove-turn"), () => { turns.splice(at, 1); show(); }));
  }));
  $("answer").hidden = turns.at(-1)?.role === "assistant"; // which then is the answer, or its beginning
}

const kindOfPrompt = () => document.querySelector("[name=kind]:checked")?.value ?? "text";

function setKind(kind) {
  document.querySelector(`[name=kind][value=${kind}]`).checked = true;
  $("free").hidden = kind !== "text";
  $("conversation").hidden = $("add").hidden = kind === "text";
}

/** What the reader has written: `{text}`, or `{messages, begins}`. */
export function readPrompt() {
  if (kindOfPrompt() === "text") return { text: $("text").value };
  const begins = $("answer").hidden ? "" : $("begins").value;
  return { messages: turns.map((turn) => ({ ...turn })), ...(begins && { begins }) };
}

/** Show a prompt in the form. */
export function writePrompt({ text, messages, begins = "" }) {
  setKind(messages ? "conversation" : "text");
  if (messages) turns = messages.map((turn) => ({ ...turn }));
  else $("text").value = text;
  $("begins").value = begins;
  show();
}

/** Fill the list of examples, `[{label, prompt}]`. */
export function showExamples(examples) {
  $("examples").replaceChildren(h("option", { value: "" }, say("choose-example")), ...examples.map(({ label }, at) => h("option", { value: at }, label)));
  $("examples").hidden = !examples.length;
}

$("kinds").addEventListener("change", (event) => {
  if (event.target.name !== "kind") return;
  setKind(event.target.value);
  if (event.target.value === "conversation" && !turns.length) turns = [{ role: "user", content: $("text").value }];
  show();
});
$("add").addEventListener("click", () => {
  turns.push({ role: turns.at(-1)?.role === "user" ? "assistant" : "user", content: "" });
  show();
  $("turns").lastElementChild.querySelector("textarea").focus();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("prompt").requestSubmit();
});
