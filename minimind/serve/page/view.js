// Turns on the page: what the user said, and answers with their thoughts, tool calls and tokens.

import { button, composing, copier, h, icon } from "./dom.js";
import { Glass } from "./glass.js";
import { markdown } from "./markdown.js";
import { say } from "./words.js";

/** One assistant message; `update` changes only what has changed, so that folds stay as the reader left them. */
class MessageView {
  constructor() {
    this.thought = h("details", { class: "thought", hidden: true }, h("summary", {}, icon("think"), h("span")), h("div"));
    this.prose = h("div", { class: "prose" });
    this.calls = h("div", { class: "calls" });
    this.glass = new Glass();
    this.unkept = h("p", { class: "soft", hidden: true }, say("no-glass"));
    this.plain = h("div", { class: "plain" }, this.thought, this.prose);
    this.inside = h("div", { class: "inside" }, this.glass.root, this.unkept);
    this.root = h("div", {}, this.plain, this.inside, this.calls);
    this.shown = { thought: "", content: "" };
  }

  update(message, results, running) {
    const thought = message.reasoning_content ?? "";
    if (thought !== this.shown.thought) {
      this.thought.hidden = false;
      this.thought.lastChild.textContent = thought;
    }
    const thinks = running && !message.content;
    if (thought && thinks !== this.thinks) {
      this.thinks = thinks;
      this.thought.open = thinks;
      this.thought.classList.toggle("working", thinks);
      this.thought.querySelector("span").textContent = say(thinks ? "thinking" : "thought");
    }
    if (message.content !== this.shown.content) this.prose.replaceChildren(...markdown(message.content));
    this.shown = { thought, content: message.content };
    this.glass.update(message.glass ?? []);
    this.unkept.hidden = Boolean(message.glass);
    for (const [i, call] of (message.tool_calls ?? []).entries()) {
      this.calls.children[i] ?? this.calls.append(card(call));
      const shown = this.calls.children[i];
      shown.querySelector(".given").textContent = pretty(call.function.arguments); // they arrive after the name
      const result = results.get(call.id);
      if (result !== undefined) shown.lastChild.replaceChildren(h("span", {}, say("result")), h("code", {}, pretty(result)));
    }
  }
}

function card(call) {
  const name = h("p", {}, icon("tool"), h("span", {}, say("called")), " ", h("b", {}, call.function.name));
  return h("div", { class: "card" }, name, h("code", { class: "given" }), h("div", { class: "result" }, h("span", {}, say("running"))));
}

/** `{"a": 1}` as `a = 1`, lines for several; anything else as it is. */
function pretty(text) {
  try {
    const value = JSON.parse(text);
    if (typeof value !== "object" || !value) return text;
    return Object.entries(value).map(([key, one]) => `${key} = ${typeof one === "string" ? one : JSON.stringify(one)}`).join("\n");
  } catch {
    return text;
  }
}

/** The whole conversation. `act` has `edit(turn, text)`, `again(turn)` and `say(text)` (to a screen reader). */
export class Conversation {
  constructor(list, act) {
    this.list = list;
    this.act = act;
    this.views = new Map();
  }

  clear() {
    this.list.replaceChildren();
    this.views.clear();
  }

  /** Show `messages`; `running` while the last of them is being written. */
  show(messages, running) {
    const results = new Map(messages.filter((m) => m.role === "tool").map((m) => [m.tool_call_id, m.content]));
    let turn = -1;
    let item = null;
    this.list.querySelector(".waiting")?.remove();
    for (const [i, message] of messages.entries()) {
      if (message.role === "tool") continue;
      if (message.role === "user" || item === null || item.classList.contains("user")) {
        turn++;
        item = this.list.children[turn];
        if (item && item.source !== (message.role === "user" ? message : undefined)) item = this.cut(turn);
        item ??= this.list.appendChild(message.role === "user" ? this.user(message, i) : this.answer(i));
      }
      if (message.role === "user") continue;
      let view = this.views.get(message);
      if (!view) {
        this.views.set(message, (view = new MessageView()));
        item.querySelector(".messages").append(view.root);
      }
      view.update(message, results, running && i === messages.length - 1);
      item.messages = [...(item.messages ?? []).filter((m) => m !== message), message];
      this.footer(item, running && i === messages.length - 1);
    }
    this.cut(turn + 1);
    if (running && messages.at(-1)?.role === "user") this.list.append(this.waiting());
  }

  /** Take away the turns from number `turn` on. */
  cut(turn) {
    while (this.list.children.length > turn) {
      for (const message of this.list.lastChild.messages ?? []) this.views.delete(message);
      this.list.lastChild.remove();
    }
    return null;
  }

  waiting() {
    return h("li", { class: "answer waiting", "aria-label": say("thinking") }, h("i"), h("i"), h("i"));
  }

  user(message, index) {
    const edit = button("edit", say("edit"), () => this.edit(item, message, index));
    const item = h("li", { class: "user" }, h("h2", { class: "hidden" }, say("you")),
      h("div", { class: "bubble" }, message.content), h("div", { class: "acts" }, copier(say("copy"), () => message.content), edit));
    item.source = message;
    return item;
  }

  edit(item, message, index) {
    const area = h("textarea", { rows: Math.min(10, message.content.split("\n").length + 1), "aria-label": say("edit") });
    area.value = message.content;
    const before = [...item.childNodes];
    const back = () => item.replaceChildren(...before);
    const done = () => (area.value.trim() ? this.act.edit(index, area.value.trim()) : back());
    area.addEventListener("keydown", (event) => {
      if (composing(event)) return;
      if (event.key === "Escape") { event.stopPropagation(); back(); }
      if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); done(); }
    });
    item.replaceChildren(h("div", { class: "editing" }, area, h("div", { class: "row" },
      h("button", { type: "button", onclick: back }, say("cancel")),
      h("button", { type: "button", class: "primary", onclick: done }, say("save")))));
    area.focus();
  }

  answer(index) {
    const item = h("li", { class: "answer" }, h("h2", { class: "hidden" }, say("answer")), h("div", { class: "messages" }), h("div", { class: "acts" }));
    item.index = index;
    return item;
  }

  footer(item, running) {
    if (running) return;
    const messages = item.messages;
    const last = messages.at(-1);
    const text = () => item.messages.map((m) => m.content).filter(Boolean).join("\n\n");
    const count = messages.reduce((sum, m) => sum + (m.usage?.completion_tokens ?? m.glass?.length ?? 0), 0);
    const facts = [
      count ? `${count} ${say("tokens")}` : "",
      last.speed ? `${last.speed.toFixed(last.speed < 10 ? 1 : 0)} ${say("tokens").replace("个", "")}/s` : "",
      last.finish === "stopped" ? say("stopped") : last.finish === "length" ? say("cut") : "",
      !text() && !last.tool_calls && last.finish !== "stopped" ? say("empty") : "",
    ];
    const acts = item.lastChild; // its buttons stay: a press on one of them takes longer than a frame
    acts.firstChild ?? acts.append(copier(say("copy"), text), button("again", say("again"), () => this.act.again(item.index)), h("small"));
    acts.lastChild.textContent = facts.filter(Boolean).join(" · ");
  }
}
