// Saying things in the reader's language: a page teaches its words, and `speak` writes them where the page names them.

const WORDS = { en: {}, zh: {} };
let language = "en";

/** Add words, `{en: {name: text}, zh: {name: text}}`. */
export function teach(words) {
  for (const name of Object.keys(WORDS)) Object.assign(WORDS[name], words[name]);
}

/** Words of one part of the page, `{en, zh}`: a `say` that knows them, and the page's where it has none of its own. */
export const words = (own) => (word) => own[language][word] ?? say(word);

export const say = (word) => WORDS[language][word];
export const spoken = () => language;

/** Write the page in a language: `data-say` is an element's text, `data-say-label` its name, and so on. */
export function speak(name) {
  language = name in WORDS ? name : "en";
  document.documentElement.lang = language;
  const each = (attribute, act) =>
    document.querySelectorAll(`[${attribute}]`).forEach((e) => act(e, say(e.getAttribute(attribute))));
  each("data-say", (e, text) => (e.textContent = text));
  each("data-say-label", (e, text) => { e.setAttribute("aria-label", text); e.title = text; });
  each("data-say-placeholder", (e, text) => (e.placeholder = text));
}
