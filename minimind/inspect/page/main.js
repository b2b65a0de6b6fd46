// The page as a whole: one prompt, one checkpoint, and the room that looks at them.

import { $, h, icon } from "/page/dom.js";
import { saveSettings, settings } from "/page/store.js";
import { readPrompt, showExamples, writePrompt } from "./prompt.js";
import { ROOMS } from "./rooms.js";
import { isDark } from "./scale.js";
import { ask } from "./server.js";
import { placeName, say, speak, spoken } from "./words.js";

const AHEAD = 16; // checkpoints that are asked ahead, the present one among them

/** What is looked at: `off` are the parts that are switched off, `{layer, head}`, `{layer, mlp: true}` or `{layer}`. */
const state = { room: ROOMS[0].id, prompt: null, checkpoint: null, off: [] };
let model = null; // what the server has, as its room "model" says
let shown = null; // the id of the room that was shown last
let running = null; // the AbortController of the room that is being shown
let asked = []; // its questions, [room, body]

const given = () => ({ ...state.prompt, checkpoint: state.checkpoint, off: state.off });
const room = () => ROOMS.find(({ id }) => id === state.room);
const place = () => model.checkpoints.find(({ name }) => name === state.checkpoint);

async function show() {
  running?.abort();
  const mine = (running = new AbortController());
  const here = room();
  $("title").textContent = here.say("title");
  $("explanation").textContent = here.say("explanation");
  showLinks(here);
  showTab();
  $("room").setAttribute("aria-labelledby", `tab-${here.id}`);
  if (shown !== here.id) $("content").replaceChildren(h("p", { class: "soft" }, say("computing")));
  shown = here.id;
  $("room").classList.add("busy");
  $("room").setAttribute("aria-busy", "true");
  writeAddress();
  let told = "";
  asked = [];
  const askHere = (room, body) => {
    if (running === mine) asked.push([room, body]);
    return ask(room, body, mine.signal).catch((error) => (mine.signal.aborted ? new Promise(() => {}) : Promise.reject(error)));
  };
  try {
    const content = await here.show({ state, model, place: place(), set, given, ask: askHere });
    if (running !== mine) return;
    replaceContent(content);
  } catch (error) {
    if (running !== mine) return;
    told = error.message;
    $("content").replaceChildren();
  }
  tell(told);
  $("room").classList.remove("busy");
  $("room").setAttribute("aria-busy", "false");
  $("said").textContent = `${here.say("title")}: ${say("ready")}`;
}

/** Mark the tab of the room, and bring it into sight where the tabs are wider than the screen. */
function showTab() {
  for (const tab of $("tabs").children) {
    const here = tab.id === `tab-${state.room}`;
    tab.setAttribute("aria-selected", String(here));
    tab.tabIndex = here ? 0 : -1;
    if (here) $("tabs").scrollLeft = tab.offsetLeft - ($("tabs").clientWidth - tab.offsetWidth) / 2;
  }
}

/** Where to read more: the function that the room is about, shown on the page, and the page of the docs. */
function showLinks({ id }) {
  const code = h("button", { type: "button", class: "link", "aria-expanded": "false", "aria-controls": "source" }, `${say("code")}: `, h("code", {}, model.code[id].label));
  code.addEventListener("click", async () => {
    $("source").hidden = !$("source").hidden;
    code.setAttribute("aria-expanded", String(!$("source").hidden));
    $("source").firstElementChild.textContent = (await ask("code", { room: id })).source;
  });
  $("source").hidden = true;
  $("links").replaceChildren(code, h("span", {}, `${say("docs")}: `, h("code", {}, model.docs[spoken()])));
}

function tell(message) {
  $("notice").textContent = message;
  $("notice").hidden = !message;
}

/** Put new pictures in the place of old ones; whoever was at one of them with the keyboard stays there. */
function replaceContent(content) {
  const path = [];
  for (let one = document.activeElement; $("content").contains(one) && one !== $("content"); one = one.parentElement) path.unshift([...one.parentElement.children].indexOf(one));
  $("content").replaceChildren(...content);
  if (path.length) path.reduce((one, at) => one?.children[at], $("content"))?.focus({ preventScroll: true });
}

/** Change what is looked at, and look. */
function set(changes) {
  Object.assign(state, changes);
  if (changes.prompt) writePrompt(state.prompt);
  if ("checkpoint" in changes) showStep();
  if ("off" in changes) showOff();
  return show();
}

/** Ask ahead what the other checkpoints will be asked, the nearest first: whoever reaches for the slider will move it. */
async function askAhead() {
  const mine = running;
  const here = model.checkpoints.indexOf(place());
  const far = (name) => Math.abs(model.checkpoints.findIndex((one) => one.name === name) - here);
  const others = model.checkpoints.map(({ name }) => name).sort((one, other) => far(one) - far(other)).slice(1, AHEAD);
  const questions = asked.filter(([, body]) => body?.checkpoint === state.checkpoint);
  for (const checkpoint of others) {
    for (const [room, body] of questions) {
      if (running !== mine) return;
      await ask(room, { ...body, checkpoint }, mine.signal).catch(() => {}); // it is asked again where it is needed
    }
  }
}

/** The address holds what is looked at, so that a reload or a link shows the same. */
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const known = (name) => model.checkpoints.find((one) => one.name === name)?.name;
  state.room = ROOMS.find(({ id }) => id === given.get("room"))?.id ?? state.room;
  state.prompt = given.has("prompt") ? JSON.parse(given.get("prompt")) : state.prompt ?? model.examples[spoken()][0].prompt;
  state.off = JSON.parse(given.get("off") ?? "[]");
  state.checkpoint = known(given.get("checkpoint")) ?? state.checkpoint ?? model.checkpoints.at(-1).name;
}

function writeAddress() {
  const held = { room: state.room, prompt: JSON.stringify(state.prompt), checkpoint: state.checkpoint, off: JSON.stringify(state.off) };
  history.replaceState(null, "", `#${new URLSearchParams(held)}`);
}

/** Which checkpoint is looked at, and how large it is. */
function showStep() {
  const { parameters, layers, heads, experts } = place();
  $("model").textContent = [model.name, `${(parameters / 1e6).toPrecision(3)} ${say("parameters")}`, `${layers} ${say("layers")} × ${heads} ${say("heads")}`, experts && `${experts} ${say("experts")}`].filter(Boolean).join(" · ");
  $("steps").hidden = model.checkpoints.length < 2;
  $("step").max = model.checkpoints.length - 1;
  $("step").value = model.checkpoints.indexOf(place());
  $("step-name").textContent = placeName(place());
  $("step").setAttribute("aria-valuetext", $("step-name").textContent);
}

function showOff() {
  const name = ({ layer, head, mlp }) => `${say("layer")} ${layer}${mlp ? ` ${say("mlp")}` : head == null ? "" : `, ${say("head")} ${head}`}`;
  $("off").hidden = !state.off.length;
  $("off").replaceChildren(`${say("off")}: ${state.off.map(name).join("; ")}`, h("button", { type: "button", class: "toggle", onclick: () => set({ off: [] }) }, say("on-again")));
}

function theme(name) {
  if (name) saveSettings({ theme: name });
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  $("theme").replaceChildren(icon(isDark() ? "sun" : "moon"));
}

function language(name) {
  speak(name);
  $("language").textContent = spoken() === "zh" ? "English" : "中文";
  $("language").lang = spoken() === "zh" ? "en" : "zh";
  document.title = `${say("looking-glass")} · MiniMind`;
  $("tabs").replaceChildren(...ROOMS.map(({ id, say }) => h("button", { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": "room", onclick: () => set({ room: id }) }, say("title"))));
  showExamples(model.examples[spoken()]);
  writePrompt(state.prompt);
  showStep();
  showOff();
}

$("prompt").addEventListener("submit", (event) => {
  event.preventDefault();
  set({ prompt: readPrompt() });
});
$("examples").addEventListener("change", (event) => {
  const example = model.examples[spoken()][event.target.value];
  if (example) set({ prompt: example.prompt });
});
for (const reached of ["pointerenter", "focus"]) $("step").addEventListener(reached, askAhead);
$("step").addEventListener("input", () => set({ checkpoint: model.checkpoints[$("step").value].name }));
$("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
  if (!step) return;
  const at = ROOMS.findIndex(({ id }) => id === state.room);
  const to = Number.isFinite(step) ? (at + step + ROOMS.length) % ROOMS.length : step < 0 ? 0 : ROOMS.length - 1;
  event.preventDefault();
  set({ room: ROOMS[to].id });
  $(`tab-${ROOMS[to].id}`).focus();
});
$("language").addEventListener("click", () => {
  saveSettings({ language: spoken() === "zh" ? "en" : "zh" });
  language(settings.language);
  show();
});
$("theme").addEventListener("click", () => {
  theme(isDark() ? "light" : "dark");
  show(); // pictures are drawn in the page's colours
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { theme(); show(); });

addEventListener("unhandledrejection", (event) => { event.preventDefault(); tell(event.reason.message); }); // a choice inside a room
addEventListener("resize", showTab);
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); $("room").focus(); });
addEventListener("hashchange", () => { readAddress(); language(spoken()); show(); });

theme();
speak(settings.language ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
try {
  model = await ask("model");
  readAddress();
  language(spoken());
  show();
} catch (error) {
  tell(error.message);
}
