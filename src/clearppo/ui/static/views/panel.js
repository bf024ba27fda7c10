// Everything about one token: whether it was encouraged and why, what its advantage is made of, what each epoch did with
// it, the equations (1) to (9) with its numbers, and all its numbers.

import { fill, h, number } from "../dom.js";
import { language, translator } from "../i18n.js";
import { colours } from "../theme.js";
import { epochsOf, makeup } from "./makeup.js";
import { deltas, direction, numbersOf, signed } from "./quantities.js";
import { words } from "./panel.words.js";
import { visible } from "./text.js";

const t = translator(words);

/** {element, show(data, j, equations)}: `equations` is a promise of what the API says of the token. */
export function tokenPanel({ move }) {
  const element = h("aside", {
    class: "token-panel card",
    "aria-label": t("numbers"),
    id: "token-panel",
    tabindex: -1,
  });
  let shown = 0;
  return {
    element,
    show(data, j, asked) {
      const turn = ++shown;
      const equations = h("div", { class: "equations" }, h("p", { class: "caption" }, t("equations.wait")));
      const story = h("div", { class: "story", "data-name": "story", "aria-live": "polite" });
      element.dataset.panelToken = String(j);
      fill(
        element,
        head(data, j, move, () => element.classList.remove("asked")),
        verdict(data, j),
        story,
        section("made.of", composition(data, j)),
        section("epochs", epochs(data, j)),
        section("equations", equations),
        section("numbers", numbers(data, j)),
      );
      element.scrollTop = 0;
      asked.then(
        (answer) => {
          if (turn !== shown) return;
          fill(equations, grouped(answer.equations).map(equation));
          fill(story, paragraphs(told(answer.story)));
        },
        (error) => {
          if (turn !== shown || error.name === "AbortError") return;
          fill(equations, h("p", { class: "warn", role: "alert" }, error.message));
        },
      );
    },
  };
}

function told(both) {
  return both ? (both[language()] ?? both.en ?? "") : "";
}

function paragraphs(text) {
  return text
    .split("\n")
    .filter(Boolean)
    .map((line) => h("p", {}, line));
}

function section(key, ...children) {
  return h("section", { class: "panel-part", "data-part": key }, h("h3", {}, t(key)), ...children);
}

function head({ tokens }, j, move, close) {
  const step = (by, label, sign) =>
    h(
      "button",
      {
        type: "button",
        class: "quiet",
        title: label,
        "aria-label": label,
        disabled: !tokens.tokens[j + by] && tokens.tokens[j + by] !== "",
        onclick: () => move(j + by),
      },
      sign,
    );
  return h(
    "header",
    {},
    h(
      "div",
      { class: "which" },
      h("h2", {}, t("token", { n: j + 1, of: tokens.tokens.length })),
      step(-1, t("previous"), "‹"),
      step(1, t("next"), "›"),
      h("button", { type: "button", class: "quiet close", "aria-label": t("close"), onclick: close }, "×"),
    ),
    h(
      "div",
      { class: "piece" },
      h("code", { class: "chosen-piece", "data-name": "tokens" }, ...visible(tokens.tokens[j])),
      h("span", { class: "muted" }, t("id", { id: tokens.token_ids[j] })),
    ),
  );
}

function verdict(data, j) {
  const advantage = data.tokens.advantages?.[j];
  if (advantage === null || advantage === undefined) {
    return h(
      "div",
      { class: "token-verdict", "data-verdict": "unlearned" },
      h("strong", {}, t("unlearned")),
      h("span", { class: "what" }, t("unlearned.what")),
    );
  }
  const kind = advantage > 0 ? "up" : advantage < 0 ? "down" : "even";
  const paint = kind === "even" ? null : { background: colours.diverging(advantage, Math.abs(advantage) / 0.55) };
  return [
    h(
      "div",
      { class: "token-verdict", "data-verdict": kind, style: paint },
      h("strong", {}, h("span", { "aria-hidden": "true" }, { up: "▲ ", down: "▼ ", even: "● " }[kind]), t(kind)),
      h(
        "span",
        { class: "amount" },
        t("advantage"),
        " ",
        h("b", { "data-name": "verdict", "data-value": advantage }, signed(advantage)),
      ),
      h("span", { class: "what" }, t(`${kind}.what`)),
    ),
    data.meta.critic_only ? h("p", { class: "warn" }, t("warming")) : null,
  ];
}

// ---------------------------------------------------------------------------------------------------- composition

function composition(data, j) {
  const { meta, tokens } = data;
  if (tokens.advantages?.[j] === null || tokens.advantages?.[j] === undefined)
    return h("p", { class: "caption" }, t("unlearned.what"));
  const made = makeup(data, j);
  if (made === null) {
    const total = data.reward ?? tokens.rewards.reduce((a, b) => a + b, 0);
    return h("p", { class: "caption" }, t("made.grpo", { total: signed(total), n: meta.group_size }));
  }
  const rows = made.parts.map(({ key, value }) => ({
    label: key === "score" ? [t("made.score"), scaled(data, j, made)] : t(`made.${key}`),
    key,
    value,
  }));
  if (!made.exact) rows.push({ label: t("made.rest"), key: "rest", value: made.rest });
  const notes = [];
  if (made.scale !== undefined) notes.push(t("made.scaled", { scale: number(made.scale), raw: signed(made.raw) }));
  if (meta.estimator === "rloo") notes.push(t("made.shared"));
  else if (meta.gamma * (meta.estimator === "gae" ? meta.lam : 1) !== 1)
    notes.push(
      t("made.discount", { gamma: number(meta.gamma), lam: meta.estimator === "gae" ? number(meta.lam) : "–" }),
    );
  return [cascade(rows, made.total), ...notes.map((note) => h("p", { class: "caption" }, note))];
}

/** How the score of the answer came to what it counts at token j; nothing where it counts as it is. */
function scaled({ meta, tokens, score }, j, made) {
  const decay = meta.estimator === "gae" ? meta.gamma * meta.lam : meta.estimator === "rloo" ? 1 : meta.gamma;
  const n = tokens.rewards.length - 1 - j;
  const factors = [meta.whiten_rewards?.scale, made.scale].filter((x) => x !== undefined && x !== null && x !== 1);
  if ((decay === 1 || n === 0) && !factors.length) return null;
  return h(
    "span",
    { class: "caption how", title: t("score.how"), "data-name": "score.how" },
    signed(score),
    decay === 1 || n === 0 ? null : [` × ${number(decay)}`, n === 1 ? null : h("sup", {}, n)],
    factors.map((x) => ` × ${number(x)}`),
  );
}

/** Each part begins where the one before ended; the last line is where they have come to. */
function cascade(rows, total) {
  let at = 0;
  const steps = rows.map((row) => {
    const from = at;
    at += row.value;
    return { ...row, from, to: at };
  });
  steps.push({ label: t("made.sum"), key: "sum", value: total, from: 0, to: total });
  const low = Math.min(0, ...steps.map((step) => step.to));
  const high = Math.max(0, ...steps.map((step) => step.to));
  const place = (x) => ((x - low) / (high - low || 1)) * 100;
  return h(
    "table",
    { class: "cascade" },
    h(
      "tbody",
      {},
      steps.map(({ label, key, value, from, to }) =>
        h(
          "tr",
          { "data-part": key, class: key === "sum" ? "sum" : key === "rest" ? "rest" : null },
          h("th", { scope: "row" }, label),
          h(
            "td",
            { class: "track", "aria-hidden": "true" },
            h("i", { class: "origin", style: { left: `${place(0)}%` } }),
            h("i", {
              class: "amount",
              style: {
                left: `${place(Math.min(from, to))}%`,
                width: `${Math.max(place(Math.max(from, to)) - place(Math.min(from, to)), 0.8)}%`,
                background: direction(value),
              },
            }),
          ),
          h("td", { class: "num", "data-name": `made.${key}`, "data-value": value }, signed(value)),
        ),
      ),
    ),
  );
}

// ---------------------------------------------------------------------------------------------------- epochs

function epochs(data, j) {
  const rows = epochsOf(data, j);
  if (!rows.some((row) => row.ratio !== null)) return h("p", { class: "caption" }, t("epochs.none"));
  const { low, high } = rows[0];
  const read = rows.filter((row) => row.ratio !== null).map((row) => row.ratio);
  const ends = [low ?? 1, high ?? 1, ...read].map((x) => Math.abs(Math.log(Math.max(x, 1e-6))));
  const reach = Math.max(...ends, 0.02) * 1.15;
  const place = (x) => 50 + (50 * Math.log(Math.max(x, 1e-6))) / reach;
  const old = Math.exp(data.tokens.log_probs[j]);
  const batches = data.meta.num_mini_batches;
  const hint =
    low === null
      ? t("epochs.hint.free", { p: percent(old) })
      : t("epochs.hint", { p: percent(old), low: number(low), high: number(high) });
  return [
    h(
      "table",
      { class: "epochs" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, t("epoch")),
          h("th", { "aria-hidden": "true" }),
          h("th", { scope: "col", class: "num" }, t("ratio")),
          h("th", { scope: "col", class: "num" }, t("probability")),
          h("th", {}),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) => epochRow(row, place, low, high, old)),
      ),
    ),
    h("p", { class: "caption" }, hint, batches > 1 ? ` ${t("epochs.batches", { n: batches })}` : null),
  ];
}

function epochRow({ epoch, ratio, state }, place, low, high, old) {
  const held = state.startsWith("clipped") || state === "dual";
  const clamp = (x) => Math.min(100, Math.max(0, x));
  const band =
    low === null
      ? null
      : h("i", {
          class: "band",
          style: { left: `${clamp(place(low))}%`, width: `${clamp(place(high)) - clamp(place(low))}%` },
        });
  return h(
    "tr",
    { "data-epoch": epoch + 1, "data-state": state, class: held ? "clipped" : null },
    h("th", { scope: "row" }, epoch + 1),
    h(
      "td",
      { class: "track", "aria-hidden": "true" },
      band,
      h("i", { class: "origin", style: { left: "50%" } }),
      ratio === null ? null : h("i", { class: "point", style: { left: `${clamp(place(ratio))}%` } }),
    ),
    h("td", { class: "num", "data-name": "ratio", "data-value": ratio }, number(ratio, 4)),
    h("td", { class: "num" }, ratio === null ? "–" : percent(old * ratio)),
    h("td", { class: "state" }, held ? "✕ " : state === "back" ? "↩ " : "", t(`state.${state}`)),
  );
}

/** A probability for people. */
export function percent(p) {
  if (p >= 0.9995 && p < 1) return `${number(100 * p, 5)} %`;
  return p < 1e-5 ? `${(100 * p).toExponential(1)} %` : `${number(100 * Math.min(p, 1), 3)} %`;
}

// ---------------------------------------------------------------------------------------------------- equations

/** Lines of one equation that differ in the epoch only stand together. */
function grouped(equations) {
  const groups = [];
  for (const line of equations) {
    const before = groups.at(-1)?.[0];
    const same =
      before && line.epoch && before.epoch && before.number === line.number && before.symbols === line.symbols;
    if (same) groups.at(-1).push(line);
    else groups.push([line]);
  }
  return groups;
}

function equation(lines) {
  const [{ number: which, name, symbols }] = lines;
  const notes = [...new Set(lines.map((line) => told(line.note)).filter(Boolean))];
  return h(
    "div",
    { class: lines.some(disagrees) ? "equation differs" : "equation", "data-equation": which },
    h("span", { class: "equation-number" }, which ? `(${which})` : ""),
    h(
      "div",
      {},
      h("div", { class: "title" }, told(name)),
      h("code", { class: "symbols" }, symbols),
      lines.map(line),
      notes.map((note) => h("p", { class: "caption" }, note)),
    ),
  );
}

function line(it) {
  const { numbers: put, value, recorded, epoch } = it;
  const unknown = value === null || value === undefined;
  const compared = recorded !== null && recorded !== undefined && !unknown;
  const verdict = disagrees(it) ? `⚠ ${t("differs", { x: signed(recorded, 6) })}` : `✓ ${t("agrees")}`;
  return h(
    "div",
    { class: "line", "data-epoch": epoch ?? null },
    epoch ? h("span", { class: "muted epoch" }, t("epoch_n", { e: epoch })) : null,
    put ? h("code", { class: "put" }, put) : null,
    unknown
      ? null
      : h(
          "div",
          { class: "result" },
          h("b", { "data-name": "value", "data-value": value }, `= ${signed(value, 5)}`),
          compared ? h("span", { class: disagrees(it) ? "bad" : "good", "data-recorded": recorded }, verdict) : null,
        ),
  );
}

/** Whether what was recorded is another number, beyond rounding. The server says so where it knows better. */
function disagrees({ value, recorded, agrees }) {
  if (agrees !== null && agrees !== undefined) return !agrees;
  if (value === null || value === undefined || recorded === null || recorded === undefined) return false;
  return Math.abs(value - recorded) > 1e-4 * Math.max(1, Math.abs(value), Math.abs(recorded));
}

// ---------------------------------------------------------------------------------------------------- numbers

function numbers(data, j) {
  const { tokens } = data;
  const rows = [];
  const add = (name, label, value, text) => {
    if (value !== null && value !== undefined) rows.push([name, label, value, text ?? signed(value, 6)]);
  };
  add("log_probs", t("log_probs"), tokens.log_probs?.[j]);
  add("probabilities", t("probabilities"), Math.exp(tokens.log_probs[j]), percent(Math.exp(tokens.log_probs[j])));
  add("ref_log_probs", t("ref_log_probs"), tokens.ref_log_probs?.[j]);
  add("sampler_log_probs", t("sampler_log_probs"), tokens.sampler_log_probs?.[j]);
  add("kls", t("kls"), tokens.kls?.[j]);
  add("rewards", t("rewards"), tokens.rewards?.[j]);
  if (numbersOf(data, "values")) {
    add("values", t("values"), tokens.values[j]);
    add("next_value", t("next_value"), tokens.values[j + 1] ?? 0);
    add("deltas", t("deltas"), deltas(data)?.[j]);
  }
  add("returns", t("returns"), tokens.returns?.[j]);
  add("advantages", t("advantages"), tokens.advantages?.[j]);
  (data.ratios ?? []).forEach((ratios, e) =>
    add(`ratios.${e + 1}`, t("ratio.of", { e: e + 1 }), ratios?.[j], number(ratios?.[j], 6)),
  );
  return h(
    "table",
    { class: "token-numbers" },
    h(
      "tbody",
      {},
      rows.map(([name, label, value, text]) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, label),
          h("td", { class: "num", "data-name": name, "data-value": value, title: String(value) }, text),
        ),
      ),
    ),
  );
}
