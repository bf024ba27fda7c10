// What names mean: the words of `clearppo explain`, which the server tells once, and the question mark that shows them.

import { h } from "./dom.js";
import { language } from "./i18n.js";

let told = null; // {en: {labels, metric, quantity, column, alarm}, zh: ...}

/** Fetch the words; views may use them from then on. */
export async function learn(api) {
  told ??= await api("/api/explain");
}

/** What is known of a name, in the language of the page: {title, brief, unit, formula, ...}; null if nothing is. A
 *  metric may be one of a family: time/sampling is of time/*. */
export function about(kind, name) {
  const known = told?.[language()]?.[kind] ?? {};
  if (known[name]) return known[name];
  const family = kind === "metric" && Object.keys(known).filter((key) => key.includes("*") && fits(key, name));
  return family?.length ? known[family.sort((a, b) => b.length - a.length)[0]] : null;
}

/** One sentence on a name, for captions and titles; "" if nothing is known. */
export function brief(kind, name) {
  return about(kind, name)?.brief ?? "";
}

function fits(family, name) {
  const [before, after] = family.split("*");
  return name.startsWith(before) && name.endsWith(after) && name.length > before.length + after.length;
}

/** A question mark that explains these names, of one kind; null if nothing is known of any. `what` is what it speaks
 *  of, for those who do not see it. */
export function question(kind, names, what) {
  const known = [...new Set(names.map((name) => about(kind, name)).filter(Boolean))];
  if (!known.length) return null;
  const label = `${word("explain")}: ${what}`;
  return h(
    "button",
    {
      type: "button",
      class: "question",
      "aria-label": label,
      "aria-haspopup": "dialog",
      title: label,
      onclick: () => open(known, what),
    },
    "?",
  );
}

function word(name) {
  return told?.[language()]?.labels[name] ?? name;
}

// What a page shows of an entry, in this order; names of files and of other programs are for the terminal.
const ROWS = ["unit", "formula", "healthy", "high", "low", "causes", "mend", "options", "equation", "source", "computed"];

function open(entries, what) {
  const dialog = h(
    "dialog",
    {
      class: "explanation",
      "aria-label": what,
      onclose: () => dialog.remove(),
      onclick: (event) => event.target === dialog && dialog.close(),
    },
    h(
      "div",
      { class: "inside" },
      h(
        "header",
        {},
        h("h2", {}, what),
        h("button", { class: "quiet", type: "button", onclick: () => dialog.close() }, word("close")),
      ),
      entries.map((entry) => [
        h("h3", {}, entry.title !== what && `${entry.title} `, entry.kind === "metric" && h("code", {}, entry.name)),
        h("p", {}, entry.brief),
        h(
          "dl",
          {},
          ROWS.filter((row) => entry[row]).map((row) => [h("dt", {}, word(row)), h("dd", {}, lines(entry[row]))]),
        ),
      ]),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

function lines(said) {
  if (!Array.isArray(said)) return said;
  if (said.every((item) => /^[\w/*.]+$/.test(item))) return said.join(", ");
  return said.length > 1
    ? h(
        "ul",
        {},
        said.map((item) => h("li", {}, item)),
      )
    : said;
}
