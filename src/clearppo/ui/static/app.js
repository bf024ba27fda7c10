// The frame: the bar, the addresses (#/view?run=a&step=3), the keyboard, and what every view is given.
//
// A view is a module views/NAME.js with `words = {en, zh}` and `async function show(root, params, app)`.
//   params  an object of strings, as they stand in the address; `run` alone is always a list of ids (perhaps empty)
//   show    returns nothing, or dispose(), or {dispose?, update?}. update(params) is called instead of a new show()
//           when the address changes within the view; if it returns false, the view is shown anew.
// A change of language or theme shows the view anew. The element that had the focus gets it back by its id.
//
// app, made for each showing:
//   api(path)                   JSON of /api/...; throws Error(sentence), also with `status`
//   t(key, vars)                the view's words, then the frame's
//   go(view, params, {replace, quiet})   change the address; replace: no new entry in the history; quiet: the view has
//                               already drawn what the address says, so it is not shown anew
//   link(view, params)          the address to put in href; null, "" and undefined are left out
//   h(tag, attrs, ...children)  see dom.js
//   await runs()                the runs of /api/runs
//   live(callback)              callback(runs of this address) every 2 s while one of them is running, and when one of
//                               them has changed; ended on leaving
//   keys({"j": ["next answer", handler]})   event.key; shown in the help
//   number(x, digits), colours, theme()     see dom.js and theme.js

import { fill, h, number, svg } from "./dom.js";
import { learn } from "./explain.js";
import { language, languageButton, onLanguage, otherLanguage, setLanguage, translator } from "./i18n.js";
import { colours, icon, nextTheme, onTheme, theme, themeButton } from "./theme.js";

const VIEWS = ["runs", "overview", "iteration", "answer", "compare", "reward"];
const KEPT_ALONG = { iteration: ["step"], answer: ["step", "row"], compare: [] };
const SOON = 2000;
const LATER = 5000;

const words = {
  en: {
    runs: "Runs",
    overview: "Overview",
    iteration: "Iteration",
    answer: "Answer",
    compare: "Compare",
    reward: "Reward model",
    skip: "Skip to the content",
    run: "Run",
    help: "Keyboard",
    close: "Close",
    here: "On this page",
    everywhere: "Everywhere",
    "key.language": "language: English or 中文",
    "key.theme": "theme: as the system, light, dark",
    "key.help": "this list",
    "key.close": "close, leave a field",
    views: "Views",
    choose: "choose a run",
    "state.running": "running",
    "state.finished": "finished",
    "state.stopped": "stopped",
    "state.waiting": "waiting",
    "kind.ppo": "PPO",
    "kind.sft": "SFT",
    "kind.reward": "Reward model",
    failed: "This page cannot be shown",
    again: "Try again",
    to_runs: "All runs",
    gone: "The server does not answer. Is `clearppo view` still running? Trying again …",
    unknown_view: "There is no page “{view}”.",
    loading: "Loading …",
    no_record: "This run has no record of its answers",
    no_report: "This run has no report on a reward model",
  },
  zh: {
    runs: "运行",
    overview: "总览",
    iteration: "迭代",
    answer: "回答",
    compare: "对比",
    reward: "奖励模型",
    skip: "跳到正文",
    run: "运行",
    help: "键盘",
    close: "关闭",
    here: "本页",
    everywhere: "所有页面",
    "key.language": "语言：中文或 English",
    "key.theme": "主题：跟随系统、浅色、深色",
    "key.help": "这张表",
    "key.close": "关闭，离开输入框",
    views: "页面",
    choose: "选择一次运行",
    "state.running": "进行中",
    "state.finished": "已完成",
    "state.stopped": "已停止",
    "state.waiting": "等待中",
    "kind.ppo": "PPO",
    "kind.sft": "有监督微调",
    "kind.reward": "奖励模型",
    failed: "无法显示这一页",
    again: "重试",
    to_runs: "全部运行",
    gone: "服务器没有回应。`clearppo view` 还在运行吗？正在重试……",
    unknown_view: "没有“{view}”这一页。",
    loading: "正在读取……",
    no_record: "这次训练没有逐条回答的记录",
    no_report: "这次训练没有奖励模型的报告",
  },
};
const t = translator(words);

const bar = document.getElementById("bar");
const main = document.getElementById("main");
let index = null; // the last answer of /api/runs
let current = null; // {view, params, root, leave: AbortController, callbacks, keys, dispose, update}

// ---------------------------------------------------------------------------------------------------- addresses

function read(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const params = { run: [] };
  for (const [name, value] of new URLSearchParams(query)) {
    if (name === "run") params.run.push(value);
    else params[name] = value;
  }
  return { view: path || null, params };
}

function link(view, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const it of [value].flat()) if (it !== null && it !== undefined && it !== "") query.append(name, String(it));
  }
  const text = query.toString();
  return `#/${view}${text ? `?${text}` : ""}`;
}

function go(view, params, { replace = false, quiet = false } = {}) {
  const href = link(view, params);
  if (href !== location.hash) history[replace ? "replaceState" : "pushState"](null, "", href);
  if (!quiet) return route();
  if (current && current.view === view) current.params = read(href).params;
  drawBar();
}

// ---------------------------------------------------------------------------------------------------- the server

async function api(path, signal) {
  let answer;
  try {
    answer = await fetch(path, { signal, headers: { Accept: "application/json" } });
  } catch (error) {
    throw error.name === "AbortError" ? error : Object.assign(new Error(t("gone")), { status: 0 });
  }
  let body = null;
  try {
    body = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (!answer.ok || body === null) {
    throw Object.assign(new Error(body?.error ?? `${answer.status} ${answer.statusText}: ${path}`), {
      status: answer.status,
    });
  }
  return body;
}

async function refresh() {
  index = await api("/api/runs");
  return index.runs;
}

/** The runs that the address of now speaks of: all of them on the page of runs. */
function ofInterest() {
  const { view, params } = current;
  return view === "runs" ? index.runs : index.runs.filter((run) => params.run.includes(run.id));
}

let timer;
function again(wait) {
  clearTimeout(timer);
  timer = setTimeout(tick, wait);
}

async function tick() {
  let wait = LATER;
  try {
    if (!document.hidden && current && index) {
      const showing = current;
      const before = JSON.stringify(ofInterest());
      await refresh();
      if (showing === current) {
        const now = ofInterest();
        const running = now.some((run) => run.state === "running");
        if (running) wait = SOON;
        if (JSON.stringify(now) !== before) drawBar();
        if (running || JSON.stringify(now) !== before) for (const callback of showing.callbacks) await callback(now);
      }
    }
    banner(null);
  } catch (error) {
    if (error.name !== "AbortError") banner(error.message);
  }
  again(wait);
}

// ---------------------------------------------------------------------------------------------------- showing a view

async function route() {
  const { view, params } = read(location.hash);
  if (params.lang) {
    const { lang, ...rest } = params;
    setLanguage(lang);
    return go(view ?? "runs", rest, { replace: true });
  }
  if (index === null) {
    try {
      await refresh();
    } catch (error) {
      return fill(main, trouble(error));
    }
  }
  if (view === null) {
    const [only, ...others] = index.runs;
    return only && !others.length
      ? go("overview", { run: only.id }, { replace: true })
      : go("runs", {}, { replace: true });
  }
  if (!VIEWS.includes(view)) {
    leave(current);
    current = null;
    drawBar();
    return fill(main, trouble(new Error(t("unknown_view", { view }))));
  }
  // The other views speak of a run: of the one there is, or of the newest.
  if (view !== "runs" && !params.run.length && index.runs.length) {
    const [newest] = [...index.runs].sort((a, b) => b.updated - a.updated);
    return go(view, { ...params, run: newest.id }, { replace: true });
  }
  if (current?.view === view && current.update) {
    const showing = current;
    showing.params = params;
    drawBar();
    if ((await showing.update(params)) !== false) return;
    if (showing !== current || showing.params !== params) return; // somebody has gone on meanwhile
  }
  await show(view, params);
}

async function show(view, params) {
  const same = current?.view === view;
  const focus = same ? focused() : null;
  const old = current;
  leave(old);
  const root = h("section", { class: "view", "data-view": view, "aria-label": t(view) });
  const showing = { view, params, root, leave: new AbortController(), callbacks: new Set(), keys: {} };
  current = showing;
  drawBar();
  // What stood there stays until the new view has drawn something, so that nothing jumps.
  main.style.setProperty("min-height", same ? `${main.offsetHeight}px` : "");
  main.setAttribute("aria-busy", "true");
  fill(main, root);
  if (!same) scrollTo(0, 0);
  const patience = setTimeout(
    () => root.childNodes.length || fill(root, h("p", { class: "loading" }, t("loading"))),
    300,
  );
  try {
    const [module] = await Promise.all([import(`/static/views/${view}.js`), learn(api)]);
    if (showing !== current) return;
    const end = await module.show(root, params, appFor(showing, module.words));
    showing.dispose = typeof end === "function" ? end : end?.dispose?.bind(end);
    showing.update = typeof end === "function" ? undefined : end?.update?.bind(end);
    if (showing !== current) return leave(showing);
    root.querySelector(":scope > .loading")?.remove();
    restore(focus);
  } catch (error) {
    if (error.name === "AbortError" || showing !== current) return;
    if (error.status === undefined) console.error(error);
    fill(root, trouble(error));
  } finally {
    clearTimeout(patience);
    if (showing === current) {
      main.style.removeProperty("min-height");
      main.setAttribute("aria-busy", "false");
    }
  }
  again(SOON);
}

function leave(showing) {
  if (!showing) return;
  showing.leave.abort();
  showing.callbacks.clear();
  const { dispose } = showing;
  showing.dispose = null;
  dispose?.();
}

function appFor(showing, words_) {
  return {
    api: (path) => api(path, showing.leave.signal),
    t: translator(words_, words),
    go,
    link,
    h,
    svg,
    runs: async () => index.runs,
    live: (callback) => showing.callbacks.add(callback),
    keys: (keys) => Object.assign(showing.keys, keys),
    number,
    colours,
    theme,
  };
}

function focused() {
  const element = document.activeElement;
  return element?.id ? { id: element.id, start: element.selectionStart, end: element.selectionEnd } : null;
}

function restore(focus) {
  const element = focus && document.getElementById(focus.id);
  if (!element || document.activeElement === element) return;
  element.focus({ preventScroll: true });
  if (typeof focus.start === "number") element.setSelectionRange?.(focus.start, focus.end);
}

function trouble(error) {
  return h(
    "div",
    { class: "card trouble", role: "alert" },
    h("h2", {}, t("failed")),
    h("p", {}, error.message),
    h(
      "p",
      { class: "actions" },
      h("button", { type: "button", onclick: route }, t("again")),
      h("a", { href: link("runs") }, t("to_runs")),
    ),
  );
}

function banner(text) {
  const old = document.getElementById("banner");
  if (text === null) return old?.remove();
  if (old) return fill(old, text);
  bar.after(h("p", { id: "banner", role: "status" }, text));
}

// ---------------------------------------------------------------------------------------------------- the bar

const GLYPH = [
  ["rect", { x: 1, y: 1, width: 22, height: 22, rx: 6, fill: "var(--accent)", stroke: "none" }],
  ["path", { d: "M5 17c4 0 4.5-8 8.5-8H19", stroke: "var(--on-accent)", "stroke-width": 2.2 }],
  [
    "path",
    { d: "M5 6.2h14", stroke: "var(--on-accent)", "stroke-width": 1.3, "stroke-dasharray": "1.8 2", opacity: 0.6 },
  ],
];
const nav = h("nav", { "aria-label": "" });
const picker = h("div", { class: "picker" });
const helpButton = h("button", { class: "quiet square", type: "button", id: "help", onclick: openHelp }, "?");

function assemble() {
  fill(
    bar,
    h("a", { class: "brand", href: "#/runs" }, icon(GLYPH), h("span", {}, "ClearPPO")),
    nav,
    picker,
    h("div", { class: "tools" }, languageButton(), themeButton(), helpButton),
  );
}

function drawBar() {
  const params = current?.params ?? { run: [] };
  const run = index?.runs.find((it) => it.id === params.run[0]);
  document.getElementById("skip").textContent = t("skip");
  nav.setAttribute("aria-label", t("views"));
  helpButton.title = `${t("help")} (?)`;
  helpButton.setAttribute("aria-label", t("help"));
  // What has not changed stays: it may be open, or just be clicked.
  const kept = VIEWS.map((view) => [view, lacking(view, run), current?.view, params.step, params.row]);
  renewed(nav, [language(), params.run, kept], () => VIEWS.map((view, i) => tab(view, i + 1, run, params)));
  const choosing = current && current.view !== "runs" && index;
  const offered = choosing && index.runs.map(({ id, name }) => [id, name]);
  renewed(picker, [language(), params.run[0], offered], () => (choosing ? chooser(run, params) : null));
  const dot = picker.querySelector(".dot");
  if (dot && run) {
    dot.className = `dot ${run.state}`;
    dot.title = t(`state.${run.state}`);
  }
  document.title = [current && t(current.view), run && current.view !== "runs" && run.name, "ClearPPO"]
    .filter(Boolean)
    .join(" · ");
}

const drawnOf = new WeakMap(); // node -> what it was last drawn of

/** Fill a node anew if what it is drawn of has changed. */
function renewed(node, of, make) {
  const now = JSON.stringify(of);
  if (drawnOf.get(node) === now) return;
  drawnOf.set(node, now);
  fill(node, make());
}

/** Why a view has nothing to show of a run; null if it has. */
function lacking(view, run) {
  if (!run || view === "runs" || view === "overview") return null;
  if (view === "reward") return run.reward_report ? null : t("no_report");
  return run.recorded ? null : t("no_record");
}

function tab(view, key, run, params) {
  const why = lacking(view, run);
  const here = current?.view === view;
  if (why && !here) return h("span", { class: "tab off", title: why, "aria-disabled": "true" }, t(view));
  const along = Object.fromEntries((KEPT_ALONG[view] ?? []).map((name) => [name, params[name]]));
  const href = view === "runs" ? link("runs") : link(view, { run: params.run, ...along });
  return h(
    "a",
    { class: "tab", href, title: `${t(view)} (${key})`, "data-tab": view, "aria-current": here && "page" },
    t(view),
  );
}

function chooser(run, params) {
  const choose = (event) =>
    go(
      lacking(
        current.view,
        index.runs.find((it) => it.id === event.target.value),
      )
        ? "overview"
        : current.view,
      { run: [event.target.value] },
    );
  const known = index.runs.some((it) => it.id === params.run[0]);
  return [
    run && h("span", { class: ["dot", run.state], title: t(`state.${run.state}`) }),
    h(
      "select",
      { id: "run", "aria-label": t("run"), onchange: choose, value: known ? params.run[0] : "" },
      !known && h("option", { value: "" }, t("choose")),
      index.runs.map((it) => h("option", { value: it.id }, it.name)),
    ),
  ];
}

// ---------------------------------------------------------------------------------------------------- the keyboard

const everywhere = () => ({
  ...Object.fromEntries(VIEWS.map((view, i) => [String(i + 1), [t(view), () => visit(view)]])),
  l: [t("key.language"), () => setLanguage(otherLanguage())],
  d: [t("key.theme"), nextTheme],
  "?": [t("key.help"), openHelp],
});

function visit(view) {
  nav.querySelector(`[data-tab="${view}"]`)?.click();
}

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target instanceof Element ? event.target : document.body;
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && target.matches("input, select, textarea")) return target.blur();
  if (target.matches("textarea, select, [contenteditable], input:not([type=range], [type=checkbox], [type=radio])"))
    return;
  if (target.matches("input") && event.key.startsWith("Arrow")) return;
  if (target.closest("a, button, summary, input") && (event.key === "Enter" || event.key === " ")) return;
  const known = current?.keys[event.key] ?? everywhere()[event.key];
  if (!known) return;
  event.preventDefault();
  known[1](event);
});

const KEYS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "␣", Escape: "Esc" };

function openHelp() {
  const lines = (keys) =>
    Object.entries(keys).map(([key, [what]]) =>
      h("tr", {}, h("td", {}, h("kbd", {}, KEYS[key] ?? key)), h("td", {}, what)),
    );
  const own = Object.keys(current?.keys ?? {}).length > 0;
  const table = (title, rows) => [h("h3", {}, title), h("table", { class: "keys" }, h("tbody", {}, rows))];
  const dialog = h(
    "dialog",
    {
      "aria-label": t("help"),
      onclose: () => dialog.remove(),
      onclick: (event) => event.target === dialog && dialog.close(),
    },
    h(
      "div",
      { class: "inside" },
      h(
        "header",
        {},
        h("h2", {}, t("help")),
        h("button", { class: "quiet", type: "button", onclick: () => dialog.close() }, t("close")),
      ),
      own && table(t("here"), lines(current.keys)),
      table(t("everywhere"), lines({ ...everywhere(), Escape: [t("key.close")] })),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

// ---------------------------------------------------------------------------------------------------- begin

function redraw() {
  if (current) show(current.view, current.params);
  else route();
}

onLanguage(redraw);
onTheme(redraw);
addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => document.hidden || again(0));
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
assemble();
drawBar();
again(SOON);
route();
