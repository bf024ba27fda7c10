// `clearppo label`: one item at a time, answers beside each other, decisions by key or click.

import { fill, h, number } from "./dom.js";
import { languageButton, onLanguage, otherLanguage, setLanguage, translator } from "./i18n.js";
import { nextTheme, themeButton } from "./theme.js";

const KEPT = "clearppo.labeller";
const BOUNCE = 250; // ms in which the same key counts once
const PATIENCE = 1500; // ms between two tries of a request that did not get through

const words = {
  en: {
    label: "Compare answers", who: "Who labels?", why: "Your name goes into the file beside each of your decisions, so that several people can label and be compared. Write it the same way each time.",
    name: "Your name", begin: "Begin", before: "Already in the file:", change: "another labeller",
    prompt: "Prompt", answer: "Answer {n}", choose: "Better", choose_full: "Answer {n} is better", empty: "(an empty answer)", cut: "cut off at the length limit",
    tie: "Tie", bad: "All bad", note: "Note", skip: "Skip", undo: "Undo", help: "Keyboard", close: "Close",
    "note.label": "Note on this item, kept with your decision (Esc leaves it)",
    "role.system": "System", "role.user": "User", "role.assistant": "Assistant", "role.tool": "Tool",
    "key.choose": "this answer is better", "key.tie": "a tie: they are equally good", "key.bad": "all of them are bad", "key.note": "write a note",
    "key.undo": "take the last decision back", "key.skip": "skip: show it again at the end", "key.language": "language: English or 中文", "key.theme": "theme: as the system, light, dark", "key.help": "this list", "key.escape": "leave the note",
    progress: "{labelled} of {items} labelled", mine: "{mine} by you", skipped: "{skipped} skipped", speed: "{seconds} s each", left: "about {time} left",
    minutes: "{n} min", hours: "{n} h",
    agreement: "agreement {equal} on {items} items of {labellers} labellers", alpha: "alpha {x}", kappa: "kappa {x}",
    "agreement.title": "Share of equal decisions of two people on an item. kappa (Cohen) and alpha (Krippendorff) leave out what chance would do: 1 is perfect, 0 is chance.",
    second: "Every item has a decision by somebody. Yours is a second opinion from here on; it counts as well.",
    done: "Every item has your decision", "done.text": "{mine} decisions by you are in {output}. Train a reward model from them:",
    copy: "Copy", copied: "Copied", "done.model": "MODEL is the model that the reward model begins from.",
    results: "Which model is preferred", "results.so_far": "Which model is preferred so far", of: "answers of", against: "against", prompts: "prompts", wins: "wins", ties: "ties", bad_: "all bad", losses: "losses", rate: "win rate", interval: "interval",
    settled: "{first} is preferred to {second}: it wins {rate} (95% interval {low} to {high}).", unsettled: "{first} against {second}: it wins {rate} (95% interval {low} to {high}), so it cannot be told yet which is preferred.",
    uncompared: "{first} and {second}: no decision compares as many answers of one as of the other.", uneven: "Left out between unequal numbers of answers: {n}.", "results.how": "A tie and “all bad” count half a win; each prompt counts once.",
    wait: "The server does not answer. Is `clearppo label` still running? Trying again …", undone: "Taken back. Decide again.", nothing: "There is no decision of yours to take back.",
    failed: "That was not written",
  },
  zh: {
    label: "比较回答", who: "谁来标注？", why: "您的名字会和每个决定一起写进文件，这样几个人可以一起标注并互相比较。请每次写法一致。",
    name: "您的名字", begin: "开始", before: "文件中已有：", change: "换标注者",
    prompt: "提示", answer: "回答 {n}", choose: "更好", choose_full: "回答 {n} 更好", empty: "（空回答）", cut: "因长度上限被截断",
    tie: "平局", bad: "都不好", note: "备注", skip: "跳过", undo: "撤销", help: "键盘", close: "关闭",
    "note.label": "对这一条的备注，与您的决定一起保存（Esc 离开）",
    "role.system": "系统", "role.user": "用户", "role.assistant": "助手", "role.tool": "工具",
    "key.choose": "这个回答更好", "key.tie": "平局：一样好", "key.bad": "全都不好", "key.note": "写备注",
    "key.undo": "撤销上一个决定", "key.skip": "跳过：最后再出现", "key.language": "语言：中文或 English", "key.theme": "主题：跟随系统、浅色、深色", "key.help": "这张表", "key.escape": "离开备注",
    progress: "已标注 {labelled} / {items}", mine: "您标注了 {mine}", skipped: "跳过 {skipped}", speed: "每条 {seconds} 秒", left: "还需约 {time}",
    minutes: "{n} 分钟", hours: "{n} 小时",
    agreement: "{labellers} 位标注者在 {items} 条上一致率 {equal}", alpha: "alpha {x}", kappa: "kappa {x}",
    "agreement.title": "两个人对同一条做出相同决定的比例。kappa（Cohen）与 alpha（Krippendorff）扣除了偶然一致：1 为完全一致，0 为偶然水平。",
    second: "每一条都已有人标注。从现在起您给出的是第二意见，同样计入。",
    done: "所有条目您都已标注", "done.text": "您的 {mine} 个决定已写入 {output}。用它们训练奖励模型：",
    copy: "复制", copied: "已复制", "done.model": "MODEL 是奖励模型的起始模型。",
    results: "哪个模型更受偏好", "results.so_far": "目前哪个模型更受偏好", of: "回答来自", against: "对", prompts: "提示数", wins: "胜", ties: "平", bad_: "都不好", losses: "负", rate: "胜率", interval: "区间",
    settled: "{first} 比 {second} 更受偏好：胜率 {rate}（95% 区间 {low} 至 {high}）。", unsettled: "{first} 对 {second}：胜率 {rate}（95% 区间 {low} 至 {high}），还无法判断哪个更受偏好。",
    uncompared: "{first} 与 {second}：没有哪个决定比较的是双方同样多的回答。", uneven: "因双方回答数不等而未计入：{n}。", "results.how": "平局和“都不好”各算半胜；每个提示计一次。",
    wait: "服务器没有回应。`clearppo label` 还在运行吗？正在重试……", undone: "已撤销，请重新决定。", nothing: "没有可以撤销的决定。",
    failed: "没有写入",
  },
};
const t = translator(words);

const bar = document.getElementById("bar");
const main = document.getElementById("main");
const foot = document.getElementById("foot");
let about = null; // {source, output, following, labellers}
let labeller = kept();
let state = null; // what the server said last: {item, progress, agreement}
let note = "";
let noting = false;
let busy = false;
let said = null; // {text, kind}: a sentence about what was just done
let clock = { spent: 0, since: null }; // ms for which the item was looked at
let last = { key: "", at: 0 };

function kept() {
  try {
    return localStorage.getItem(KEPT) || null;
  } catch {
    return null; // storage is forbidden in this browser: the name is asked for again next time
  }
}

function keep(name) {
  try {
    localStorage.setItem(KEPT, name);
  } catch {
    // as above
  }
}

// ---------------------------------------------------------------------------------------------------- the server

/** JSON from the server. A request that does not get through is sent again, the same, until it does. */
async function api(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  for (;;) {
    let answer = null;
    try {
      answer = await fetch(`/api/label${path}`, options);
    } catch {
      banner(t("wait"));
      await new Promise((resolve) => setTimeout(resolve, PATIENCE));
      continue;
    }
    banner(null);
    const content = await answer.json().catch(() => null);
    if (answer.ok && content) return content;
    throw new Error(content?.error ?? `${answer.status} ${answer.statusText}`);
  }
}

function nonce() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Ask for something, one thing at a time, and show what is so afterwards. */
async function ask(path, body, mark = null) {
  if (busy) return;
  busy = true;
  said = null;
  main.classList.add("busy");
  mark?.classList.add("chosen");
  try {
    const next = await api(path, body);
    if (path === "/undo") {
      const back = state?.progress.can_undo;
      said = { text: t(back ? "undone" : "nothing"), kind: "note" };
      note = back ? next.note : note;
    } else note = "";
    if (next.item?.item !== state?.item?.item || path === "/undo") clock = { spent: 0, since: document.hidden ? null : performance.now() };
    noting = path === "/undo" && note !== "";
    state = next;
    draw();
    if (path !== "/undo") scrollTo(0, 0);
  } catch (error) {
    said = { text: `${t("failed")}: ${error.message}`, kind: "warn" };
    draw();
  } finally {
    busy = false;
    main.classList.remove("busy");
    mark?.classList.remove("chosen");
  }
}

const decide = (verdict, place = null) =>
  state?.item && ask(
    "/decide",
    { labeller, item: state.item.item, verdict, place, note, seconds: seconds(), nonce: nonce() },
    place === null ? null : main.querySelector(`[data-place="${place}"]`),
  );
const undo = () => state && ask("/undo", { labeller, nonce: nonce() });
const skip = () => state?.item && ask("/skip", { labeller, item: state.item.item });

function seconds() {
  return (clock.spent + (clock.since === null ? 0 : performance.now() - clock.since)) / 1000;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden && clock.since !== null) clock = { spent: clock.spent + performance.now() - clock.since, since: null };
  else if (!document.hidden && clock.since === null) clock.since = performance.now();
});

// ---------------------------------------------------------------------------------------------------- drawing

function draw() {
  document.title = `${t("label")} · ClearPPO`;
  drawBar();
  foot.hidden = true;
  if (labeller === null || state === null) return drawWelcome();
  foot.hidden = false;
  drawFoot();
  fill(main, h("section", { class: "view", "data-view": "label", "data-item": state.item?.item ?? "" }, message(), state.item ? item() : over()));
}

function drawBar() {
  const help = h("button", { class: "quiet square", type: "button", id: "help", title: `${t("help")} (?)`, "aria-label": t("help"), onclick: openHelp }, "?");
  fill(
    bar,
    h("span", { class: "brand" }, "ClearPPO"),
    h("h1", {}, t("label")),
    h(
      "div",
      { class: "who" },
      about && h("span", { class: "source mono", title: about.source }, about.source),
      labeller !== null && state && h("button", { type: "button", id: "labeller", title: t("change"), onclick: leave }, labeller),
    ),
    h("div", { class: "tools" }, languageButton(), themeButton(), help),
  );
}

function drawWelcome() {
  const input = h("input", { id: "name", name: "name", maxlength: 60, autocomplete: "off", required: true, "aria-label": t("name"), placeholder: t("name") });
  const submit = (event) => {
    event.preventDefault();
    enter(input.value);
  };
  fill(
    main,
    h(
      "section",
      { class: "card welcome", "data-view": "welcome" },
      h("h2", {}, t("who")),
      h("p", { class: "soft" }, t("why")),
      message(),
      h("form", { onsubmit: submit }, input, h("button", { class: "primary", type: "submit" }, t("begin"))),
      about?.labellers.length > 0 &&
        h("div", { class: "names" }, h("span", { class: "caption" }, t("before")), about.labellers.map((name) => h("button", { type: "button", class: "chip", onclick: () => enter(name) }, name))),
    ),
  );
  input.focus();
}

function message() {
  if (said) return h("p", { class: said.kind, role: "status" }, said.text);
  const { items, labelled, mine } = state?.progress ?? {};
  if (state?.item && labelled === items && mine < items) return h("p", { class: "note", role: "status" }, t("second"));
  return null;
}

function item() {
  const { prompt, answers } = state.item;
  const turns = typeof prompt === "string" ? [{ role: null, content: prompt }] : prompt;
  return [
    turns.some((turn) => turn.content) &&
      h(
        "section",
        { class: "card prompt", "aria-label": t("prompt"), tabindex: 0 },
        turns.map((turn) => h("div", { class: "turn" }, h("div", { class: "role" }, turn.role === null ? t("prompt") : role(turn.role)), text(turn.content))),
      ),
    h("div", { class: "answers", "data-count": answers.length }, answers.map(card)),
    state.results?.length > 0 && h("details", {}, h("summary", {}, t("results.so_far")), results(state.results)),
  ];
}

function noteField() {
  const field = h("textarea", { id: "note", rows: 2, maxlength: 4000, value: note, dir: "auto", oninput: (event) => (note = event.target.value) });
  return h("label", { class: "noting" }, h("span", { class: "caption" }, t("note.label")), field);
}

function role(name) {
  const known = t(`role.${name}`);
  return known === `role.${name}` ? name : known;
}

function card(answer, place) {
  const choose = (event) => event.detail > 1 || decide("better", place); // more than 1: the second half of a double click
  return h(
    "article",
    { class: "card answer", "data-place": place, "aria-label": t("answer", { n: place + 1 }) },
    h(
      "button",
      { type: "button", class: "pick", "aria-label": t("choose_full", { n: place + 1 }), onclick: choose },
      h("span", { class: "letter" }, t("answer", { n: place + 1 })), h("span", { class: "better" }, t("choose")), key(place + 1),
    ),
    text(answer),
    state.item.cut[place] && h("p", { class: "cut" }, `… ${t("cut")}`),
  );
}

function text(content) {
  const trimmed = content.replace(/^\s*\n|\s+$/g, "").trim();
  return trimmed ? h("div", { class: "text", dir: "auto" }, trimmed) : h("div", { class: "text empty-text" }, t("empty"));
}

function key(name) {
  return h("kbd", { class: "key", "aria-hidden": "true" }, name);
}

function over() {
  const output = about?.output ?? "labels.jsonl";
  return h(
    "section",
    { class: "card over" },
    h("h2", {}, t("done")),
    h("p", {}, t("done.text", { mine: state.progress.mine, output })),
    about && command(about.following),
    about?.following.includes(" MODEL ") && h("p", { class: "soft" }, t("done.model")),
    state.results?.length > 0 && [h("h3", {}, t("results")), results(state.results)],
  );
}

/** A command, broken between its options only, and a button that copies it. */
function command(line) {
  const words = line.split(/ (?=--)/).flatMap((word, place) => [place > 0 && " ", h("span", {}, word)]);
  const copy = h("button", { type: "button", class: "quiet", onclick: copied }, t("copy"));
  async function copied() {
    try {
      await navigator.clipboard.writeText(line);
      fill(copy, t("copied"));
    } catch {
      getSelection().selectAllChildren(code); // the browser forbids it: what is selected can be copied by hand
    }
  }
  const code = h("code", { class: "mono" }, words);
  return h("div", { class: "command" }, code, copy);
}

/** Who wrote the answers that people prefer: said only when every item has a decision, and never of one answer. */
function results(found) {
  const share = (x) => `${Math.round(100 * x)}%`; // null, where nothing was compared, is in no sentence
  const compared = found.filter((duel) => duel.n_prompts > 0);
  const names = ["prompts", "wins", "ties", "bad_", "losses", "rate", "interval"];
  const row = (duel) => [duel.n_prompts, duel.wins, duel.ties, duel.all_bad, duel.losses, share(duel.rate), `${share(duel.low)}–${share(duel.high)}`];
  const verdict = (duel) => {
    const [first, second] = duel.sources;
    const kind = duel.n_prompts === 0 ? "uncompared" : duel.settled ? "settled" : "unsettled";
    const said = t(kind, { first, second, rate: share(duel.rate), low: share(duel.low), high: share(duel.high) });
    return h("p", {}, said, duel.n_uneven > 0 && ` ${t("uneven", { n: duel.n_uneven })}`);
  };
  const head = h("tr", {}, h("th", {}, t("of")), names.map((name) => h("th", { class: "num" }, t(name))));
  const pair = ([first, second]) => h("td", {}, h("div", { class: "mono" }, first), h("div", {}, `${t("against")} `, h("span", { class: "mono" }, second)));
  const body = compared.map((duel) => h("tr", {}, pair(duel.sources), row(duel).map((cell) => h("td", { class: "num" }, cell))));
  return h(
    "div",
    { class: "results", "data-name": "results" },
    found.map(verdict),
    compared.length > 0 && [
      h("div", { class: "scroll" }, h("table", { class: "data" }, h("thead", {}, head), h("tbody", {}, body))),
      h("p", { class: "soft" }, t("results.how")),
    ],
  );
}

function drawFoot() {
  const { item: shown, progress, agreement } = state;
  const act = (name, letter, action, attrs = {}) =>
    h("button", { type: "button", "data-action": name, onclick: (event) => event.detail > 1 || action(), ...attrs }, t(name), key(letter));
  const share = (count) => ({ width: `${(100 * count) / Math.max(progress.items, 1)}%` });
  const facts = [t("progress", progress), t("mine", progress)];
  if (progress.skipped) facts.push(t("skipped", progress));
  if (progress.seconds) facts.push(t("speed", { seconds: number(progress.seconds, 2) }), left(progress));
  const shares = agreement && [
    t("agreement", { ...agreement, equal: `${Math.round(100 * agreement.equal)}%` }),
    agreement.kappa !== null && t("kappa", { x: agreement.kappa.toFixed(2) }),
    agreement.alpha !== null && t("alpha", { x: agreement.alpha.toFixed(2) }),
  ].filter(Boolean).join(", ");
  fill(
    foot,
    h(
      "div",
      { class: "inside" },
      noting && shown && noteField(),
      h(
        "div",
        { class: "actions" },
        shown && [
          act("tie", "t", () => decide("tie")),
          act("bad", "b", () => decide("all bad")),
          act("note", "n", openNote, { "aria-pressed": String(noting) }),
          act("skip", "s", skip, { class: "quiet" }),
        ],
        act("undo", "u", undo, { class: "quiet apart", disabled: !progress.can_undo }),
      ),
      h(
        "div",
        { class: "how" },
        h("div", { class: "progress", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": progress.items, "aria-valuenow": progress.labelled, "aria-label": t("progress", progress) }, h("i", { class: "all", style: share(progress.labelled) }), h("i", { style: share(progress.mine) })),
        facts.filter(Boolean).map((fact) => h("span", {}, fact)),
        shares && h("span", { "data-name": "agreement", title: t("agreement.title") }, shares),
      ),
    ),
  );
}

/** How long the items that nobody has decided take at this speed. */
function left({ items, labelled, seconds: each }) {
  const minutes = ((items - labelled) * each) / 60;
  if (minutes < 1) return null;
  return t("left", { time: minutes < 90 ? t("minutes", { n: Math.round(minutes) }) : t("hours", { n: number(minutes / 60, 2) }) });
}

function banner(words_) {
  const old = document.getElementById("banner");
  if (words_ === null) return old?.remove();
  if (old) return fill(old, words_);
  bar.after(h("p", { id: "banner", role: "status" }, words_));
}

// ---------------------------------------------------------------------------------------------------- the keyboard

function openNote() {
  noting = true;
  draw();
  document.getElementById("note")?.focus();
}

const keys = () => ({
  t: [t("key.tie"), () => decide("tie")],
  b: [t("key.bad"), () => decide("all bad")],
  n: [t("key.note"), openNote],
  u: [t("key.undo"), undo],
  s: [t("key.skip"), skip],
  l: [t("key.language"), () => setLanguage(otherLanguage())],
  d: [t("key.theme"), nextTheme],
  "?": [t("key.help"), openHelp],
});

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const target = event.target instanceof Element ? event.target : document.body;
  if (document.querySelector("dialog[open]")) return;
  if (target.matches("input, textarea")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  const place = "1234".indexOf(event.key);
  const chosen = place >= 0 && place < (state?.item?.answers.length ?? 0);
  const action = chosen ? () => decide("better", place) : keys()[event.key]?.[1];
  if (!action || (labeller === null && !"ld?".includes(event.key))) return;
  event.preventDefault();
  // A key that is held down, or bounces, must not decide the next item.
  const again = event.key === last.key && event.timeStamp - last.at < BOUNCE;
  last = { key: event.key, at: event.timeStamp };
  if (!event.repeat && !again) action();
});

function openHelp() {
  const rows = [["1 2 3 4", [t("key.choose")]], ...Object.entries(keys()), ["Esc", [t("key.escape")]]];
  const dialog = h(
    "dialog",
    { "aria-label": t("help"), onclose: () => dialog.remove(), onclick: (event) => event.target === dialog && dialog.close() },
    h(
      "form",
      { method: "dialog", class: "inside" },
      h("header", {}, h("h2", {}, t("help")), h("button", { class: "quiet", value: "" }, t("close"))),
      h(
        "table",
        { class: "keys" },
        h("tbody", {}, rows.map(([name, [what]]) => h("tr", {}, h("td", { class: "num" }, name.split(" ").map((one) => [h("kbd", {}, one), " "])), h("td", {}, what)))),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

// ---------------------------------------------------------------------------------------------------- begin

async function enter(name) {
  if (!name.trim()) return;
  try {
    state = await api(`/state?labeller=${encodeURIComponent(name)}`);
    labeller = state.labeller;
    keep(labeller);
    said = null;
    clock = { spent: 0, since: document.hidden ? null : performance.now() };
  } catch (error) {
    labeller = null;
    said = { text: error.message, kind: "warn" };
  }
  draw();
}

async function leave() {
  labeller = state = said = null;
  note = "";
  about = await api("");
  draw();
}

const asked = new URLSearchParams(location.hash.replace(/^#\/?\??/, "")).get("lang");
if (asked) setLanguage(asked);
onLanguage(draw);
about = await api("");
if (labeller !== null) await enter(labeller);
else draw();
