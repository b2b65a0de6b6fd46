// The page as a whole: which conversation is shown, what happens on a key or a click.

import { $, button, composing, h, icon } from "./dom.js";
import { answer, breakOff } from "./exchange.js";
import { closePeek } from "./glass.js";
import { props } from "./server.js";
import { chats, DEFAULTS, forget, isKept, keep, loadSettings, newChat, saveSettings, SETTINGS, settings } from "./store.js";
import { Conversation } from "./view.js";
import { EXAMPLES, say, speak, spoken } from "./words.js";

let chat = newChat();
let server = { model: "", tools: [], n_ctx: 0 };
let running = null; // the AbortController of the answer that is being written
let frame = 0;

const view = new Conversation($("turns"), {
  edit: (index, text) => ask(text, index),
  again: (index) => { chat.messages.length = index; run(); },
});

// Showing

function show() {
  frame = 0;
  const near = $("talk").scrollHeight - $("talk").scrollTop - $("talk").clientHeight < 120;
  view.show(chat.messages, Boolean(running));
  $("welcome").hidden = chat.messages.length > 0 || Boolean(running);
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  $("talk").setAttribute("aria-busy", String(Boolean(running)));
  meter();
  if (near) $("talk").scrollTop = $("talk").scrollHeight;
}

const showSoon = () => (frame ||= requestAnimationFrame(show));

function meter() {
  const used = chat.messages.findLast((message) => message.usage)?.usage.total_tokens ?? 0;
  $("fill").hidden = !used || !server.n_ctx;
  $("fill").setAttribute("aria-valuenow", used);
  $("fill").setAttribute("aria-valuemax", server.n_ctx);
  $("fill").firstElementChild.style.setProperty("--used", Math.min(1, used / server.n_ctx));
  $("fill").lastElementChild.textContent = `${used.toLocaleString("en")} / ${server.n_ctx.toLocaleString("en")}`;
}

function list() {
  $("list").replaceChildren(...chats().map((one) =>
    h("li", one.id === chat.id ? { class: "here" } : {},
      h("button", { type: "button", onclick: () => open(one.id), "aria-current": one.id === chat.id ? "page" : null }, one.title || say("untitled")),
      button("bin", say("delete"), () => remove(one.id)))));
}

function open(id) {
  if (running && id === chat.id) return side(false); // it is shown, and longer than what is kept of it
  running?.abort();
  running = null; // the end of that answer changes nothing here
  chat = chats().find((one) => one.id === id) ?? newChat();
  location.hash = chat.messages.length ? chat.id : "";
  notice();
  view.clear();
  show();
  list();
  side(false);
  $("talk").scrollTop = $("talk").scrollHeight;
}

/** Another tab goes on with the conversation that is answered here: from now on it is two. */
function part() {
  chat.id = newChat().id;
  keep(chat);
  location.hash = chat.id;
  list();
}

function remove(id) {
  if (id === chat.id) open(null); // stops its answer first, so that it does not come back
  forget(id);
  list();
}

function notice(text, retry) {
  $("notice").hidden = !text;
  $("notice").replaceChildren(...(text ? [h("p", {}, text)] : []), ...(retry ? [h("button", { type: "button", onclick: retry }, say("retry"))] : []));
}

// Asking

function ask(text, index = chat.messages.length) {
  running?.abort();
  chat.messages.length = index;
  chat.messages.push({ role: "user", content: text });
  chat.title ||= text.replace(/\s+/g, " ").slice(0, 60);
  run();
}

async function run() {
  running?.abort();
  const last = chat.messages.at(-1);
  if (last.role === "assistant" && !last.finish) { // it broke off, and is answered anew
    chat.messages.pop();
    view.clear();
  }
  const mine = (running = new AbortController());
  const asked = chat;
  const here = () => asked === chat;
  notice();
  location.hash = asked.id;
  keep(asked);
  list();
  show();
  $("talk").scrollTop = $("talk").scrollHeight;
  if (!server.model) await connect(); // a quick hand asks before the page knows whom
  const tools = server.tools.filter((tool) => chosen().includes(tool.function.name));
  try {
    await answer(asked, { model: server.model, tools, signal: mine.signal, changed: () => here() && showSoon() });
    if (here()) $("said").textContent = asked.messages.at(-1)?.content ?? "";
  } catch (error) {
    if (here()) notice(error.message, run);
    if (error.status === 401) openSettings("key");
    if (error.status === 404) server.model = ""; // another model is served now: it is asked for before the next try
  }
  if (running === mine) running = null;
  if (isKept(asked.id) && !keep(asked)) notice(say("full"));
  if (here()) show();
  list();
}

function submit(event) {
  event?.preventDefault();
  const text = $("question").value.trim();
  if (!text || running) return;
  $("question").value = "";
  grow();
  ask(text);
}

function grow() {
  $("question").style.setProperty("height", "auto");
  $("question").style.setProperty("height", `${Math.min($("question").scrollHeight, innerHeight * 0.4)}px`);
}

// Choices

const chosen = () => settings.tools;

function tools() {
  $("tools").hidden = !server.tools.length;
  const names = server.tools.map((tool) => tool.function.name);
  const count = names.filter((name) => chosen().includes(name)).length;
  $("tools").setAttribute("aria-pressed", String(count > 0));
  $("tools").querySelector("b").textContent = count ? String(count) : "";
  $("tool-list").replaceChildren($("tool-list").firstElementChild, ...server.tools.map(({ function: { name, description } }) =>
    h("label", {}, h("input", { type: "checkbox", checked: chosen().includes(name), onchange: (event) => {
      saveSettings({ tools: event.target.checked ? [...chosen(), name] : chosen().filter((one) => one !== name) });
      const next = names.filter((one) => chosen().includes(one)).length;
      $("tools").querySelector("b").textContent = next ? String(next) : "";
      $("tools").setAttribute("aria-pressed", String(next > 0));
    } }), h("span", {}, name), h("small", {}, description))));
}

function side(shown) {
  document.body.classList.toggle("side", shown);
  if (shown) $("close-side").focus();
}

function openToolList(shown) {
  $("tool-list").hidden = !shown;
  $("tools").setAttribute("aria-expanded", String(shown));
}

/** Show what is chosen, here or in another tab. */
function choices() {
  theme();
  tools();
  $("think").setAttribute("aria-pressed", String(settings.thinks));
  $("glass").setAttribute("aria-pressed", String(settings.glass));
  document.body.classList.toggle("glass", settings.glass);
  $("legend").hidden = !settings.glass;
  closePeek();
}

function choose(changes) {
  saveSettings(changes);
  choices();
}

function theme() {
  const dark = settings.theme ? settings.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  $("theme").replaceChildren(icon(dark ? "sun" : "moon"));
  return dark;
}

function language(name) {
  speak(name);
  $("language").textContent = spoken() === "zh" ? "English" : "中文";
  $("language").lang = spoken() === "zh" ? "en" : "zh";
  $("examples").replaceChildren(...EXAMPLES[spoken()].map((text) => h("li", {}, h("button", { type: "button", onclick: () => ask(text) }, text))));
  tools();
  view.clear();
  show();
  list();
}

function fill(values) {
  for (const input of $("settings").querySelectorAll("[name]")) {
    input.value = values[input.name];
    input.dispatchEvent(new Event("input"));
  }
}

function openSettings(field) {
  const form = $("settings").querySelector("form");
  fill(settings);
  $("settings").showModal();
  if (field) form.elements[field].focus();
}

function readSettings() {
  const changes = {};
  for (const input of $("settings").querySelectorAll("[name]")) {
    const number = input.type === "range" || input.type === "number";
    changes[input.name] = number && input.value !== "" ? Number(input.value) : input.value;
  }
  const before = settings.key;
  saveSettings(changes);
  if (before !== settings.key || !server.model) connect();
}

// The server

async function connect() {
  try {
    server = await props(settings.key);
    notice();
    $("model").textContent = server.model;
    $("inspect").hidden = !server.inspect;
    document.title = `${server.model} · MiniMind`;
    tools();
    meter();
  } catch (error) {
    if (error.status === 503) {
      notice(say("loading"));
      setTimeout(connect, 1000);
    } else {
      notice(error.message, connect);
      if (error.status === 401) openSettings("key");
    }
  }
}

// What happens

$("composer").addEventListener("submit", submit);
$("question").addEventListener("input", grow);
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !composing(event)) submit(event);
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", () => { open(null); $("question").focus(); });
$("open-side").addEventListener("click", () => side(true));
$("close-side").addEventListener("click", () => side(false));
$("shade").addEventListener("click", () => side(false));
$("think").addEventListener("click", () => choose({ thinks: !settings.thinks }));
$("tools").addEventListener("click", () => openToolList($("tool-list").hidden));
$("glass").addEventListener("click", () => choose({ glass: !settings.glass }));
$("theme").addEventListener("click", () => choose({ theme: theme() ? "light" : "dark" }));
$("language").addEventListener("click", () => {
  saveSettings({ language: spoken() === "zh" ? "en" : "zh" });
  language(settings.language);
});
$("open-settings").addEventListener("click", () => openSettings());
$("settings").addEventListener("close", readSettings);
$("settings").addEventListener("click", (event) => event.target === $("settings") && $("settings").close());
$("defaults").addEventListener("click", () => fill({ ...DEFAULTS, key: settings.key }));
for (const range of $("settings").querySelectorAll("[type=range]")) {
  range.addEventListener("input", () => (range.previousElementSibling.textContent = Number(range.value).toFixed(2)));
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !composing(event) && !$("settings").open) {
    if (closePeek()) return;
    if (!$("tool-list").hidden) { openToolList(false); $("tools").focus(); }
    else if (document.body.classList.contains("side")) { side(false); $("open-side").focus(); }
    else running?.abort();
  }
  if (event.altKey && event.code === "KeyN") { event.preventDefault(); $("new").click(); }
  if (event.key === "/" && !event.target.closest("input, textarea, dialog")) { event.preventDefault(); $("question").focus(); }
});
document.addEventListener("click", (event) => {
  if (!event.target.closest("#peek, .tokens")) closePeek();
  if (!event.target.closest(".menu")) openToolList(false);
});
$("talk").addEventListener("scroll", closePeek, { passive: true });
addEventListener("hashchange", () => location.hash.slice(1) !== (chat.messages.length ? chat.id : "") && open(location.hash.slice(1)));
addEventListener("pagehide", () => {
  if (!running || !isKept(chat.id)) return; // another tab may know more of what is not being written here
  breakOff(chat);
  keep(chat);
});
addEventListener("storage", ({ key, newValue }) => { // another tab has written
  if (key === SETTINGS) { loadSettings(); choices(); }
  else if (!running && key?.endsWith(chat.id)) open(chat.id);
  else if (newValue && key.endsWith(chat.id)) part();
  else list();
});
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); $("question").focus(); });

choices();
chat = chats().find((one) => one.id === location.hash.slice(1)) ?? chat;
language(settings.language ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
connect();
$("question").focus({ preventScroll: true });
