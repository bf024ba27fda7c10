// Text that a model wrote, made visible: whitespace, signs that would steer the page's own text, differences, finds.
// Everything here ends in text nodes.

import { h } from "../dom.js";

const SIGNS = new Map([
  [" ", "·"],
  ["\t", "→"],
  ["\n", "↵"],
  ["\r", "␍"],
  ["\u00a0", "⍽"],
]);

// Control characters, zero-width ones and those that turn the direction of writing: they are shown by their number.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/;

// Joiners between the parts of one emoji, or between letters of scripts that need them, are part of the writing.
const JOINERS = "\u200c\u200d";
const JOINED =
  /^[\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f\p{Script=Arabic}\p{Script=Devanagari}\p{Script=Bengali}\p{Script=Malayalam}\p{Script=Sinhala}\p{Script=Tamil}\p{Script=Telugu}\p{Script=Kannada}]$/u;

/** What stands for a letter that would not be seen; null: it is seen as it is. `before` is the letter before it. */
function signOf(letter, before) {
  const sign = SIGNS.get(letter);
  if (sign !== undefined) return sign;
  if (!HIDDEN.test(letter)) return null;
  return JOINERS.includes(letter) && JOINED.test(before) ? null : codePoint(letter);
}

/** One token's piece as nodes: signs in the place of whitespace, numbers in that of what cannot be seen. */
export function visible(piece) {
  if (piece === "") return [h("span", { class: "sign" }, "∅")];
  const nodes = [];
  let [plain, before] = ["", ""];
  for (const letter of piece) {
    const sign = signOf(letter, before);
    before = letter;
    if (sign === null) {
      plain += letter;
      continue;
    }
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(h("span", { class: "sign" }, sign));
  }
  if (plain) nodes.push(plain);
  return nodes;
}

/** The same as a plain string, for labels. */
export function visibleText(piece) {
  return visible(piece)
    .map((node) => node.textContent ?? node)
    .join("");
}

function codePoint(letter) {
  return `⟨${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

/** A prompt: a text, or the messages of a conversation. */
export function promptNodes(prompt, query = "") {
  if (!Array.isArray(prompt)) return [h("div", { class: "text" }, ...found(String(prompt ?? ""), query))];
  return prompt.map((message) =>
    h(
      "div",
      { class: "message" },
      h("span", { class: "role" }, String(message.role ?? "")),
      h("div", { class: "text" }, ...found(plainText(message.content), query)),
    ),
  );
}

/** A prompt in one line. */
export function promptLine(prompt) {
  if (!Array.isArray(prompt)) return String(prompt ?? "");
  return prompt.map((message) => `${message.role}: ${plainText(message.content)}`).join(" ⏎ ");
}

function plainText(content) {
  if (typeof content === "string") return content;
  return content === null || content === undefined ? "" : JSON.stringify(content);
}

/** A text with what was searched for marked in it. */
export function found(text, query) {
  if (!query) return [text];
  const nodes = [];
  const where = text.toLowerCase();
  const what = query.toLowerCase();
  if (where.length !== text.length) return [text]; // letters whose small form is longer: places would be off
  let from = 0;
  for (let at = where.indexOf(what); at >= 0; at = where.indexOf(what, from)) {
    if (at > from) nodes.push(text.slice(from, at));
    nodes.push(h("mark", {}, text.slice(at, at + what.length)));
    from = at + what.length;
  }
  nodes.push(text.slice(from));
  return nodes;
}

const WORDS = /\p{Script=Han}|\p{Script=Hiragana}|\p{Script=Katakana}|[\p{L}\p{M}\p{N}_'’]+|\s+|[^\s\p{L}\p{M}\p{N}]/gu;
const LONGEST = 1500; // words of a text beyond which a comparison word by word would be felt

/** What became of `before`: a list of [kind, text], kind being "same", "added" or "removed". Word by word. */
export function wordDifferences(before, after) {
  const a = before.match(WORDS) ?? [];
  const b = after.match(WORDS) ?? [];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const middle = longestCommon(a.slice(start, a.length - end), b.slice(start, b.length - end));
  const parts = [...a.slice(0, start).map((word) => ["same", word]), ...middle];
  parts.push(...a.slice(a.length - end).map((word) => ["same", word]));
  return joined(bridged(parts));
}

function longestCommon(a, b) {
  const removed = a.map((word) => ["removed", word]);
  const added = b.map((word) => ["added", word]);
  if (a.length > LONGEST || b.length > LONGEST || a.length === 0 || b.length === 0) return [...removed, ...added];
  const width = b.length + 1;
  const best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const here = i * width + j;
      best[here] = a[i] === b[j] ? best[here + width + 1] + 1 : Math.max(best[here + width], best[here + 1]);
    }
  }
  const parts = [];
  let [i, j] = [0, 0];
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) {
      parts.push(["same", a[i]]);
      i++;
      j++;
    } else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) parts.push(removed[i++]);
    else parts.push(added[j++]);
  }
  return [...parts, ...removed.slice(i), ...added.slice(j)];
}

/** A blank between two changed words is part of the change: phrases read better than single words. */
function bridged(parts) {
  const result = [];
  parts.forEach(([kind, text], i) => {
    const lone = kind === "same" && /^\s+$/.test(text) && i > 0 && i + 1 < parts.length;
    if (lone && parts[i - 1][0] !== "same" && parts[i + 1][0] !== "same") {
      result.push(["removed", text], ["added", text]);
    } else result.push([kind, text]);
  });
  // Within one change first everything that went, then everything that came.
  const ordered = [];
  let [gone, come] = [[], []];
  for (const part of [...result, ["same", ""]]) {
    if (part[0] === "removed") gone.push(part);
    else if (part[0] === "added") come.push(part);
    else {
      ordered.push(...gone, ...come, part);
      [gone, come] = [[], []];
    }
  }
  return ordered;
}

function joined(parts) {
  const result = [];
  for (const [kind, text] of parts) {
    if (!text) continue;
    if (result.length && result.at(-1)[0] === kind) result.at(-1)[1] += text;
    else result.push([kind, text]);
  }
  return result;
}
