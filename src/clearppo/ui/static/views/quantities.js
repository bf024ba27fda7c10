// What the tokens of an answer can be coloured by: which number, on which scale. What it says is told by explain.js.

import { number } from "../dom.js";
import { about } from "../explain.js";
import { colours } from "../theme.js";
import { rounded } from "./draw.js";

/** What a quantity is called. */
export function name(key) {
  return about("quantity", key)?.title ?? key;
}

/** Keys in the order in which they are offered. */
const ORDER = ["advantages", "rewards", "kls", "values", "returns", "deltas", "log_probs", "ratios"];

/** A list of numbers or nulls, or null where the run has none. */
function listed(list) {
  return Array.isArray(list) && list.some((x) => x !== null && x !== undefined) ? list : null;
}

/** The critic's surprise at each token, reward + gamma * next value - value; null without a critic. */
export function deltas(data) {
  const { rewards, values } = data.tokens;
  if (!usesCritic(data) || !listed(rewards) || !listed(values)) return null;
  return rewards.map((reward, j) => reward + data.meta.gamma * (values[j + 1] ?? 0) - values[j]);
}

/** Whether the advantages come from a critic. */
export function usesCritic(data) {
  return data.meta.estimator === "gae" && listed(data.tokens.values) !== null;
}

/** The numbers of an answer under a key, one a token; `epoch` from 0. Null where the run has none. */
export function numbersOf(data, key, epoch = 0) {
  if (key === "ratios") return listed(data.ratios?.[epoch]);
  if (key === "deltas") return deltas(data);
  if ((key === "values" || key === "returns") && !usesCritic(data) && key === "values") return null;
  return listed(data.tokens[key]);
}

/** The keys that this answer has numbers for. */
export function offered(data) {
  return ORDER.filter((key) =>
    key === "ratios" ? (data.ratios ?? []).some((list) => listed(list)) : numbersOf(data, key) !== null,
  );
}

const SCALES = {
  log_probs: { place: (x) => -x, sequential: true },
  ratios: { place: (x) => Math.log(Math.max(x, 1e-30)), zero: 1 },
};

/** How a list of numbers is painted: `limit` (of the placed number), `colour(x)`, `strong(x)`, `ends` for the legend. */
export function scaleOf(key, numbers, locked = null) {
  const { place = (x) => x, sequential = false, zero = 0 } = SCALES[key] ?? {};
  const sizes = numbers
    .filter((x) => x !== null)
    .map((x) => Math.abs(place(x)))
    .sort((a, b) => a - b);
  const limit = locked ?? rounded(mostly(sizes));
  const paint = sequential ? colours.sequential : colours.diverging;
  return {
    limit,
    sequential,
    zero,
    place,
    cut: sizes.length > 0 && sizes.at(-1) > limit * (1 + 1e-9),
    colour: (x) => (x === null ? "transparent" : paint(place(x), limit)),
    strong: (x) => (sequential ? "var(--much)" : direction(place(x))),
    legend: legend(key, limit),
  };
}

/** The colour of what is above or below 0, as a style. */
export function direction(x) {
  return x < 0 ? "var(--down)" : "var(--up)";
}

/** The largest size, unless it stands alone far above the rest, as the score does among the KL charges. */
function mostly(sizes) {
  if (sizes.length === 0) return 1;
  const most = sizes.at(-1);
  const usual = sizes[Math.floor(0.95 * (sizes.length - 1))];
  return usual > 0 && most > 3 * usual ? usual : most;
}

/** [place between -1 and 1, number] of the legend's ticks. */
function legend(key, limit) {
  if (key === "log_probs") return [0, 0.5, 1].map((share) => [share, number(-share * limit, 3)]);
  if (key === "ratios") return [-1, -0.5, 0, 0.5, 1].map((share) => [share, number(Math.exp(share * limit), 3)]);
  return [-1, -0.5, 0, 0.5, 1].map((share) => [share, signed(share * limit, 3)]);
}

/** A number with its sign; a real minus. */
export function signed(x, digits = 4) {
  if (x === null || x === undefined) return "–";
  const text = number(x, digits).replace(/^-/, "−");
  return x > 0 ? `+${text}` : text;
}

/** A number of a quantity as it is written beside its colour: with a sign where the sign says something. */
export function written(key, x, digits = 4) {
  if (x === null || x === undefined) return "–";
  return key === "ratios" ? number(x, digits) : signed(x, digits);
}
