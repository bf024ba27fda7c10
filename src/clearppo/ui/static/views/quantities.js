// What the tokens of an answer can be coloured by: which number, on which scale, and what it says.

import { number } from "../dom.js";
import { translator } from "../i18n.js";
import { colours } from "../theme.js";
import { rounded } from "./draw.js";

export const words = {
  en: {
    advantages: "Advantage",
    "advantages.is":
      "What was earned from here on beyond what was expected. Above 0 the token is made more probable, below 0 less: this is what the policy learns.",
    rewards: "Reward",
    "rewards.is":
      "What this token itself was paid: minus the KL charge, plus the score on the last token. Equations (1) and (2).",
    kls: "KL",
    "kls.is":
      "How much more probable the policy finds the token than the reference does, in nats. Its multiple by the KL coefficient is charged.",
    values: "Value",
    "values.is": "What the critic expected to be earned from here to the end, before the token was drawn.",
    returns: "Return",
    "returns.is": "What was earned from here to the end, and what the critic is taught. Equation (3).",
    deltas: "Critic's surprise",
    "deltas.is":
      "δ: the reward of this token and the critic's change of mind after it. It shows at which token the answer turned better or worse.",
    log_probs: "Log-probability",
    "log_probs.is":
      "How probable the policy found the token when it drew it, in nats. The darker, the more surprising.",
    ratios: "Ratio",
    "ratios.is":
      "Probability by the policy as an epoch read it, over the probability when the token was drawn. Below 1 less probable, above 1 more.",
  },
  zh: {
    advantages: "优势",
    "advantages.is":
      "从这里起实际所得比预期多出多少。大于 0，这个 token 的概率会被调高；小于 0，则被调低：策略学的就是它。",
    rewards: "奖励",
    "rewards.is": "这个 token 自己得到的：减去 KL 的代价，最后一个 token 再加上得分。公式 (1) 和 (2)。",
    kls: "KL",
    "kls.is": "策略比参考模型更看好这个 token 多少，单位 nat。乘上 KL 系数就是扣掉的代价。",
    values: "价值",
    "values.is": "采样这个 token 之前，评论家预期从这里到结尾能得到多少。",
    returns: "回报",
    "returns.is": "从这里到结尾实际得到的奖励之和，也是评论家要学的目标。公式 (3)。",
    deltas: "评论家的意外",
    "deltas.is": "δ：这个 token 的奖励，加上评论家在它之后改变的看法。由此可以看出回答是在哪个 token 上变好或变坏的。",
    log_probs: "对数概率",
    "log_probs.is": "采样这个 token 时策略认为它有多大可能，单位 nat。颜色越深，越出人意料。",
    ratios: "比率",
    "ratios.is": "某一轮读到时的概率，除以采样时的概率。小于 1 表示概率降低，大于 1 表示概率升高。",
  },
};
export const name = translator(words);

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
