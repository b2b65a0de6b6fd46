// One question and everything that answers it: the model speaks, tools are run, it speaks again.

import { chunks, runTool, ServerError } from "./server.js";
import { settings } from "./store.js";
import { say } from "./words.js";

const ALTERNATIVES = 10;
const ROUNDS = 6;
const ONE_PIECE = 0.05; // seconds
const FIELDS = ["reasoning_content", "content", "tool_calls"]; // in the order in which a model writes them

/** Messages as the API takes them, without what this page keeps beside them. */
function plain(messages) {
  const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  return [...system, ...messages.map(({ role, content, reasoning_content, tool_calls, tool_call_id }) =>
    ({ role, content, reasoning_content, tool_calls, tool_call_id }))];
}

/** A token for keeps: [bytes, logprob, [[bytes, logprob], ...], whether it was thought]. */
function kept(entry, thought) {
  const short = ({ bytes, logprob }) => [bytes, Math.round(logprob * 1000) / 1000];
  return [...short(entry), entry.top_logprobs.map(short), thought ? 1 : 0];
}

function add(message, choice) {
  const { content, reasoning_content, tool_calls } = choice.delta;
  if (content) message.content += content;
  if (reasoning_content) message.reasoning_content = (message.reasoning_content ?? "") + reasoning_content;
  for (const { index, id, function: called } of tool_calls ?? []) {
    message.tool_calls ??= [];
    message.tool_calls[index] ??= { id, type: "function", function: { name: called.name, arguments: "" } };
    message.tool_calls[index].function.arguments += called.arguments ?? "";
  }
  for (const field of FIELDS) {
    for (const entry of choice.logprobs?.[field] ?? []) message.glass.push(kept(entry, field === "reasoning_content"));
  }
  if (choice.finish_reason) message.finish = choice.finish_reason;
}

/** Answer the last message of `chat`, adding to it; `changed(message)` is called whenever there is more to show. */
export async function answer(chat, { model, tools, signal, changed }) {
  for (let round = 0; round < ROUNDS; round++) {
    const body = {
      model,
      messages: plain(chat.messages),
      temperature: settings.temperature,
      top_p: settings.top_p,
      frequency_penalty: settings.frequency_penalty,
      max_tokens: settings.max_tokens || undefined,
      seed: settings.seed === "" ? undefined : settings.seed,
      logprobs: true,
      top_logprobs: ALTERNATIVES,
      open_thinking: settings.thinks,
      tools: tools.length ? tools : undefined,
    };
    const message = { role: "assistant", content: "", glass: [] };
    const start = performance.now();
    let first = 0;
    try {
      for await (const chunk of chunks(body, settings.key, signal)) {
        if (!chat.messages.includes(message)) chat.messages.push(message); // not before the server has agreed
        if (chunk.usage) Object.assign(message, { usage: chunk.usage });
        if (chunk.choices.length) add(message, chunk.choices[0]);
        if (!first && message.glass.length) first = performance.now();
        changed(message);
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      message.finish = "stopped";
    } finally {
      // A call that is not going to be run would wait for its result in every later request.
      if (message.finish !== "tool_calls") delete message.tool_calls;
      const seconds = (performance.now() - (first || start)) / 1000;
      // What arrives in one piece, as a short reply of a small model does, came at no speed that could be told.
      const timed = message.glass.length > 1 && seconds > ONE_PIECE;
      message.speed = timed ? (message.glass.length - 1) / seconds : null;
      changed(message);
    }
    if (message.finish !== "tool_calls") return;
    for (const call of message.tool_calls) {
      const content = await run(call, signal);
      if (!chat.messages.includes(message)) return; // the question was edited meanwhile
      chat.messages.push(result(call, content));
      changed(message);
    }
  }
  throw new ServerError(say("too-many-calls"));
}

/** Leave a chat that is being answered as Stop leaves it: for a page that goes away and cannot wait. */
export function breakOff({ messages }) {
  const last = messages.findLast(({ role }) => role === "assistant");
  if (last?.finish === "tool_calls") {
    const waiting = last.tool_calls.filter(({ id }) => !messages.some((message) => message.tool_call_id === id));
    messages.push(...waiting.map((call) => result(call, JSON.stringify({ error: say("stopped") }))));
  } else if (last && !last.finish) {
    last.finish = "stopped";
    delete last.tool_calls;
  }
}

const result = (call, content) => ({ role: "tool", tool_call_id: call.id, content });

async function run(call, signal) {
  try {
    return await runTool(call.function.name, call.function.arguments, settings.key, signal);
  } catch (error) { // an unknown tool, or the user stopped: the call still gets an answer
    return JSON.stringify({ error: error.message });
  }
}
