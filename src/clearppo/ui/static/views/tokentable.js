// All tokens of an answer with all their numbers, to sort and to read down.

import { fill, h, number } from "../dom.js";
import { brief, question } from "../explain.js";
import { translator } from "../i18n.js";
import { percent } from "./panel.js";
import { deltas, name, numbersOf, signed } from "./quantities.js";
import { visible } from "./text.js";

const words = {
  en: {
    columns: "The columns",
    place: "#",
    token: "token",
    p: "p",
    ref: "by the reference",
    sampler: "by the sampler",
    ratio: "ratio {e}",
    clipped: "clipped",
  },
  zh: {
    columns: "各列",
    place: "#",
    token: "token",
    p: "p",
    ref: "参考的",
    sampler: "采样器的",
    ratio: "比率 {e}",
    clipped: "已裁剪",
  },
};
const t = translator(words);

/** The table, with a question mark about its columns; a click on a row chooses its token. */
export function tokenTable(data, { chosen, choose }) {
  const columns = columnsOf(data);
  const body = h("tbody", {});
  const rows = data.tokens.tokens.map((_, j) => row(data, columns, j, chosen, choose));
  let sorted = { key: "place", down: false };
  const explained = columns.map(({ key }) => key.split(".")[0]);
  const heads = columns.map(({ key, label }) =>
    h(
      "th",
      { scope: "col", class: key === "token" ? null : "num", "data-column": key },
      h(
        "button",
        { type: "button", class: "sort", title: brief("quantity", key.split(".")[0]) || null, onclick: () => sort(key) },
        label,
      ),
      key === "token" && question("quantity", explained, t("columns")),
    ),
  );
  const sort = (key) => {
    sorted = { key, down: sorted.key === key ? !sorted.down : key !== "place" && key !== "token" };
    const { read } = columns.find((column) => column.key === key);
    const order = rows.map((_, j) => j).sort((a, b) => compare(read(a), read(b)) * (sorted.down ? -1 : 1) || a - b);
    fill(
      body,
      order.map((j) => rows[j]),
    );
    tell();
  };
  const tell = () =>
    heads.forEach((head, i) =>
      columns[i].key === sorted.key
        ? head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending")
        : head.removeAttribute("aria-sort"),
    );
  tell();
  fill(body, rows);
  return h("table", { class: "data token-table" }, h("thead", {}, h("tr", {}, heads)), body);
}

function columnsOf(data) {
  const { tokens } = data;
  const list = (key, label, numbers, say = (x) => signed(x)) =>
    numbers ? [{ key, label, read: (j) => numbers[j], say }] : [];
  const off = tokens.sampler_log_probs?.some((x, j) => x !== null && Math.abs(x - tokens.log_probs[j]) > 1e-4);
  return [
    { key: "place", label: t("place"), read: (j) => j, say: (j) => String(j + 1) },
    { key: "token", label: t("token"), read: (j) => tokens.tokens[j] },
    ...list("log_probs", name("log_probs"), tokens.log_probs),
    { key: "probabilities", label: t("p"), read: (j) => Math.exp(tokens.log_probs[j]), say: percent },
    ...list("ref_log_probs", t("ref"), tokens.ref_log_probs),
    ...list("sampler_log_probs", t("sampler"), off ? tokens.sampler_log_probs : null),
    ...list("kls", name("kls"), numbersOf(data, "kls")),
    ...list("rewards", name("rewards"), numbersOf(data, "rewards")),
    ...list("values", name("values"), numbersOf(data, "values")),
    ...list("deltas", "δ", deltas(data)),
    ...list("returns", name("returns"), numbersOf(data, "returns")),
    ...list("advantages", name("advantages"), numbersOf(data, "advantages")),
    ...(data.ratios ?? []).flatMap((ratios, e) =>
      list(`ratios.${e + 1}`, t("ratio", { e: e + 1 }), ratios, (x) => number(x)),
    ),
  ];
}

function row(data, columns, j, chosen, choose) {
  const cells = columns.map(({ key, read, say }) => {
    const x = read(j);
    if (key === "token") return h("td", {}, h("code", {}, visible(x)));
    const epoch = key.startsWith("ratios.") ? Number(key.slice(7)) - 1 : null;
    const clipped = epoch !== null && data.clipped?.[epoch]?.[j] === true;
    return h(
      "td",
      {
        class: clipped ? "num clipped" : "num",
        "data-name": key,
        "data-value": key === "place" ? null : x,
        title: clipped ? t("clipped") : null,
      },
      clipped ? "✕ " : "",
      x === null || x === undefined ? "–" : say(x),
    );
  });
  return h("tr", { "data-token-row": j, class: j === chosen ? "here" : null, onclick: () => choose(j) }, cells);
}

function compare(a, b) {
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return a < b ? -1 : a > b ? 1 : 0;
}
