// One prompt through time: its answers in training and in evaluation, of one run or of two side by side, with what
// changed in their words.

import { calmly, fill, h, number, svg } from "../dom.js";
import { colours } from "../theme.js";
import { signed } from "./quantities.js";
import { found, promptLine, promptNodes, wordDifferences } from "./text.js";

export { words } from "./compare.words.js";

const PAGE = 60; // prompts fetched at a time
const FIRST = 40; // answers of a column drawn at first
const SOURCES = ["all", "training", "evaluation"];

export async function show(root, given, app) {
  const page = new ComparePage(root, app);
  await page.open(given);
  app.keys(page.keys());
  app.live((now) => page.refresh(now));
  // What cannot be opened is shown anew, and the frame then says why.
  return { update: (params) => page.open(params).catch(() => false), dispose: () => page.watch?.disconnect() };
}

class ComparePage {
  constructor(root, app) {
    this.root = root;
    this.app = app;
    this.prompts = [];
    this.known = new Map();
    this.shown = FIRST;
    this.slowly = calmly((q) => this.go({ q }, { replace: true }), 180);
  }

  async open(params) {
    this.params = { ...params };
    this.runs = params.run.slice(0, 2);
    this.source = SOURCES.includes(params.source) ? params.source : "all";
    const ways = this.ways();
    this.way = ways.includes(params.diff) ? params.diff : "before";
    if (!this.list) await this.draw();
    const asked = `${this.runs[0]}?${params.q ?? ""}`;
    if (this.asked !== asked) {
      this.asked = asked;
      await this.ask();
      if (this.asked !== asked) return;
    }
    const prompt = params.prompt ?? this.prompts[0]?.prompt_id;
    if (this.prompt !== prompt) this.shown = FIRST;
    this.prompt = prompt;
    this.mark();
    await this.drawAnswers();
  }

  /** What an answer's words may be compared with. */
  ways() {
    return this.runs.length > 1 ? ["none", "before", "first", "other"] : ["none", "before", "first"];
  }

  /** A run that is going on has new answers. */
  async refresh(now) {
    const written = JSON.stringify(now.map(({ id, step, recorded, updated }) => [id, step, recorded, updated]));
    if (this.written === written) return;
    this.written = written;
    const at = this.root.querySelector(".prompt-list")?.scrollTop;
    this.known.clear();
    await this.ask(Math.max(this.prompts.length, PAGE));
    this.mark();
    await this.drawAnswers();
    if (at) this.root.querySelector(".prompt-list").scrollTop = at;
  }

  go(changes, options) {
    this.app.go("compare", { ...this.params, ...changes }, options);
  }

  path(run, ...more) {
    return ["/api/runs", encodeURIComponent(run), "prompts", ...more].join("/");
  }

  // -------------------------------------------------------------------------------------------------- the frame

  async draw() {
    const { t, runs } = this.app;
    this.all = (await runs()).filter((run) => run.kind === "ppo");
    const others = this.all.filter((run) => run.id !== this.runs[0]);
    this.second = h(
      "select",
      {
        id: "second-run",
        value: this.runs[1] ?? "",
        onchange: (event) => this.go({ run: [this.runs[0], event.target.value].filter(Boolean) }),
      },
      h("option", { value: "" }, t("alone")),
      others.map((run) => h("option", { value: run.id }, run.name)),
    );
    this.search = h("input", {
      type: "search",
      id: "search",
      placeholder: `${t("search")}  /`,
      "aria-label": t("search"),
      value: this.params.q ?? "",
      oninput: (event) => this.slowly(event.target.value || undefined),
    });
    this.count = h("span", { class: "muted", role: "status" });
    this.list = h("ul", { class: "prompt-list", "aria-label": t("prompts") });
    this.main = h("div", { class: "compare-main" });
    fill(
      this.root,
      h(
        "header",
        { class: "view-head" },
        h("div", {}, h("h1", {}, t("title")), h("p", { class: "sub" }, t("sub"))),
        others.length ? h("label", { class: "field" }, t("with"), this.second) : null,
      ),
      h(
        "div",
        { class: "compare-columns" },
        h(
          "aside",
          { class: "card flush prompt-column" },
          h("div", { class: "prompt-search" }, this.search, this.count),
          this.list,
        ),
        this.main,
      ),
    );
  }

  async ask(limit = PAGE) {
    const { t } = this.app;
    const query = new URLSearchParams({ q: this.params.q ?? "", offset: 0, limit: Math.min(limit, 500) });
    const answer = await this.app.api(`${this.path(this.runs[0])}?${query}`);
    this.prompts = answer.prompts;
    this.matching = answer.matching;
    if (document.activeElement !== this.search) this.search.value = this.params.q ?? "";
    this.count.textContent = t("n_of", { n: number(answer.matching), all: number(answer.total) });
    this.nothing = answer.total === 0;
    fill(
      this.list,
      this.prompts.map((prompt) => this.item(prompt)),
      this.prompts.length ? null : h("li", { class: "empty" }, t("none")),
      this.moreButton(),
    );
  }

  moreButton() {
    const { t } = this.app;
    if (this.prompts.length >= this.matching) return null;
    return h(
      "li",
      { class: "more" },
      h(
        "button",
        { type: "button", class: "quiet", onclick: (event) => this.more(event.target.parentNode) },
        t("more"),
      ),
    );
  }

  async more(line) {
    const query = new URLSearchParams({ q: this.params.q ?? "", offset: this.prompts.length, limit: PAGE });
    const asked = this.asked;
    const answer = await this.app.api(`${this.path(this.runs[0])}?${query}`);
    if (asked !== this.asked) return;
    this.prompts.push(...answer.prompts);
    line.remove();
    this.list.append(...[...answer.prompts.map((prompt) => this.item(prompt)), this.moreButton()].filter(Boolean));
    this.mark();
  }

  item(prompt) {
    const { t, link } = this.app;
    const href = link("compare", { ...this.params, prompt: prompt.prompt_id });
    const span = prompt.first === prompt.last ? t("span_one", prompt) : t("span", prompt);
    return h(
      "li",
      {},
      h(
        "a",
        { href, "data-prompt": prompt.prompt_id, title: promptLine(prompt.prompt).slice(0, 600) },
        h("span", { class: "clamp" }, found(promptLine(prompt.prompt).slice(0, 400), this.params.q ?? "")),
        h("span", { class: "caption" }, `${t("n", { n: prompt.n })} · ${span}`),
      ),
    );
  }

  mark() {
    for (const anchor of this.list.querySelectorAll("a[data-prompt]")) {
      const here = anchor.dataset.prompt === this.prompt;
      if (here) anchor.setAttribute("aria-current", "true");
      else anchor.removeAttribute("aria-current");
      anchor.setAttribute("href", this.app.link("compare", { ...this.params, prompt: anchor.dataset.prompt }));
      if (here) anchor.scrollIntoView({ block: "nearest" });
    }
    this.second.value = this.runs[1] ?? "";
  }

  // -------------------------------------------------------------------------------------------------- the answers

  /** The answers of a run to the prompt of now; null: it has none. */
  async answersOf(run) {
    const key = `${run}/${this.prompt}`;
    if (!this.known.has(key)) {
      const asked = this.readAnswers(run, this.prompt).catch((error) => {
        this.known.delete(key);
        throw error;
      });
      this.known.set(key, asked);
    }
    return this.known.get(key);
  }

  async readAnswers(run, prompt) {
    const listed = run === this.runs[0] && this.prompts.some((it) => it.prompt_id === prompt);
    if (!listed) {
      const found = await this.app.api(`${this.path(run)}?${new URLSearchParams({ q: prompt })}`);
      if (!found.prompts.some((it) => it.prompt_id === prompt)) return null;
    }
    return this.app.api(this.path(run, encodeURIComponent(prompt)));
  }

  async drawAnswers() {
    const { t } = this.app;
    if (!this.prompt)
      return fill(this.main, h("p", { class: "empty card" }, t(this.nothing ? "no_answers" : "choose")));
    const { prompt, runs } = this;
    const both = await Promise.all(runs.map((run) => this.answersOf(run)));
    if (prompt !== this.prompt || String(runs) !== String(this.runs)) return;
    const some = both.find(Boolean);
    const columns = runs.map((run, i) => ({
      run,
      name: this.all.find((it) => it.id === run)?.name ?? run,
      colour: colours.categorical[i],
      answers: both[i] && this.chosen(both[i].answers),
    }));
    const several = columns.some(({ answers }) => answers?.some((it, i) => sameTime(it, answers[i + 1])));
    fill(
      this.main,
      some
        ? h(
            "article",
            { class: "card prompt-card" },
            h("h3", {}, t("prompt")),
            h("div", { class: "prompt-text", "data-name": "prompt" }, promptNodes(some.prompt)),
          )
        : null,
      this.tools(several),
      this.timeline(columns),
      this.answers(columns),
    );
  }

  chosen(answers) {
    return this.source === "all" ? answers : answers.filter((answer) => answer.source === this.source);
  }

  tools(several) {
    const { t } = this.app;
    const group = (label, name, values, now, say) =>
      h(
        "span",
        { class: "field" },
        label,
        h(
          "span",
          { class: "segmented", role: "group", "aria-label": label },
          values.map((value) =>
            h(
              "button",
              {
                type: "button",
                id: `${name}-${value}`,
                "data-choice": `${name}-${value}`,
                "aria-pressed": String(value === now),
                onclick: () => this.go({ [name]: value }, { replace: true }),
              },
              say(value),
            ),
          ),
        ),
      );
    const [added, removed] = [h("ins", {}, t("added")), h("del", {}, t("removed"))];
    const legend = t("legend", { added: "\u0001", removed: "\u0002" })
      .split(/([\u0001\u0002])/)
      .map((part) => (part === "\u0001" ? added : part === "\u0002" ? removed : part));
    return h(
      "div",
      { class: "toolbar" },
      group(t("source"), "source", SOURCES, this.source, t),
      group(t("differences"), "diff", this.ways(), this.way, (way) => t(`diff.${way}`)),
      this.way === "none"
        ? null
        : h("span", { class: "caption" }, legend, several ? ` ${t("pairing")}` : null),
    );
  }

  /** One line an iteration, one column a run. */
  answers(columns) {
    const { t } = this.app;
    const steps = [...new Set(columns.flatMap(({ answers }) => (answers ?? []).map((answer) => answer.step)))].sort(
      (a, b) => a - b,
    );
    const heads = columns.map(({ run, name, colour, answers }) =>
      h(
        "div",
        { "data-run": run },
        h("h2", {}, h("i", { class: "swatch", style: { background: colour } }), name),
        h("p", { class: "caption" }, answers?.length ? t("n", { n: answers.length }) : this.lacking(answers)),
      ),
    );
    if (!steps.length && columns.length === 1) return h("p", { class: "empty card" }, this.lacking(columns[0].answers));
    const lines = [];
    let left = this.shown;
    let rest = 0;
    for (const step of steps) {
      const cells = columns.map(({ answers }) =>
        (answers ?? []).map((answer, i) => [answer, i]).filter(([answer]) => answer.step === step),
      );
      const n = most(cells.map((cell) => cell.length));
      const drawn = Math.max(0, Math.min(n, left));
      rest += n - drawn;
      left -= drawn;
      if (drawn)
        lines.push(
          this.stepLine(
            step,
            columns,
            cells.map((cell) => cell.slice(0, drawn)),
          ),
        );
    }
    const more =
      rest > 0
        ? h(
            "button",
            { type: "button", class: "more-answers", onclick: () => this.showMore() },
            t("more_answers", { n: rest }),
          )
        : null;
    return h(
      "div",
      { class: "answer-lines", style: { "--columns": String(columns.length) } },
      columns.length > 1 ? h("div", { class: "step-line" }, heads) : null,
      lines,
      more,
    );
  }

  /** Why a run has no answer to show. */
  lacking(answers) {
    return this.app.t(!answers ? "never" : this.source === "all" ? "no_answer" : `no_answer.${this.source}`);
  }

  stepLine(step, columns, cells) {
    const list = (cell, c) =>
      h(
        "ol",
        { class: "answer-list", "data-run": columns[c].run },
        cell.map(([answer, i]) =>
          this.answer(columns[c].run, answer, this.base(columns[c].answers, i, columns[1 - c])),
        ),
      );
    return h("div", { class: "step-line", "data-step": step }, cells.map(list));
  }

  showMore() {
    this.shown += 4 * FIRST;
    this.drawAnswers();
  }

  /** The answer that another is compared with: of the iteration before, of the first, or of the other run. Of several
   *  answers of one iteration each has its own: the first the first, the second the second. */
  base(answers, i, other) {
    const answer = answers[i];
    const place = answers.slice(0, i).filter((it) => it.source === answer.source && it.step === answer.step).length;
    const same = (list) => list.filter((it) => it.source === answer.source);
    const at = (list, step) => {
      const there = list.filter((it) => it.step === step);
      return there[place] ?? there.at(-1) ?? null;
    };
    if (this.way === "none") return null;
    if (this.way === "other") {
      const list = same(other?.answers ?? []);
      return list.length ? at(list, (list.findLast((it) => it.step <= answer.step) ?? list[0]).step) : null;
    }
    const before = same(answers).filter((it) => it.step < answer.step);
    if (!before.length) return null;
    return at(before, (this.way === "first" ? before[0] : before.at(-1)).step);
  }

  answer(run, answer, base) {
    const { t, link } = this.app;
    const key = `${run}-${answer.source}-${answer.step}-${answer.row}`;
    const training = answer.source === "training";
    const when = answer.step === 0 ? t("step0") : t("step", { step: answer.step });
    const href = training ? link("answer", { run, step: answer.step, row: answer.row }) : null;
    const fact = (name, x, text) =>
      h("span", { class: "fact" }, `${t(name)} `, h("b", { "data-name": name, "data-value": x }, text));
    return h(
      "li",
      {
        class: "card one-answer",
        id: `a-${key}`,
        "data-row": answer.row,
        "data-step": answer.step,
        "data-source": answer.source,
      },
      h(
        "div",
        { class: "answer-head" },
        h("span", { class: "when" }, href ? h("a", { href }, when) : when),
        h("span", { class: training ? "kind" : "kind evaluated" }, t(answer.source)),
        answer.finish_reason === "length" ? h("span", { class: "kind cut" }, t("finish.length")) : null,
        h(
          "span",
          { class: "facts" },
          fact(
            "score",
            answer.score,
            answer.score === null || answer.score === undefined ? t("unscored") : signed(answer.score, 3),
          ),
          answer.kl === null || answer.kl === undefined ? null : fact("kl", answer.kl, number(answer.kl, 3)),
          answer.length === null || answer.length === undefined
            ? null
            : h(
                "span",
                { class: "fact" },
                h("b", { "data-name": "length", "data-value": answer.length }, answer.length),
                ` ${t("length", { n: answer.length })}`,
              ),
        ),
      ),
      h("div", { class: "text", "data-name": "completion" }, this.text(answer.completion, base?.completion)),
    );
  }

  /** The text of an answer, with what is new in it and what is gone, if it is the other text at all. */
  text(completion, base) {
    const { t } = this.app;
    const text = String(completion ?? "").trimStart();
    if (base === undefined || base === null) return text || h("span", { class: "muted" }, t("empty_answer"));
    const parts = wordDifferences(String(base).trimStart(), text);
    const length = (which) =>
      parts.filter(([kind]) => which.includes(kind)).reduce((sum, [, part]) => sum + part.trim().length, 0);
    const longer = Math.max(length(["same", "added"]), length(["same", "removed"]));
    if (text && length(["same"]) < 0.2 * longer) return [text, h("span", { class: "caption unlike" }, t("unlike"))];
    const nodes = parts.map(([kind, part]) => (kind === "same" ? part : h(kind === "added" ? "ins" : "del", {}, part)));
    return nodes.length ? nodes : h("span", { class: "muted" }, t("empty_answer"));
  }

  // -------------------------------------------------------------------------------------------------- the timeline

  timeline(columns) {
    const { t } = this.app;
    const dots = columns.flatMap(({ run, name, colour, answers }) =>
      (answers ?? [])
        .filter((answer) => typeof answer.score === "number")
        .map((answer) => ({ run, name, colour, answer })),
    );
    if (new Set(dots.map(({ answer }) => answer.step)).size < 2) return null;
    const holder = h("div", { class: "timeline-holder" });
    const draw = () => fill(holder, this.drawing(dots, columns, Math.max(holder.clientWidth, 320)));
    this.watch?.disconnect();
    this.watch = new ResizeObserver(draw);
    this.watch.observe(holder);
    return h("figure", { class: "card timeline" }, h("figcaption", { class: "caption" }, t("axis")), holder);
  }

  drawing(dots, columns, width) {
    const { t } = this.app;
    const [height, left, right, top, bottom] = [150, 44, 14, 10, 22];
    const steps = dots.map(({ answer }) => answer.step);
    const scores = dots.map(({ answer }) => answer.score);
    const [first, last] = [least(steps), most(steps)];
    let [low, high] = [least(scores), most(scores)];
    if (low === high) [low, high] = [low - 1, high + 1];
    const x = (step) => left + ((step - first) / (last - first || 1)) * (width - left - right);
    const y = (score) => top + ((high - score) / (high - low)) * (height - top - bottom);
    const ticks = ticksBetween(low, high, 4);
    const grid = ticks.flatMap((tick) => [
      svg("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: left - 7, y: y(tick) + 4, "text-anchor": "end" }, signed(tick, 3)),
    ]);
    const below = ticksBetween(first, last, Math.min(10, Math.floor(width / 80)))
      .filter(Number.isInteger)
      .map((tick) => svg("text", { x: x(tick), y: height - 5, "text-anchor": "middle" }, String(tick)));
    const lines = columns.flatMap(({ answers, colour }) =>
      ["training", "evaluation"].map((source) =>
        svg("polyline", {
          class: source === "evaluation" ? "mean evaluated" : "mean",
          points: means(answers ?? [], source)
            .map(([step, score]) => `${x(step)},${y(score)}`)
            .join(" "),
          stroke: colour,
        }),
      ),
    );
    const marks = dots.map(({ run, name, colour, answer }) => {
      const training = answer.source === "training";
      const label = t("dot", {
        run: name,
        step: answer.step === 0 ? t("step0") : t("step", { step: answer.step }),
        source: t(answer.source),
        score: signed(answer.score, 3),
        kl: number(answer.kl, 3),
        length: answer.length ?? "–",
      });
      const look = {
        class: training ? "mark" : "mark evaluated",
        stroke: colour,
        fill: training ? colour : null,
        onclick: () => this.jump(`a-${run}-${answer.source}-${answer.step}-${answer.row}`),
      };
      const shape = training
        ? svg("circle", { cx: x(answer.step), cy: y(answer.score), r: 4, ...look })
        : svg("rect", { x: x(answer.step) - 4, y: y(answer.score) - 4, width: 8, height: 8, ...look });
      shape.append(svg("title", {}, label));
      return shape;
    });
    return svg(
      "svg",
      {
        class: "timeline-drawing",
        width,
        height,
        viewBox: `0 0 ${width} ${height}`,
        role: "img",
        "aria-label": t("axis"),
      },
      grid,
      below,
      lines,
      marks,
    );
  }

  /** Show an answer of the list; those that are not drawn yet are drawn first. */
  async jump(id) {
    if (!document.getElementById(id)) {
      this.shown = Infinity;
      await this.drawAnswers();
    }
    const answer = document.getElementById(id);
    if (!answer) return;
    answer.scrollIntoView({ block: "center", behavior: "smooth" });
    answer.classList.add("flash");
    setTimeout(() => answer.classList.remove("flash"), 1600);
  }

  // -------------------------------------------------------------------------------------------------- the keyboard

  keys() {
    const { t } = this.app;
    const turn = (values, now, name) =>
      this.go({ [name]: values[(values.indexOf(now) + 1) % values.length] }, { replace: true });
    return {
      j: [t("key.prompt"), () => this.move(1)],
      k: [t("key.prompt.back"), () => this.move(-1)],
      "/": [t("key.search"), () => this.search.select()],
      s: [t("key.source"), () => turn(SOURCES, this.source, "source")],
      w: [t("key.diff"), () => turn(this.ways(), this.way, "diff")],
    };
  }

  move(by) {
    const at = this.prompts.findIndex((prompt) => prompt.prompt_id === this.prompt);
    const next = this.prompts[at + by];
    if (next) this.go({ prompt: next.prompt_id });
  }
}

function sameTime(one, other) {
  return other !== undefined && one.step === other.step && one.source === other.source;
}

/** [step, mean score] of a source's answers. */
function means(answers, source) {
  const sums = new Map();
  for (const answer of answers) {
    if (answer.source !== source || typeof answer.score !== "number") continue;
    const [sum, n] = sums.get(answer.step) ?? [0, 0];
    sums.set(answer.step, [sum + answer.score, n + 1]);
  }
  return [...sums].map(([step, [sum, n]]) => [step, sum / n]);
}

function ticksBetween(low, high, n) {
  const raw = (high - low || 1) / Math.max(n, 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((it) => it >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function least(numbers) {
  return numbers.reduce((a, b) => Math.min(a, b), Infinity);
}

function most(numbers) {
  return numbers.reduce((a, b) => Math.max(a, b), -Infinity);
}
