// Asking the server, once for each question: an answer is kept, so that going back costs nothing.

import { settings } from "/page/store.js";
import { say } from "./words.js";

const MOST = 64; // answers kept, the oldest go first
const kept = new Map();

/** What the server answers to `POST /inspect/ROOM`. A failure throws an Error with a sentence for the reader. */
export async function ask(room, body = {}, signal = undefined) {
  const key = `${room} ${JSON.stringify(body)}`;
  const known = kept.get(key);
  if (known) return known;
  const answer = await post(`/inspect/${room}`, body, signal);
  kept.set(key, answer);
  if (kept.size > MOST) kept.delete(kept.keys().next().value);
  return answer;
}

const lost = (error) => { throw error.name === "AbortError" ? error : new Error(say("unreachable")); };

async function post(path, body, signal) {
  const headers = { "Content-Type": "application/json", ...(settings.key ? { Authorization: `Bearer ${settings.key}` } : {}) };
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal }).catch(lost);
  if (response.ok) return response.json().catch(lost);
  const told = await response.json().catch(() => ({}));
  throw new Error(response.status === 401 ? say("no-key") : told.error?.message ?? response.statusText);
}
