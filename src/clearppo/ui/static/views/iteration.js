// All answers of an iteration: a table to search, to filter and to sort, page by page, and how their numbers spread.

import { calmly, fill, h, number } from "../dom.js";
import { brief, question } from "../explain.js";
import { histogram, rounded } from "./draw.js";
import { cleared, listing, RANGES } from "./listing.js";
import { direction, signed } from "./quantities.js";
import { found, promptLine } from "./text.js";

export { words } from "./iteration.words.js";

const SIZES = [25, 50, 100, 200];
const PRESETS = {
  best: ["score", "desc"],
  worst: ["score", "asc"],
  lucky: ["advantage", "desc"],
  unlucky: ["advantage", "asc"],
  far: ["kl", "desc"],
  long: ["length", "desc"],
};
const FIRST_DOWN = new Set(["score", "raw_score", "kl", "reward", "advantage", "length"]); // the first click sorts these from the top

export async function show(root, given, app) {
  const page = new IterationPage(root, app);
  await page.open(given);
  app.keys(page.keys());
  app.live(() => page.refresh());
  // What cannot be opened is shown anew, and the frame then says why.
  return { update: (params) => page.open(params).catch(() => false) };
}

class IterationPage {
  constructor(root, app) {
    this.root = root;
    this.app = app;
    this.asked = 0;
    this.slowly = calmly((changes) => this.go(changes, { replace: true }), 180);
  }

  async open(params) {
    const { app } = this;
    this.params = { ...params };
    if (this.run?.id !== params.run[0]) {
      this.run = await app.api(this.path());
      this.drawn = false;
    }
    const steps = this.run.recorded_steps ?? [];
    if (!steps.length) return fill(this.root, h("p", { class: "empty card" }, app.t("no_steps")));
    this.following = params.step === undefined;
    this.step = this.following ? steps.at(-1) : Number(params.step);
    const size = Number(params.limit);
    this.size = SIZES.includes(size) ? size : 50;
    this.offset = Math.max(0, Number.parseInt(params.offset ?? "0", 10) || 0);
    await this.load();
  }

  path(...more) {
    return ["/api/runs", encodeURIComponent(this.params.run[0]), ...more].join("/");
  }

  async load() {
    const turn = ++this.asked;
    this.body?.classList.add("stale");
    const query = new URLSearchParams({ ...listing(this.params), offset: this.offset, limit: this.size });
    const page = await this.app.api(`${this.path("iterations", this.step)}?${query}`);
    if (turn !== this.asked) return;
    this.page = page;
    if (!this.drawn) this.draw();
    this.renew();
  }

  /** A running run has a new iteration, or an old one less. */
  async refresh() {
    const run = await this.app.api(this.path());
    const changed = String(run.recorded_steps) !== String(this.run.recorded_steps);
    this.run = run;
    if (!changed) return;
    if (!this.page || this.following) await this.open(this.params);
    else this.renewSteps();
  }

  go(changes, { replace = false } = {}) {
    this.app.go("iteration", { ...this.params, ...changes }, { replace });
  }

  /** Another list: from its beginning. */
  list(changes, options) {
    this.go({ ...changes, offset: undefined, row: undefined }, options);
  }

  // -------------------------------------------------------------------------------------------------- the frame

  draw() {
    const { t } = this.app;
    this.heading = h("h1", { id: "iteration-title" });
    this.about = h("p", { class: "sub" });
    this.stepper = h("div", { class: "stepper" });
    this.spreads = h("div", { class: "spreads" });
    this.search = h("input", {
      type: "search",
      id: "search",
      placeholder: `${t("search")}  /`,
      "aria-label": t("search"),
      value: this.params.q ?? "",
      oninput: (event) => this.slowly({ q: event.target.value || undefined, offset: undefined, row: undefined }),
    });
    this.chips = h("div", { class: "chips" });
    this.presets = h("div", { class: "presets" });
    this.head = h("thead", {});
    this.body = h("tbody", {});
    this.pager = h("div", { class: "pager" });
    fill(
      this.root,
      h(
        "header",
        { class: "iteration-head" },
        h("div", { class: "view-head" }, this.heading, this.stepper),
        this.about,
      ),
      this.spreads,
      h(
        "div",
        { class: "card flush answers-card" },
        h("div", { class: "toolbar list-tools" }, this.search, this.presets, this.chips),
        h("div", { class: "scroll" }, (this.table = h("table", { class: "data answers" }, this.head, this.body))),
        this.pager,
      ),
    );
    this.drawSteps();
    this.columns = null;
    this.drawn = true;
  }

  drawSteps() {
    const { t } = this.app;
    const at = () => this.run.recorded_steps.indexOf(this.step);
    const by = (n) => this.toStep(at() + n);
    this.slider = h("input", {
      type: "range",
      id: "step",
      min: 0,
      "aria-label": t("step"),
      oninput: (event) => this.slide(Number(event.target.value)),
    });
    this.first = h(
      "button",
      {
        type: "button",
        id: "previous-step",
        class: "square",
        title: `${t("previous_step")} (←)`,
        "aria-label": t("previous_step"),
        onclick: () => by(-1),
      },
      "‹",
    );
    this.last = h(
      "button",
      {
        type: "button",
        id: "next-step",
        class: "square",
        title: `${t("next_step")} (→)`,
        "aria-label": t("next_step"),
        onclick: () => by(1),
      },
      "›",
    );
    this.follow = h(
      "button",
      {
        type: "button",
        id: "newest",
        title: `${t("newest_what")} (0)`,
        onclick: () => this.go({ step: undefined, offset: undefined, row: undefined }),
      },
      t("newest"),
    );
    this.counted = h("span", { class: "muted" });
    fill(this.stepper, this.first, this.slider, this.last, this.counted, this.follow);
  }

  toStep(i) {
    const steps = this.run.recorded_steps;
    if (i >= 0 && i < steps.length) this.go({ step: steps[i], offset: undefined, row: undefined });
  }

  slide(i) {
    const step = this.run.recorded_steps[i];
    this.heading.textContent = this.app.t("title", { step });
    this.slowly({ step, offset: undefined, row: undefined });
  }

  // -------------------------------------------------------------------------------------------------- what changes

  renew() {
    this.renewSteps();
    this.renewAbout();
    this.renewSpreads();
    this.renewTools();
    this.renewHead();
    this.renewRows();
    this.renewPager();
    this.root.dataset.step = String(this.step);
  }

  renewSteps() {
    const { t } = this.app;
    const steps = this.run.recorded_steps;
    const at = steps.indexOf(this.step);
    this.slider.max = String(steps.length - 1);
    if (at >= 0) this.slider.value = String(at);
    this.slider.setAttribute("aria-valuetext", t("title", { step: this.step }));
    this.first.disabled = at <= 0;
    this.last.disabled = at < 0 || at === steps.length - 1;
    this.follow.setAttribute("aria-pressed", String(this.following));
    this.counted.textContent = t("of", { n: steps.length });
  }

  renewAbout() {
    const { t } = this.app;
    const { meta, total, unscored, finish_reasons: finish } = this.page;
    const { clip, clip_high: high } = meta.objective ?? {};
    const tokens = number(meta.n_tokens);
    const says = [
      total < meta.n_answers
        ? t("some", { n: number(total), all: number(meta.n_answers), tokens })
        : t("answers", { n: number(total), tokens }),
      finish.length ? t("meta.cut", { n: number(finish.length) }) : null,
      unscored ? t("meta.unscored", { n: number(unscored) }) : null,
      t(`meta.${meta.estimator}`, { gamma: meta.gamma, lam: meta.lam, n: meta.group_size }),
      t("meta.kl", { coef: number(meta.kl_coef), estimator: meta.kl_estimator }),
      clip ? t("meta.clip", { clip: high && high !== clip ? `${clip} / ${high}` : clip }) : t("meta.noclip"),
      meta.whiten_advantages ? t("meta.white") : null,
      t("meta.passes", { epochs: meta.epochs, n: meta.num_mini_batches }),
      t("meta.rate", { rate: number(meta.learning_rate, 3) }),
      meta.temperature === 1 ? null : t("meta.temperature", { t: meta.temperature }),
      meta.critic_only ? t("meta.warm") : null,
    ];
    this.heading.textContent = t("title", { step: this.step });
    this.about.textContent = says.filter(Boolean).join(" · ");
  }

  renewSpreads() {
    const { summary } = this.page;
    const names = RANGES.filter((name) => summary[name]?.counts.length > 1);
    this.spreads.hidden = !names.length;
    fill(
      this.spreads,
      names.map((name) => this.spread(name, summary[name])),
    );
  }

  /** How a number is spread over all answers; what is clicked or dragged over becomes a filter. */
  spread(name, { min, max, mean, edges, counts }) {
    const { t } = this.app;
    const bound = (key) => (this.params[key] === undefined ? null : Number(this.params[key]));
    const [low, high] = [bound(`min_${name}`), bound(`max_${name}`)];
    const last = (to) => (name === "length" ? to - 1 : to); // a bin of whole numbers ends before the next begins
    const says = { name: t(name), n: counts.reduce((a, b) => a + b, 0), low: number(min, 3), high: number(max, 3) };
    const picture = histogram(
      { edges, counts },
      {
        label: t("spread", { ...says, mean: number(mean, 3) }),
        within: (from, to) => (low === null || last(to) >= low) && (high === null || from <= high),
        describe: (from, to, count) => t("bin", { low: number(from, 3), high: number(last(to), 3), n: count }),
        choose: (from, to) =>
          this.list({ [`min_${name}`]: short(from, Math.floor), [`max_${name}`]: short(last(to), Math.ceil) }),
      },
    );
    return h(
      "figure",
      { class: "card spread", "data-name": name, title: t("spread.hint") },
      h(
        "figcaption",
        {},
        h("span", { class: "asked" }, t(name), question("column", [`answer.${name}`], t(name))),
        h("span", { class: "muted" }, t("spread.mean", { x: number(mean, 3) })),
      ),
      picture,
      h("div", { class: "ends" }, h("span", {}, number(min, 3)), h("span", {}, number(max, 3))),
    );
  }

  renewTools() {
    const { t } = this.app;
    const { params } = this;
    if (document.activeElement !== this.search) this.search.value = params.q ?? "";
    const preset = ([key, [sort, order]]) => {
      const on = params.sort === sort && (params.order ?? "desc") === order;
      return h(
        "button",
        {
          type: "button",
          class: "quiet",
          "data-preset": key,
          "aria-pressed": String(on),
          onclick: () => this.list(on ? { sort: undefined, order: undefined } : { sort, order }),
        },
        t(key),
      );
    };
    fill(this.presets, h("span", { class: "muted" }, t("presets")), Object.entries(PRESETS).map(preset));
    const chip = (key, text) =>
      h(
        "span",
        { class: "chip", "data-filter": key },
        text,
        h(
          "button",
          {
            type: "button",
            "aria-label": `${t("remove")}: ${text}`,
            onclick: () => this.list({ [key]: undefined }),
          },
          "×",
        ),
      );
    const active = [];
    for (const name of RANGES) {
      if (params[`min_${name}`])
        active.push(chip(`min_${name}`, t("at.least", { name: t(name), x: params[`min_${name}`] })));
      if (params[`max_${name}`])
        active.push(chip(`max_${name}`, t("at.most", { name: t(name), x: params[`max_${name}`] })));
    }
    if (params.finish) active.push(chip("finish", t(`finish.${params.finish}`)));
    if (params.learned) active.push(chip("learned", t(`learned.${params.learned}`)));
    if (params.prompt_id) active.push(chip("prompt_id", t("prompt_filter")));
    if (params.q) active.push(chip("q", `“${params.q}”`));
    this.chips.hidden = !active.length;
    fill(
      this.chips,
      active,
      active.length
        ? h("button", { type: "button", class: "quiet", id: "clear", onclick: () => this.clear() }, t("clear"))
        : null,
    );
  }

  clear() {
    if (!this.page) return;
    this.search.value = "";
    const { sort, order } = this.params;
    this.list({ ...cleared(this.params), sort, order });
  }

  /** The columns change only with the sources of the score; the filters' fields keep what is being typed. */
  renewHead() {
    const { t } = this.app;
    const sources = Object.keys(this.page.rows[0]?.parts ?? {});
    const columns = [
      "row",
      "prompt",
      "completion",
      "score",
      ...(sources.length > 1 ? sources.map((source) => `parts.${source}`) : []),
      "kl",
      "reward",
      "advantage",
      "length",
      "finish_reason",
    ];
    if (!this.columns || (this.page.rows.length && String(columns) !== String(this.columns))) {
      this.columns = columns;
      const label = (name) => (name.startsWith("parts.") ? breakable(name.slice(6)) : t(name));
      this.heads = columns.map((name) =>
        h(
          "th",
          { scope: "col", "data-column": name, class: textual(name) ? null : "num" },
          h(
            "button",
            { type: "button", class: "sort", title: brief("column", `answer.${name}`) || null, onclick: () => this.sort(name) },
            label(name),
          ),
        ),
      );
      fill(
        this.head,
        h("tr", {}, this.heads),
        h(
          "tr",
          { class: "filters" },
          columns.map((name) => h("td", {}, this.filter(name))),
        ),
      );
    }
    const { sort, order } = this.params;
    this.heads.forEach((head, i) =>
      this.columns[i] === sort
        ? head.setAttribute("aria-sort", order === "desc" ? "descending" : "ascending")
        : head.removeAttribute("aria-sort"),
    );
    for (const field of this.head.querySelectorAll("[data-bound], [data-choice]")) {
      if (document.activeElement !== field)
        field.value = this.params[field.dataset.bound ?? field.dataset.choice] ?? "";
    }
    this.table.setAttribute("aria-label", t("table", { step: this.step }));
  }

  filter(name) {
    const { t } = this.app;
    if (RANGES.includes(name)) {
      const bound = (end) =>
        h("input", {
          type: "text",
          inputmode: "decimal",
          id: `${end}_${name}`,
          "data-bound": `${end}_${name}`,
          placeholder: t(end),
          "aria-label": t(`${end}.of`, { name: t(name) }),
          oninput: (event) => this.bound(event.target),
        });
      return h("div", { class: "bounds" }, bound("min"), bound("max"));
    }
    const choice = (key, values) =>
      h(
        "select",
        {
          id: key,
          "data-choice": key,
          "aria-label": t(name),
          onchange: (event) => this.list({ [key]: event.target.value || undefined }),
        },
        h("option", { value: "" }, t(`${key}.any`)),
        values.map((value) => h("option", { value }, t(`${key}.${value}`))),
      );
    if (name === "finish_reason")
      return h("div", { class: "bounds" }, choice("finish", ["stop", "length"]), choice("learned", ["true", "false"]));
    return null;
  }

  /** A bound is asked for once it is a number. */
  bound(field) {
    const text = field.value.trim().replace("−", "-");
    const valid = text === "" || Number.isFinite(Number(text));
    field.setAttribute("aria-invalid", String(!valid));
    if (valid) this.slowly({ [field.dataset.bound]: text || undefined, offset: undefined, row: undefined });
  }

  sort(name) {
    const { sort, order } = this.params;
    const down = sort === name ? order !== "desc" : FIRST_DOWN.has(name) || name.startsWith("parts.");
    this.list({ sort: name, order: down ? "desc" : "asc" });
  }

  // -------------------------------------------------------------------------------------------------- rows

  renewRows() {
    const { t } = this.app;
    const { rows } = this.page;
    this.body.classList.remove("stale");
    const limits = Object.fromEntries(["score", "reward", "advantage", "kl"].map((name) => [name, this.limit(name)]));
    if (!rows.length) {
      fill(this.body, h("tr", {}, h("td", { colspan: this.columns.length, class: "empty" }, t("none"))));
      this.at = null;
      return;
    }
    this.rows = rows.map((row, i) => this.row(row, i, limits));
    fill(this.body, this.rows);
    const wanted = rows.findIndex((row) => String(row.row) === this.params.row);
    this.mark(wanted >= 0 ? wanted : null);
    if (wanted > 0) this.rows[wanted].scrollIntoView({ block: "nearest" });
  }

  /** Where a column's bars end: the same on every page. */
  limit(name) {
    const { min, max } = this.page.summary[name] ?? { min: 0, max: 0 };
    return rounded(Math.max(Math.abs(min), Math.abs(max)));
  }

  row(row, i, limits) {
    const { t } = this.app;
    const query = this.params.q ?? "";
    const href = this.answerLink(row, i);
    const cell = {
      row: () =>
        h("td", { class: "num" }, h("a", { href, "aria-label": t("open", { row: row.row }) }, String(row.row))),
      prompt: () =>
        h(
          "td",
          { class: "text-cell", "data-name": "prompt" },
          h("div", { class: "clamp soft" }, found(promptLine(row.prompt), query)),
        ),
      completion: () =>
        h(
          "td",
          { class: "text-cell", "data-name": "completion" },
          h("div", { class: "clamp" }, found(answerLine(row.completion), query)),
        ),
      length: () => this.plain("length", row.length, String(row.length)),
      finish_reason: () =>
        h(
          "td",
          { "data-name": "finish_reason" },
          h("span", { class: row.finish_reason === "length" ? "kind cut" : "kind" }, t(`finish.${row.finish_reason}`)),
          row.learned ? null : h("span", { class: "kind bad" }, t("unlearned")),
        ),
    };
    const cells = this.columns.map((name) => {
      if (cell[name]) return cell[name]();
      if (name.startsWith("parts."))
        return this.plain(name, row.parts?.[name.slice(6)], signed(row.parts?.[name.slice(6)]));
      return this.measured(name, row[name], limits[name]);
    });
    return h(
      "tr",
      { "data-row": row.row, onclick: (event) => event.target.closest("a") ?? this.choose(event, href, i) },
      cells,
    );
  }

  answerLink(row, i) {
    const { run } = this.params;
    return this.app.link("answer", {
      run,
      step: this.step,
      row: row.row,
      at: this.offset + i,
      limit: undefined,
      ...listing(this.params),
      size: this.size === 50 ? undefined : this.size,
    });
  }

  plain(name, x, text) {
    return h("td", { class: "num", "data-name": name, "data-value": x }, text);
  }

  /** A number, with a bar from the middle: to the left below 0, to the right above. */
  measured(name, x, limit) {
    if (x === null || x === undefined) return this.plain(name, null, "–");
    const share = Math.min(Math.abs(x) / limit, 1) * 50;
    const bar = h("i", {
      style: { left: `${x < 0 ? 50 - share : 50}%`, width: `${share}%`, background: direction(x) },
    });
    return h(
      "td",
      { class: "num", "data-name": name, "data-value": x },
      signed(x),
      h("span", { class: "meter", "aria-hidden": "true" }, bar),
    );
  }

  /** A click anywhere in a row opens it; selecting text does not. */
  choose(event, href, i) {
    if (getSelection()?.toString()) return;
    this.mark(i);
    if (event.ctrlKey || event.metaKey) window.open(href, "_blank", "noopener");
    else location.hash = href;
  }

  mark(i) {
    this.rows?.[this.at]?.classList.remove("here");
    this.at = i;
    this.rows?.[i]?.classList.add("here");
  }

  move(by) {
    if (!this.rows?.length || !this.page.rows.length) return;
    const next = this.at === null ? (by > 0 ? 0 : this.rows.length - 1) : this.at + by;
    if (next < 0 || next >= this.rows.length) return;
    this.mark(next);
    this.rows[next].scrollIntoView({ block: "nearest" });
    this.rows[next].querySelector("a").focus({ preventScroll: true });
    this.params.row = String(this.page.rows[next].row);
    this.app.go("iteration", this.params, { replace: true, quiet: true });
  }

  renewPager() {
    const { t } = this.app;
    const { matching, total, rows } = this.page;
    const turn = (by) =>
      h(
        "button",
        {
          type: "button",
          id: by < 0 ? "page-before" : "page-after",
          disabled: by < 0 ? this.offset === 0 : this.offset + rows.length >= matching,
          onclick: () => this.turn(by),
        },
        by < 0 ? `‹ ${t("page_before")}` : `${t("page_after")} ›`,
      );
    const sizes = h(
      "select",
      {
        id: "page-size",
        "aria-label": t("per_page"),
        value: String(this.size),
        onchange: (event) =>
          this.go({ limit: event.target.value === "50" ? undefined : event.target.value, offset: undefined }),
      },
      SIZES.map((n) => h("option", { value: String(n) }, n)),
    );
    fill(
      this.pager,
      h(
        "span",
        { "data-name": "matching", "data-value": matching, role: "status" },
        rows.length
          ? t("shown", {
              from: number(this.offset + 1),
              to: number(this.offset + rows.length),
              n: number(matching),
            })
          : "",
        matching === total
          ? ""
          : h("span", { class: "muted" }, ` · ${t("matching", { n: number(matching), all: number(total) })}`),
      ),
      h("label", { class: "field" }, sizes, t("per_page")),
      h("span", { class: "turns" }, turn(-1), turn(1)),
    );
  }

  turn(by) {
    const offset = Math.max(0, this.offset + by * this.size);
    if (!this.page) return; // nothing is recorded yet
    if (offset < this.page.matching && offset !== this.offset) this.go({ offset: offset || undefined, row: undefined });
  }

  keys() {
    const { t } = this.app;
    return {
      j: [t("key.row"), () => this.move(1)],
      k: [t("key.row.back"), () => this.move(-1)],
      Enter: [t("key.open"), () => this.rows?.[this.at]?.querySelector("a").click()],
      "/": [t("key.search"), () => this.search?.select()],
      ArrowRight: [t("key.step"), () => this.last?.click()],
      ArrowLeft: [t("key.step.back"), () => this.first?.click()],
      n: [t("key.page"), () => this.turn(1)],
      p: [t("key.page.back"), () => this.turn(-1)],
      0: [t("key.newest"), () => this.follow?.click()],
      x: [t("key.clear"), () => this.clear()],
    };
  }
}

/** A name that may be broken at its underscores. */
function breakable(name) {
  return name.split(/(?<=_)/).flatMap((part, i) => (i ? [h("wbr", {}), part] : [part]));
}

function textual(name) {
  return name === "prompt" || name === "completion" || name === "finish_reason";
}

/** An answer in a cell: its lines one after another. */
function answerLine(text) {
  return String(text ?? "").replace(/\n+/g, " ⏎ ");
}

/** A bound with few digits, rounded outwards so that what lies on it stays in. */
function short(x, round) {
  if (Number.isInteger(x)) return String(x);
  const factor = 10 ** (3 - Math.floor(Math.log10(Math.abs(x) || 1)));
  return String(Number((round(x * factor) / factor).toPrecision(6)));
}
