// Talking to the server: what it has, a streamed answer, a tool.

import { say } from "./words.js";

export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const lost = (error) => { throw error.name === "AbortError" ? error : new ServerError(say("unreachable")); };

async function ask(path, key, body, signal) {
  const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body), signal } : { headers, signal }).catch(lost);
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new ServerError(response.status === 401 ? say("no-key") : told.error?.message ?? response.statusText, response.status);
}

export const props = async (key) => (await ask("/props", key)).json().catch(lost);

export const runTool = async (name, given, key, signal) =>
  (await (await ask(`/tools/${encodeURIComponent(name)}`, key, { arguments: given }, signal)).json().catch(lost)).result;

/** Yield the chunks of a chat completion as they come. */
export async function* chunks(body, key, signal) {
  const whole = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await ask("/v1/chat/completions", key, whole, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(lost);
    if (done) throw new ServerError(say("unreachable")); // the end is [DONE], nothing else
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      if (event === "data: [DONE]") return;
      const chunk = JSON.parse(event.slice(6));
      if (chunk.error) throw new ServerError(chunk.error.message);
      yield chunk;
    }
  }
}
