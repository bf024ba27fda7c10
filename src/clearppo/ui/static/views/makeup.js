// What a token's advantage is made of, as a sum of parts that a person can name. Plain numbers in, plain numbers out.
// The parts come from the recorded numbers alone, and `rest` says by how much they miss the recorded advantage.

import { usesCritic } from "./quantities.js";

/** {parts: [{key, value}], total, rest, exact} for token j, or null where the parts are not known (GRPO). */
export function makeup(data, j) {
  const { meta, tokens } = data;
  if (!tokens.rewards || tokens.advantages?.[j] === null || tokens.advantages?.[j] === undefined) return null;
  const parts = rawParts(data, j);
  if (parts === null) return null;
  const white = meta.estimator === "grpo" ? null : meta.whiten_advantages;
  const raw = sum(parts.map((part) => part.value));
  const recorded = tokens.advantages[j];
  if (!white) return closed(parts, recorded, raw);
  // Whitening shifts and stretches: the parts are stretched alike, the shift is a part of its own.
  const stretched = parts.map((part) => ({ ...part, value: part.value * white.scale }));
  stretched.push({ key: "whitening", value: white.shift * white.scale });
  return { ...closed(stretched, recorded, sum(stretched.map((part) => part.value))), raw, scale: white.scale };
}

function closed(parts, recorded, total) {
  const rest = recorded - total;
  const size = Math.max(1e-3, ...parts.map((part) => Math.abs(part.value)));
  return {
    parts: parts.filter((part) => part.value !== 0 || part.key === "own"),
    total: recorded,
    rest,
    exact: Math.abs(rest) <= 2e-4 * size,
  };
}

function rawParts(data, j) {
  const { meta, tokens } = data;
  const last = tokens.rewards.length - 1;
  const { shift = 0, scale = 1 } = meta.whiten_rewards ?? {};
  // With whitened rewards each token also carries the shift; it goes with the token's own charge.
  const score = (data.score ?? 0) * scale;
  const charge = (k) => tokens.rewards[k] - (k === last ? score : 0);
  if (meta.estimator === "rloo") return leaveOneOut(data, charge, score);
  if (meta.estimator === "grpo") return null;
  const decay = meta.estimator === "gae" ? meta.gamma * meta.lam : meta.gamma;
  const parts = [{ key: shift ? "own.white" : "own", value: charge(j) }];
  let [later, critic, weight] = [0, 0, 1];
  for (let k = j + 1; k <= last; k++) {
    critic += weight * meta.gamma * (1 - meta.lam) * (tokens.values?.[k] ?? 0);
    weight *= decay;
    later += weight * charge(k);
  }
  parts.push({ key: shift ? "later.white" : "later", value: later }, { key: "score", value: weight * score });
  if (usesCritic(data)) {
    parts.push({ key: "expected", value: -tokens.values[j] });
    if (meta.lam !== 1) parts.push({ key: "critic", value: critic });
  }
  return parts;
}

/** RLOO: the whole answer's reward, less the mean of the other answers', which follows from the recorded advantage. */
function leaveOneOut({ meta, tokens }, charge, score) {
  const charges = sum(tokens.rewards.map((_, k) => charge(k)));
  const white = meta.whiten_advantages;
  const raw = white ? tokens.advantages[0] / white.scale - white.shift : tokens.advantages[0];
  return [
    { key: "all", value: charges },
    { key: "score", value: score },
    { key: "others", value: raw - charges - score },
  ];
}

function sum(numbers) {
  return numbers.reduce((a, b) => a + b, 0);
}

/** What an epoch made of a token: its ratio, whether it was clipped, and in a word why it pushed or not. */
export function epochsOf(data, j) {
  const { clip, clip_high: clipHigh, dual_clip: dual } = data.meta.objective ?? {};
  const advantage = data.tokens.advantages?.[j];
  const [low, high] = clip ? [1 - clip, 1 + (clipHigh ?? clip)] : [null, null];
  return (data.ratios ?? []).map((ratios, epoch) => {
    const ratio = ratios?.[j] ?? null;
    if (ratio === null) return { epoch, ratio, state: "unread", low, high };
    const clipped = data.clipped?.[epoch]?.[j] === true;
    let state = "free";
    if (advantage === 0) state = "nothing";
    else if (dual && advantage < 0 && ratio > dual) state = "dual";
    else if (clipped) state = ratio > 1 ? "clipped.high" : "clipped.low";
    else if (low !== null && (ratio < low || ratio > high)) state = "back";
    return { epoch, ratio, clipped, state, low, high };
  });
}
