// One run or several over each other: headline numbers, charts of all metrics, events, options.

import { dash, draw, drawNow, forget, listen, panel } from "../charts.js";
import { calmly, fill } from "../dom.js";
import { brief, question } from "../explain.js";
import { token } from "../theme.js";
import { alarmList, alarmShapes, alarmWords, planTable, said } from "./alarms.js";
import { CHARTS, GROUPS, PHASES, TILES, UNDRAWN, UNDRAWN_KINDS, words as metricWords } from "./catalogue.js";
import { Course, differing } from "./course.js";
import { frontier, lines, stacked } from "./curves.js";
import { overviewWords as own } from "./overview.words.js";

export const words = {
  en: { ...metricWords.en, ...alarmWords.en, ...own.en },
  zh: { ...metricWords.zh, ...alarmWords.zh, ...own.zh },
};

const EVENT_COLOURS = { skipped: "bad", alarm: "bad", alarm_over: "ink-3", early_stop: "warn", dropped: "ink-3", best: "good" };
const MOST_LINES = 24; // of one kind of event in a chart; more would hide the curves
const EVENTS_SHOWN = 8;
const SMOOTHEST = 0.98;

/** Three or four charts beside each other on a wide screen, whichever leaves fewer holes; two alone are wider. */
function columns(n) {
  if (n <= 2) return 2;
  return (4 - (n % 4)) % 4 < (3 - (n % 3)) % 3 ? 4 : 3;
}

function place(phase) {
  return PHASES.includes(phase) ? PHASES.indexOf(phase) : PHASES.length;
}

export async function show(root, params, app) {
  const page = new Overview(root, params, app);
  await page.open();
  return page;
}

/** The page; what show() gives to the frame is the page itself, for it has update() and dispose(). */
class Overview {
  constructor(root, params, app) {
    Object.assign(this, { root, params, app, t: app.t, h: app.h });
    this.panels = []; // {plot, make() -> [traces, layout]}
  }

  get share() {
    return Math.min(Math.max(Number(this.params.smooth) || 0, 0), SMOOTHEST);
  }

  get range() {
    const [from, to] = [Number(this.params.from), Number(this.params.to)];
    return this.params.from !== undefined && from < to ? [from, to] : null;
  }

  async open() {
    const { app, params } = this;
    this.runs = await Promise.all(params.run.map((id) => app.api(`/api/runs/${encodeURIComponent(id)}`)));
    this.courses = await Promise.all(this.runs.map((run) => new Course(run.id, app.api).read()));
    this.all = await app.runs();
    this.build();
    app.keys({
      "[": [this.t("key.less"), () => this.smoothBy(-0.1)],
      "]": [this.t("key.more"), () => this.smoothBy(0.1)],
      a: [this.t("key.answers"), () => this.openIteration(0, this.runs[0].recorded_steps?.at(-1))],
    });
    app.live((now) => this.renew(now));
    this.printed = () => this.print();
    addEventListener("beforeprint", this.printed);
  }

  /** Paper has all charts, those that were still to come as well; the browser does not wait, so neither does this. */
  print() {
    for (const { plot, make } of this.panels) if (!plot.data) drawNow(plot, ...make());
  }

  dispose() {
    removeEventListener("beforeprint", this.printed);
    this.free();
  }

  free() {
    forget(this.panels.map(({ plot }) => plot));
  }

  /** Going back and forward between zooms and smoothings draws anew; other runs are another page. */
  async update(params) {
    if (params.run.join("\n") !== this.params.run.join("\n")) return false;
    this.params = params;
    this.slider.value = this.share;
    this.drawAll();
    return true;
  }

  /** More has been written. */
  async renew(now) {
    const before = this.signature();
    await Promise.all(this.courses.map((course) => course.read()));
    this.runs = await Promise.all(this.runs.map((run) => this.app.api(`/api/runs/${encodeURIComponent(run.id)}`)));
    if (this.signature() !== before) return this.build();
    this.drawHead();
    this.drawAlarms();
    this.drawEvents();
    this.drawAll();
  }

  /** What decides which charts there are. */
  signature() {
    return JSON.stringify(this.courses.map((course) => [...course.names].sort()));
  }

  set(change) {
    this.params = { ...this.params, ...change };
    this.app.go("overview", this.params, { replace: true, quiet: true });
  }

  smoothBy(by) {
    this.slider.value = Math.round(Math.min(Math.max(this.share + by, 0), SMOOTHEST) * 100) / 100;
    this.slider.dispatchEvent(new Event("input"));
  }

  // -------------------------------------------------------------------------------------------------- the page

  build() {
    this.free();
    this.panels = [];
    const { h, t } = this;
    this.head = h("div", { class: "overview-head" });
    this.alarmCard = h("section", { class: "card alarms", hidden: true });
    this.planCard = h("section", { class: "card plan", hidden: true });
    this.eventCard = h("section", { class: "card events", hidden: true });
    this.notice = h("p", { class: "warn", role: "status", hidden: true });
    const empty = this.courses.every((course) => !course.steps.length);
    fill(
      this.root,
      this.head,
      this.alarmCard,
      this.notice,
      this.controls(),
      empty ? h("div", { class: "card empty" }, t("nothing")) : this.groups(),
      this.eventCard,
      this.planCard,
      this.options(),
    );
    this.drawHead();
    this.drawAlarms();
    this.drawEvents();
    this.drawAll();
  }

  drawHead() {
    const { h, t } = this;
    const one = this.runs.length === 1 ? this.runs[0] : null;
    fill(
      this.head,
      h(
        "header",
        { class: "view-head" },
        one
          ? h("div", {}, h("h1", {}, one.name), h("p", { class: "sub" }, this.line(one)))
          : h("h1", {}, this.runs.map((run) => run.name).join(" · ")),
      ),
      one?.objective && h("p", { class: "note mono objective", "data-name": "objective" }, one.objective),
      this.runs
        .flatMap((run) => Object.entries(run.damaged_lines ?? {}))
        .map(([file, lines]) => h("p", { class: "warn" }, t("damaged", { file, n: lines.length, first: lines[0] }))),
      one ? this.tiles(this.courses[0]) : this.table(),
    );
  }

  line(run) {
    const { h, t, app } = this;
    const far = run.n_steps ? `${app.number(run.step)} / ${app.number(run.n_steps)}` : app.number(run.step);
    return [
      h("span", { class: "kind" }, t(`kind.${run.kind}`)),
      " ",
      h("span", { class: "badge" }, h("i", { class: ["dot", run.state] }), t(`state.${run.state}`)),
      " · ",
      h("span", { class: "tabular", "data-name": "step" }, `${t(run.kind === "ppo" ? "iteration" : "step")} ${far}`),
      run.models?.final && [
        " · ",
        `${t("model")} `,
        h("span", { class: "mono", "data-name": "model" }, run.models.final),
      ],
    ];
  }

  headline(course) {
    return TILES.filter(({ metric }) => course.names.has(metric)).slice(0, 8);
  }

  tiles(course) {
    const { h, t } = this;
    return h(
      "div",
      { class: "tiles", "aria-label": t("headline") },
      this.headline(course).map((tile) => {
        const [[, first], [, last]] = course.ends(tile.metric);
        const way = tile.good && last !== first ? (last > first === (tile.good === "up") ? "good" : "bad") : null;
        return h(
          "div",
          { class: "tile", "data-name": tile.metric, "data-value": last, title: this.titleOf(tile.metric) },
          h("div", { class: "name asked" }, this.tileName(tile.metric), this.question(tile.metric)),
          h("div", { class: "value" }, this.said(last, tile)),
          h(
            "div",
            { class: "from" },
            last === first
              ? "\u00a0"
              : [
                  h("span", { class: way, "aria-hidden": "true" }, last > first ? "▲ " : "▼ "),
                  t("from", { value: this.said(first, tile) }),
                ],
          ),
        );
      }),
    );
  }

  titleOf(metric) {
    return [metric, brief("metric", metric)].filter(Boolean).join("\n");
  }

  question(metric) {
    return question("metric", [metric], this.tileName(metric));
  }

  /** In a chart "batch" says enough, in a tile it does not. */
  tileName(metric) {
    const alone = this.t(`tile.${metric}`);
    return alone === `tile.${metric}` ? this.t(`metric.${metric}`) : alone;
  }

  said(value, { share }) {
    return share ? `${(100 * value).toFixed(1)} %` : this.app.number(value, 3);
  }

  /** Several runs: a row each. */
  table() {
    const { h, t, app } = this;
    const tiles = TILES.filter(({ metric }) => this.courses.some((course) => course.names.has(metric))).slice(0, 8);
    const cell = (course, tile) => {
      const ends = course.ends(tile.metric);
      return h(
        "td",
        { class: "num", "data-name": tile.metric },
        ends ? [h("span", { class: "muted" }, `${this.said(ends[0][1], tile)} → `), this.said(ends[1][1], tile)] : "–",
      );
    };
    return h(
      "div",
      { class: "card flush scroll" },
      h(
        "table",
        { class: "data overlaid" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, t("run")),
            h("th", { class: "num", scope: "col" }, t("iteration")),
            tiles.map((tile) =>
              h(
                "th",
                { class: "num", scope: "col", title: this.titleOf(tile.metric) },
                this.tileName(tile.metric),
                this.question(tile.metric),
              ),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          this.runs.map((run, i) =>
            h(
              "tr",
              {},
              h(
                "th",
                { scope: "row" },
                h(
                  "span",
                  { class: "badge" },
                  h("i", { class: "swatch", style: { background: this.colour(i) } }),
                  h("a", { href: app.link("overview", { run: run.id }) }, run.name),
                ),
              ),
              h("td", { class: "num" }, app.number(run.step)),
              tiles.map((tile) => cell(this.courses[i], tile)),
            ),
          ),
        ),
      ),
    );
  }

  controls() {
    const { h, t, app } = this;
    const others = this.all.filter((run) => !this.params.run.includes(run.id));
    const value = h("output", { class: "num", for: "smooth" }, this.share.toFixed(2));
    const redraw = calmly(() => this.drawAll(), 60);
    this.slider = h("input", {
      id: "smooth",
      type: "range",
      min: 0,
      max: SMOOTHEST,
      step: 0.01,
      value: this.share,
      "aria-label": t("smoothing"),
      oninput: () => {
        this.set({ smooth: Number(this.slider.value) || null });
        value.textContent = this.share.toFixed(2);
        redraw();
      },
    });
    const chips =
      this.runs.length > 1 &&
      this.runs.map((run, i) =>
        h(
          "span",
          { class: "chip" },
          h("i", { class: "swatch", style: { background: this.colour(i) } }),
          run.name,
          h(
            "button",
            {
              type: "button",
              "aria-label": t("remove", { name: run.name }),
              title: t("remove", { name: run.name }),
              onclick: () =>
                app.go("overview", {
                  ...this.params,
                  run: this.params.run.filter((id) => id !== run.id),
                }),
            },
            "×",
          ),
        ),
      );
    const add =
      others.length > 0 &&
      h(
        "select",
        {
          id: "add",
          "aria-label": t("add"),
          onchange: (event) => app.go("overview", { ...this.params, run: [...this.params.run, event.target.value] }),
        },
        h("option", { value: "" }, t("add")),
        others.map((run) => h("option", { value: run.id }, run.name)),
      );
    const marked =
      this.runs.some((run) => this.eventsOf(run).length) &&
      h(
        "label",
        { class: "field" },
        h("input", {
          type: "checkbox",
          id: "mark",
          checked: this.params.events !== "0",
          onchange: (event) => {
            this.set({ events: event.target.checked ? null : "0" });
            this.drawAll();
          },
        }),
        t("mark"),
      );
    return h(
      "div",
      { class: "toolbar controls" },
      chips,
      add,
      h("label", { class: "field" }, t("smoothing"), this.slider, value),
      marked,
      h("span", { class: "caption" }, t(this.runs.some((run) => run.recorded) ? "hint" : "hint.plain")),
    );
  }

  colour(i) {
    const palette = this.app.colours.categorical;
    return palette[i % palette.length];
  }

  // -------------------------------------------------------------------------------------------------- charts

  groups() {
    const { h, t } = this;
    const names = new Set(this.courses.flatMap((course) => [...course.names]));
    const drawn = new Set();
    const cards = new Map(GROUPS.map((group) => [group, []]));
    for (const chart of CHARTS) {
      const metrics = this.metricsOf(chart, names);
      for (const metric of names)
        if (metrics.includes(metric) || chart.lines?.includes(metric) || chart.sources?.test(metric)) drawn.add(metric);
      if (metrics.length && !(chart.frontier && metrics.length < 2))
        cards.get(chart.group).push(this.card(chart, metrics));
    }
    for (const metric of [...names].sort()) {
      if (drawn.has(metric) || UNDRAWN.has(metric) || UNDRAWN_KINDS.test(metric)) continue;
      cards.get("others").push(this.card({ id: metric, title: metric, lines: [metric] }, [metric]));
    }
    return GROUPS.filter((group) => cards.get(group).length).map((group) =>
      h(
        "section",
        { class: "group", "data-group": group },
        h("h2", {}, t(`group.${group}`)),
        h("div", { class: "charts", "data-columns": columns(cards.get(group).length) }, cards.get(group)),
      ),
    );
  }

  /** The metrics of a chart that these runs have. */
  metricsOf({ id, lines = [], frontier, sources, stacked, phases = stacked }, names) {
    const found = (frontier ?? lines).filter((name) => names.has(name));
    const matching = (pattern) => [...names].filter((name) => pattern.test(name)).sort();
    if (phases) return matching(phases).sort((a, b) => place(phases.exec(a)[1]) - place(phases.exec(b)[1]));
    const every = sources ? [...found, ...matching(sources)] : found;
    if (id !== "score") return every;
    // Raw scores and single sources often are the score itself; and the sources of several runs are too many lines.
    const same = (name) =>
      JSON.stringify(this.courses[0].column(name)) === JSON.stringify(this.courses[0].column(every[0]));
    return every.filter((name, i) => i === 0 || (this.runs.length === 1 && !same(name)));
  }

  name(chart, metric) {
    const source = chart.sources?.exec(metric)?.[1];
    if (source) return source;
    const phase = (chart.stacked ?? chart.phases)?.exec(metric)?.[1];
    const key = phase ? `phase.${phase}` : `metric.${metric}`;
    const text = this.t(key);
    return text === key ? (phase ?? metric) : text;
  }

  caption(chart, metrics) {
    if (chart.frontier) return this.t("why.frontier");
    const said = brief("metric", chart.why ?? metrics[0]) || this.t("other");
    return chart.spread ? `${said} ${this.t("band")}` : said;
  }

  card(chart, metrics) {
    const several = this.runs.length > 1;
    const legend = chart.frontier
      ? []
      : metrics.map((metric, n) => ({
          name: this.name(chart, metric),
          colour: several && !chart.stacked ? token("ink-2") : this.colour(n),
          dash: chart.stacked ? "bar" : several ? dash(n) : null,
        }));
    const title = chart.title ?? this.t(`chart.${chart.id}`);
    const { figure, plot } = panel({
      id: chart.id,
      title,
      unit: chart.unit && this.t(`unit.${chart.unit}`),
      caption: this.caption(chart, metrics),
      legend,
      more: question("metric", chart.spread ? [...metrics, chart.spread] : metrics, title),
    });
    const make = () =>
      chart.frontier
        ? frontier(this, chart)
        : chart.stacked
          ? stacked(this, chart, metrics)
          : lines(this, chart, metrics);
    this.panels.push({ plot, make, chart, heard: false });
    return figure;
  }

  drawAll() {
    return this.drawInTurn().catch((error) => {
      this.notice.textContent = error.message;
      this.notice.hidden = false;
    });
  }

  async drawInTurn() {
    const turn = (this.turn = {});
    for (const it of this.panels) {
      const [traces, look] = it.make();
      await draw(it.plot, traces, look);
      if (turn !== this.turn || !it.plot.data) return;
      if (!it.heard) this.hear(it);
      // Let the browser breathe between charts.
      await new Promise((resolve) => setTimeout(resolve));
    }
  }

  hear(it) {
    it.heard = true;
    listen(it.plot, {
      click: (point) =>
        this.openIteration(
          point.data.meta?.run ?? 0,
          point.data.meta?.steps ? point.data.meta.steps[point.pointNumber] : point.x,
        ),
      zoom: it.chart.frontier ? null : (range) => this.zoom(range),
    });
  }

  zoom(range) {
    const [from, to] = range ?? [null, null];
    const short = (value) => (value === null ? null : Number(value.toFixed(2)));
    if (short(from) === (this.range?.[0] ?? null) && short(to) === (this.range?.[1] ?? null)) return;
    this.set({ from: short(from), to: short(to) });
    this.drawAll();
  }

  openIteration(i, step) {
    const run = this.runs[i];
    if (run?.recorded_steps?.includes(step)) this.app.go("iteration", { run: run.id, step });
  }

  // -------------------------------------------------------------------------------------------------- events

  eventsOf(run) {
    return run.events ?? [];
  }

  /** What happened, in the language of the page; in the server's words where it has them, or it is news to this page. */
  told({ kind, value, text, words }, run) {
    if (words) return said(words);
    const own = this.t(`told.${kind}`, { n: this.app.number(value), metric: run.best?.metric ?? "" });
    return own.startsWith("told.") ? text : own;
  }

  frequent(events) {
    const counts = new Map();
    for (const { kind } of events) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    return new Map([...counts].filter(([kind, n]) => n > MOST_LINES && kind !== "best"));
  }

  /** What a chart of these metrics marks: events, and the alarms about one of them. */
  marks(metrics) {
    if (this.params.events === "0") return [];
    const events = this.runs.flatMap((run) => {
      const events = this.eventsOf(run);
      const often = this.frequent(events);
      const best = events.findLast(({ kind }) => kind === "best");
      return events
        .filter((event) => !often.has(event.kind) && event.kind !== "alarm_over")
        .filter((event) => event.kind !== "best" || event === best)
        .map(({ step, kind }) => ({
          type: "line",
          xref: "x",
          yref: "paper",
          x0: step,
          x1: step,
          y0: 0,
          y1: 1,
          layer: "below",
          opacity: 0.55,
          line: {
            color: token(EVENT_COLOURS[kind] ?? "warn"),
            width: 1,
            dash: kind === "best" ? "solid" : "dot",
          },
        }));
    });
    return [...alarmShapes(this, metrics), ...events];
  }

  drawAlarms() {
    const alarms = alarmList(this);
    this.alarmCard.hidden = !alarms.length;
    fill(this.alarmCard, this.h("h2", {}, this.t("alarms")), this.h("ul", {}, alarms));
    const plan = this.runs.length === 1 ? planTable(this.runs[0], this) : null;
    this.planCard.hidden = !plan;
    fill(this.planCard, this.h("h2", {}, this.t("plan")), plan);
  }

  drawEvents() {
    const { h, t, app } = this;
    const rows = this.runs.flatMap((run) => this.eventsOf(run).map((event) => ({ ...event, run })));
    this.eventCard.hidden = !rows.length;
    const often = this.runs.flatMap((run) => [...this.frequent(this.eventsOf(run))]);
    const step = ({ step, run }) =>
      run.recorded_steps?.includes(step) ? h("a", { href: app.link("iteration", { run: run.id, step }) }, step) : step;
    const known = (kind) => (t(`event.${kind}`) === `event.${kind}` ? kind : t(`event.${kind}`));
    const shown = this.everyEvent ? rows : rows.slice(-EVENTS_SHOWN);
    fill(
      this.eventCard,
      h("h2", {}, t("events")),
      often.map(([kind, n]) => h("p", { class: "caption" }, t("events.many", { what: known(kind), n }))),
      h(
        "table",
        { class: "data" },
        h(
          "tbody",
          {},
          shown.map((event) =>
            h(
              "tr",
              { "data-kind": event.kind },
              h("td", { class: "num" }, step(event)),
              h(
                "td",
                {},
                h(
                  "span",
                  { class: "badge" },
                  h("i", {
                    class: "event",
                    style: { "--c": `var(--${EVENT_COLOURS[event.kind] ?? "warn"})` },
                  }),
                  known(event.kind),
                ),
              ),
              h(
                "td",
                {},
                this.runs.length > 1 && h("span", { class: "muted" }, `${event.run.name}: `),
                this.told(event, event.run),
              ),
            ),
          ),
        ),
      ),
      shown.length < rows.length &&
        h(
          "button",
          {
            class: "quiet",
            type: "button",
            onclick: () => {
              this.everyEvent = true;
              this.drawEvents();
            },
          },
          t("show_all", { n: rows.length }),
        ),
    );
  }

  // -------------------------------------------------------------------------------------------------- options

  options() {
    const { h, t } = this;
    const opened = (event) => this.set({ config: event.target.open ? "1" : null });
    const file = (run) =>
      run.config &&
      h(
        "details",
        { class: "card", open: this.params.config === "1", ontoggle: opened },
        h("summary", {}, t("options", { name: run.name })),
        h("pre", { class: "config" }, run.config),
      );
    if (this.runs.length === 1) return file(this.runs[0]);
    const rows = differing(this.runs);
    return h(
      "section",
      { class: "card" },
      h("h2", {}, t("differ")),
      rows.length === 0
        ? h("p", { class: "caption" }, t("differ.none"))
        : h(
            "div",
            { class: "scroll" },
            h(
              "table",
              { class: "data differ" },
              h(
                "thead",
                {},
                h(
                  "tr",
                  {},
                  h("th", { scope: "col" }, t("option")),
                  this.runs.map((run) => h("th", { scope: "col" }, run.name)),
                ),
              ),
              h(
                "tbody",
                {},
                rows.map(({ name, values }) =>
                  h(
                    "tr",
                    {},
                    h("th", { scope: "row", class: "mono" }, name),
                    values.map((value) => h("td", { class: "mono" }, value)),
                  ),
                ),
              ),
            ),
          ),
    );
  }
}
