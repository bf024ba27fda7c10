// Words in two languages. A dictionary is {en: {key: text}, zh: {key: text}}; a text is a string with {names}, or a
// function of the variables.

import { h } from "./dom.js";

const KEPT = "clearppo.language";
const LANGUAGES = ["en", "zh"];
const listeners = new Set();
let chosen = fromStorage() ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
mark();

function fromStorage() {
  try {
    const kept = localStorage.getItem(KEPT);
    return LANGUAGES.includes(kept) ? kept : null;
  } catch {
    return null; // storage is forbidden in this browser: the choice lives as long as the page
  }
}

function mark() {
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
}

/** "en" or "zh". */
export function language() {
  return chosen;
}

/** Choose a language; `keep` it for the next visit. Listeners are told if it is another one. */
export function setLanguage(language, { keep = true } = {}) {
  if (!LANGUAGES.includes(language)) return;
  const changed = language !== chosen;
  chosen = language;
  mark();
  if (keep) {
    try {
      localStorage.setItem(KEPT, language);
    } catch {
      // as above
    }
  }
  if (changed) for (const listener of listeners) listener(language);
}

/** The other language. */
export function otherLanguage() {
  return chosen === "en" ? "zh" : "en";
}

/** Call `listener(language)` on every change. */
export function onLanguage(listener) {
  listeners.add(listener);
}

/** t(key, vars): the text of the first dictionary that has the key, in the language of now; the key itself if none. */
export function translator(...dictionaries) {
  return (key, vars = {}) => {
    for (const words of dictionaries) {
      const text = words?.[chosen]?.[key] ?? words?.en?.[key];
      if (typeof text === "function") return text(vars);
      if (text !== undefined) return text.replace(/\{(\w+)\}/g, (whole, name) => (name in vars ? vars[name] : whole));
    }
    return key;
  };
}

/** A button that changes to the other language, written in that language. */
export function languageButton() {
  const label = { en: "English", zh: "中文" };
  const button = h(
    "button",
    { class: "quiet", type: "button", id: "language", onclick: () => setLanguage(otherLanguage()) },
    label[otherLanguage()],
  );
  const tell = () => {
    button.textContent = label[otherLanguage()];
    button.lang = otherLanguage() === "zh" ? "zh-CN" : "en";
    button.title = `${label[otherLanguage()]} (l)`;
  };
  tell();
  onLanguage(tell);
  return button;
}
