// All runs below the folder: what they are, how far, and the course of their main number.

import { calmly, fill } from "../dom.js";
import { language } from "../i18n.js";
import { alarmBadge, alarmWords } from "./alarms.js";
import { words as own } from "./runs.words.js";

export const words = { en: { ...alarmWords.en, ...own.en }, zh: { ...alarmWords.zh, ...own.zh } };

const MAIN = { ppo: ["objective/scores"], sft: ["loss"], reward: ["eval/accuracy", "accuracy"] };
const COLUMNS = {
  name: (run) => run.name,
  kind: (run) => run.kind,
  state: (run) => run.state,
  progress: (run) => run.step,
  updated: (run) => run.updated,
};
const SHARES = new Set(["eval/accuracy", "accuracy"]);
const COURSES_DRAWN = 40;

export async function show(root, params, app) {
  const { t, h } = app;
  const courses = new Map(); // id -> {updated, values, share}
  const drawn = new Map(); // id -> its line, kept as long as the page: a box may just be clicked
  let here = 0;
  let runs = await app.runs();

  const state = () => ({
    q: params.q ?? "",
    sort: params.sort ?? "updated",
    order: params.order ?? "desc",
    chosen: params.run,
  });
  const set = (change) => {
    params = { ...params, ...change };
    app.go("runs", params, { replace: true, quiet: true });
    draw();
  };

  const find = h("input", {
    id: "find",
    type: "search",
    value: state().q,
    placeholder: t("find"),
    "aria-label": t("find"),
    oninput: calmly((event) => set({ q: event.target.value }), 120),
  });
  const actions = h("div", { class: "toolbar" });
  const body = h("div", {});
  const where = h("p", { class: "sub mono" });
  fill(
    root,
    h(
      "header",
      { class: "view-head" },
      h("div", {}, h("h1", {}, t("title")), where),
      h("div", { class: "toolbar" }, actions, find),
    ),
    body,
    h("p", { class: "caption" }, t("course.caption")),
  );
  where.textContent = t("below", { root: (await app.api("/api/runs")).root });

  const visible = () => {
    const { q, sort, order } = state();
    const value = COLUMNS[sort] ?? COLUMNS.updated;
    const sign = order === "asc" ? 1 : -1;
    const found = runs.filter((run) => run.name.toLowerCase().includes(q.toLowerCase()));
    return found.sort(
      (a, b) => sign * (value(a) > value(b) ? 1 : value(a) < value(b) ? -1 : 0) || a.name.localeCompare(b.name),
    );
  };

  const table = h("tbody", {});
  const frame = h("div", { class: "card flush scroll" });
  let sorted = null;
  let offered = null;

  function draw() {
    const rows = visible();
    here = Math.max(0, Math.min(here, rows.length - 1));
    const { q, chosen } = state();
    const known = chosen.filter((id) => runs.some((run) => run.id === id));
    const told = JSON.stringify([known, runs.length > 1]);
    if (told !== offered)
      fill(
        actions,
        known.length
          ? [
              h("button", { class: "quiet", type: "button", onclick: () => set({ run: [] }) }, t("clear")),
              h(
                "button",
                {
                  class: "primary",
                  id: "overlay",
                  type: "button",
                  onclick: () => app.go("overview", { run: known }),
                },
                t("overlay", { n: known.length }),
              ),
            ]
          : runs.length > 1 && h("span", { class: "muted" }, t("overlay_none")),
      );
    offered = told;
    if (!rows.length)
      return fill(
        body,
        h("div", { class: "card empty" }, q ? t("nothing", { q }) : t("none", { root: where.textContent })),
      );
    const { sort, order } = state();
    if (sorted !== `${sort} ${order}`) {
      sorted = `${sort} ${order}`;
      fill(frame, h("table", { class: "data runs" }, head(), table));
    }
    if (!frame.isConnected) fill(body, frame);
    const lines = rows.map(row);
    if (lines.length !== table.children.length || lines.some((line, i) => line !== table.children[i]))
      fill(table, lines);
  }

  function head() {
    const { sort, order } = state();
    const by = (name, cls) =>
      h(
        "th",
        {
          scope: "col",
          class: cls,
          "aria-sort": sort === name ? (order === "asc" ? "ascending" : "descending") : "none",
        },
        h(
          "button",
          {
            class: "sort",
            type: "button",
            id: `by-${name}`,
            onclick: () => set({ sort: name, order: sort === name && order === "desc" ? "asc" : "desc" }),
          },
          t(name),
        ),
      );
    const plain = (name, cls) => h("th", { scope: "col", class: cls }, t(name));
    return h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", {}),
        by("name"),
        by("kind"),
        by("state"),
        by("progress"),
        plain("course"),
        plain("record"),
        by("updated", "num"),
      ),
    );
  }

  /** The line of a run, with what is true of it now. */
  function row(run, i) {
    if (!drawn.has(run.id)) drawn.set(run.id, { line: newRow(run), told: {} });
    const { line, told } = drawn.get(run.id);
    line.dataset.row = i;
    line.classList.toggle("here", i === here);
    line.querySelector("input").checked = state().chosen.includes(run.id);
    const put = (name, of, make) => {
      const now = JSON.stringify(of);
      if (told[name] === now) return;
      told[name] = now;
      fill(line.querySelector(`[data-name="${name}"]`), make());
    };
    put("state", run.state, () =>
      h("span", { class: "badge" }, h("i", { class: ["dot", run.state] }), t(`state.${run.state}`)),
    );
    put("alarms", run.alarms, () => alarmBadge(run.alarms, app));
    put("step", [run.step, run.n_steps], () => progress(run));
    put("course", courses.get(run.id)?.updated ?? null, () => sparkline(run));
    put("recorded", [run.recorded, run.reward_report], () => extras(run));
    put("updated", ago(run.updated), () => ago(run.updated));
    line.lastChild.title = new Date(run.updated * 1000).toLocaleString(language());
    return line;
  }

  function newRow(run) {
    const folder = run.name.includes("/") ? run.name.slice(0, run.name.lastIndexOf("/") + 1) : "";
    return h(
      "tr",
      { "data-run": run.id },
      h(
        "td",
        {},
        h("input", {
          type: "checkbox",
          "aria-label": t("chosen", { name: run.name }),
          onchange: () => choose(run),
        }),
      ),
      h(
        "td",
        { "data-name": "name" },
        h(
          "a",
          { class: "run-name", href: app.link("overview", { run: run.id }) },
          h("span", { class: "muted" }, folder),
          run.name.slice(folder.length),
        ),
        h("span", { "data-name": "alarms" }),
      ),
      h("td", { "data-name": "kind" }, h("span", { class: "kind" }, t(`kind.${run.kind}`))),
      h("td", { "data-name": "state" }),
      h("td", { "data-name": "step" }),
      h("td", { "data-name": "course" }),
      h("td", { "data-name": "recorded" }),
      h("td", { class: "num soft", "data-name": "updated" }),
    );
  }

  function choose(run) {
    const { chosen } = state();
    set({ run: chosen.includes(run.id) ? chosen.filter((id) => id !== run.id) : [...chosen, run.id] });
  }

  function progress(run) {
    const share = run.n_steps ? Math.min(run.step / run.n_steps, 1) : null;
    return h(
      "div",
      { class: "how-far" },
      h(
        "span",
        { class: "num" },
        run.n_steps ? `${app.number(run.step)} / ${app.number(run.n_steps)}` : app.number(run.step),
      ),
      share !== null &&
        h("div", { class: "progress", "aria-hidden": "true" }, h("i", { style: { width: `${100 * share}%` } })),
    );
  }

  function extras(run) {
    return [
      run.recorded
        ? h("a", { href: app.link("iteration", { run: run.id }) }, t("iterations", { n: run.recorded }))
        : null,
      run.reward_report ? h("a", { href: app.link("reward", { run: run.id }) }, t("report")) : null,
      !run.recorded && !run.reward_report ? h("span", { class: "muted" }, "–") : null,
    ];
  }

  function sparkline(run) {
    const { values: course = [], share = false } = courses.get(run.id) ?? {};
    const values = course.filter((value) => value !== null && value !== undefined);
    if (!values.length) return h("span", { class: "muted" }, "–");
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const [wide, tall] = [110, 24];
    const x = (i) => (values.length > 1 ? 2 + ((wide - 4) * i) / (values.length - 1) : wide / 2);
    const y = (value) => (high > low ? tall - 3 - ((tall - 6) * (value - low)) / (high - low) : tall / 2);
    const last = values.length - 1;
    const said = (value) => (share ? `${app.number(100 * value, 3)} %` : app.number(value, 3));
    const label = `${t(`course.${run.kind}`)}: ${said(values[0])} → ${said(values[last])}`;
    return h(
      "span",
      { class: "spark", title: label },
      app.svg(
        "svg",
        { viewBox: `0 0 ${wide} ${tall}`, role: "img", "aria-label": label },
        app.svg("polyline", {
          points: values.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
        }),
        app.svg("circle", { cx: x(last), cy: y(values[last]), r: 2.4 }),
      ),
      h("span", { class: "num" }, said(values[last])),
      h("span", { class: "muted" }, t(`course.${run.kind}`)),
    );
  }

  function ago(seconds) {
    const past = Date.now() / 1000 - seconds;
    if (past < 10) return t("now");
    const format = new Intl.RelativeTimeFormat(language(), { numeric: "auto", style: "short" });
    for (const [unit, size] of [
      ["day", 86400],
      ["hour", 3600],
      ["minute", 60],
      ["second", 1],
    ]) {
      if (past >= size) return format.format(-Math.floor(past / size), unit);
    }
    return t("now");
  }

  async function readCourses() {
    for (const run of visible().slice(0, COURSES_DRAWN)) {
      if (courses.get(run.id)?.updated === run.updated) continue;
      try {
        const { columns } = await app.api(`/api/runs/${encodeURIComponent(run.id)}/metrics`);
        const name = MAIN[run.kind].find((it) => columns[it]?.some((value) => value !== null));
        courses.set(run.id, { updated: run.updated, values: thin(columns[name] ?? []), share: SHARES.has(name) });
      } catch (error) {
        if (error.name === "AbortError") return;
        courses.set(run.id, { updated: run.updated, values: [] }); // a run that cannot be read says why when it is opened
      }
      draw();
    }
  }

  const move = (by) => {
    here += by;
    draw();
    body.querySelector("tr.here")?.scrollIntoView({ block: "nearest" });
  };
  app.keys({
    j: [t("key.next"), () => move(1)],
    k: [t("key.previous"), () => move(-1)],
    Enter: [t("key.open"), () => visible()[here] && app.go("overview", { run: visible()[here].id })],
    x: [t("key.choose"), () => visible()[here] && choose(visible()[here])],
    "/": [t("key.find"), () => find.focus()],
  });
  app.live(async (now) => {
    runs = now;
    draw();
    await readCourses();
  });
  draw();
  readCourses();
}

/** At most 200 points, for a picture of 110 pixels. */
function thin(values) {
  const every = Math.ceil(values.length / 200);
  return every > 1 ? values.filter((_, i) => i % every === 0 || i === values.length - 1) : values;
}
