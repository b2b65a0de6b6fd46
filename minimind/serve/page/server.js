// Talking to the server: what it has, a streamed answer, a tool.

import { say } from "./words.js";

export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

async function ask(path, key, body, signal) {
  let response;
  const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  try {
    response = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body), signal } : { headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(say("unreachable"));
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new ServerError(response.status === 401 ? say("no-key") : told.error?.message ?? response.statusText, response.status);
}

export const props = async (key) => (await ask("/props", key)).json();

export const runTool = async (name, given, key, signal) =>
  (await (await ask(`/tools/${encodeURIComponent(name)}`, key, { arguments: given }, signal)).json()).result;

/** Yield the chunks of a chat completion as they come. */
export async function* chunks(body, key, signal) {
  const whole = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await ask("/v1/chat/completions", key, whole, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
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
