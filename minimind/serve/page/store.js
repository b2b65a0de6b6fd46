// Conversations and settings, kept in this browser alone: one entry of localStorage for each.

const PREFIX = "minimind.chat.";
export const SETTINGS = "minimind.settings";
export const DEFAULTS = { system: "", temperature: 0.7, top_p: 0.9, max_tokens: 512, seed: "", frequency_penalty: 0, key: "" };

const read = (name, otherwise) => {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
};

/** Settings and choices: `{...DEFAULTS, thinks, tools, language, theme, glass}`. */
export const settings = { ...DEFAULTS, thinks: false, tools: [], language: null, theme: null, glass: false };

/** Settings as they are kept, which another tab may have changed. */
export const loadSettings = () => Object.assign(settings, read(SETTINGS, {}));
loadSettings();

export function saveSettings(changes) {
  Object.assign(loadSettings(), changes);
  localStorage.setItem(SETTINGS, JSON.stringify(settings));
}

export function newChat() {
  return { id: `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`, title: "", changed: Date.now(), messages: [] };
}

/** All conversations, newest first. */
export function chats() {
  const found = Object.keys(localStorage).filter((name) => name.startsWith(PREFIX)).map((name) => read(name, null));
  return found.filter((chat) => Array.isArray(chat?.messages)).sort((a, b) => b.changed - a.changed);
}

/** Keep a conversation. Returns false where room had to be made by forgetting the token probabilities of the others. */
export function keep(chat) {
  chat.changed = Date.now();
  const write = (one) => localStorage.setItem(PREFIX + one.id, JSON.stringify(one));
  try {
    write(chat);
    return true;
  } catch {
    for (const other of chats()) {
      if (other.id === chat.id) continue;
      for (const message of other.messages) delete message.glass;
      write(other);
    }
    try {
      write(chat);
    } catch { // this one alone is too large: keep its words
      write({ ...chat, messages: chat.messages.map(({ glass, ...message }) => message) });
    }
    return false;
  }
}

/** Whether a conversation is kept: another tab may have deleted it. */
export const isKept = (id) => localStorage.getItem(PREFIX + id) !== null;

export const forget = (id) => localStorage.removeItem(PREFIX + id);
