// One answer, token by token: coloured by any of its numbers, and everything about the token that is chosen.

import { fill, h, number } from "../dom.js";
import { brief, question } from "../explain.js";
import { bars } from "./draw.js";
import { cleared, listing } from "./listing.js";
import { percent, tokenPanel } from "./panel.js";
import { name, numbersOf, offered, scaleOf, signed, written } from "./quantities.js";
import { promptNodes, visible, visibleText } from "./text.js";
import { tokenTable } from "./tokentable.js";

export { words } from "./answer.words.js";

const SIBLINGS = 12; // other answers to the prompt that are offered at once
const FEW = 64; // answers up to so many tokens show their numbers unless told otherwise

export async function show(root, given, app) {
  const page = new AnswerPage(root, app);
  await page.open(given);
  app.keys(page.keys());
  // What cannot be opened is shown anew, and the frame then says why.
  return { update: (params) => page.open(params).catch(() => false), dispose: () => page.close() };
}

/** Keys that do nothing as long as there is nothing to do it with. */
function onlyWith(something, keys) {
  const guarded = ([key, [what, act]]) => [key, [what, (event) => something() && act(event)]];
  return Object.fromEntries(Object.entries(keys).map(guarded));
}

class AnswerPage {
  constructor(root, app) {
    this.root = root;
    this.app = app;
    this.equations = new Map();
    this.panel = tokenPanel({ move: (j) => this.choose(j, { focus: false }) });
    this.tip = h("div", { class: "token-tip", hidden: true, "aria-hidden": "true" });
  }

  close() {
    clearTimeout(this.timer);
    this.tip.remove();
  }

  // -------------------------------------------------------------------------------------------------- opening

  async open(given) {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const params = await this.complete(given);
    if (turn !== this.turn) return;
    this.params = params;
    if (this.params.step === undefined) {
      this.data = this.key = null;
      fill(this.root, h("p", { class: "empty card" }, this.app.t("no_steps")));
      return;
    }
    const { run, step, row } = this.params;
    const key = `${run[0]}/${step}/${row}`;
    if (this.key !== key) {
      const data = await this.app.api(`/api/runs/${encodeURIComponent(run[0])}/iterations/${step}/answers/${row}`);
      if (turn !== this.turn) return; // another was asked for meanwhile
      this.data = data;
      this.key = key;
      this.equations.clear();
      this.extreme = null;
      this.draw();
    }
    this.apply();
  }

  /** The address may leave out the iteration (then: the last), the answer (the first) and everything else. */
  async complete(given) {
    const params = { ...given };
    if (params.step === undefined) {
      const run = await this.app.api(`/api/runs/${encodeURIComponent(params.run[0])}`);
      params.step = run.recorded_steps?.at(-1);
    }
    params.row ??= "0";
    return params;
  }

  /** Bring what is drawn in line with the address. */
  apply() {
    const { data, params } = this;
    const keys = offered(data);
    this.colour = keys.includes(params.colour) ? params.colour : keys[0];
    const read = (data.ratios ?? []).map((list, e) => (list ? e : -1)).filter((e) => e >= 0);
    const epoch = Number(params.epoch) - 1;
    this.epoch = read.includes(epoch) ? epoch : (read.at(-1) ?? 0);
    const limit = Number(params.limit);
    this.locked = limit > 0 ? limit : null;
    const n = data.tokens.tokens.length;
    this.withNumbers = params.numbers === undefined ? n <= FEW : params.numbers === "1";
    this.paint();
    const token = Number(params.token ?? this.telling());
    if (n) this.choose(Math.min(Math.max(Number.isInteger(token) ? token : 0, 0), n - 1), { write: false });
    this.table(params.table === "1", { write: false });
  }

  /** The token with the largest advantage, up or down: what the page opens with. */
  telling() {
    const advantages = this.data.tokens.advantages ?? [];
    return advantages.reduce((best, x, j) => (Math.abs(x ?? 0) > Math.abs(advantages[best] ?? 0) + 1e-9 ? j : best), 0);
  }

  /** Say in the address what was chosen, without a new entry in the history: tokens pass quickly. */
  write(changes) {
    Object.assign(this.params, changes);
    this.app.go("answer", this.params, { replace: true, quiet: true });
  }

  // -------------------------------------------------------------------------------------------------- the page

  draw() {
    const { t } = this.app;
    const { data } = this;
    this.drawTokens();
    this.tools = h("div", { class: "toolbar" });
    this.legend = h("div", { class: "colour-scale" });
    this.strip = h("div", { class: "token-strip" });
    this.details = h(
      "details",
      { class: "card all-tokens", ontoggle: () => this.table(this.details.open) },
      h("summary", { id: "all-tokens" }, t("table")),
      (this.tableBox = h("div", { class: "scroll" })),
    );
    this.tableOpen = false;
    const empty = data.tokens.tokens.length === 0;
    fill(
      this.root,
      this.head(),
      this.facts(),
      h(
        "div",
        { class: "answer-columns" },
        h(
          "div",
          { class: "answer-left" },
          h(
            "article",
            { class: "card prompt-card" },
            h("h3", {}, t("prompt")),
            h("div", { class: "prompt-text", "data-name": "prompt" }, promptNodes(data.prompt)),
          ),
          (this.siblings = h("div", { class: "siblings", hidden: true })),
          empty
            ? h("p", { class: "empty card" }, t("empty"))
            : h(
                "article",
                { class: "card answer-card" },
                h("h3", {}, t("its_answer")),
                this.tools,
                this.legend,
                this.strip,
                this.box,
              ),
          empty ? null : this.details,
        ),
        empty ? null : this.panel.element,
      ),
    );
    document.body.append(this.tip);
    beside(this.neighbours());
    beside(this.drawSiblings());
  }

  head() {
    const { t, link } = this.app;
    const { data, params } = this;
    this.place = h("span", { class: "muted place" });
    this.before = h(
      "a",
      { class: "button off", id: "previous-answer", title: `${t("previous_answer")} (k)` },
      "‹ ",
      t("previous_answer"),
    );
    this.after = h(
      "a",
      { class: "button off", id: "next-answer", title: `${t("next_answer")} (j)` },
      t("next_answer"),
      " ›",
    );
    const size = Number(params.size ?? 50);
    const offset = params.at === undefined ? 0 : Math.floor(Number(params.at) / size) * size;
    const list = link("iteration", {
      run: params.run,
      step: params.step,
      ...listing(params),
      offset: offset || undefined,
      limit: params.size,
      row: params.row,
    });
    return h(
      "header",
      { class: "view-head" },
      h(
        "div",
        {},
        h(
          "h1",
          {},
          t("title", { row: data.row }),
          " ",
          h("span", { class: "muted" }, `· ${t("iteration_n", { step: data.step })}`),
        ),
        h(
          "p",
          { class: "sub" },
          h("a", { href: list, id: "to-iteration" }, `↑ ${t("back", { step: data.step })}`),
          data.prompt_id
            ? [
                " · ",
                h(
                  "a",
                  {
                    href: link("compare", { run: params.run, prompt: data.prompt_id }),
                    id: "to-compare",
                  },
                  t("compare_to"),
                ),
              ]
            : null,
        ),
      ),
      h("div", { class: "actions" }, this.place, this.before, this.after),
    );
  }

  facts() {
    const { t } = this.app;
    const { data } = this;
    const { meta } = data;
    const tile = (key, value, ...from) =>
      h(
        "div",
        { class: "tile" },
        h("div", { class: "name" }, t(key)),
        h(
          "div",
          { class: "value", "data-name": key, "data-value": value },
          key === "length" ? String(value) : signed(value),
        ),
        h("div", { class: "from" }, from),
      );
    const parts = Object.entries(data.parts ?? {}).filter(([, x]) => x !== null);
    const scored = data.score !== null && data.score !== undefined;
    const changed = scored && data.raw_score !== null && Math.abs(data.raw_score - data.score) > 1e-6;
    const sources = parts
      .map(([source, x]) => (parts.length > 1 ? `${source} ${signed(x)}` : t("scored_by", { source })))
      .join(" · ");
    const scoreFrom = scored
      ? [sources, changed ? t("raw", { x: signed(data.raw_score) }) : null].filter(Boolean).join(" · ")
      : t("unscored");
    const advantages = (data.tokens.advantages ?? []).filter((x) => x !== null);
    const [low, high] = [Math.min(...advantages), Math.max(...advantages)];
    return h(
      "div",
      { class: "tiles facts" },
      tile("score", data.score, scoreFrom),
      tile("kl", data.kl, t("nats")),
      tile(
        "reward",
        data.reward,
        !scored
          ? t("reward_none")
          : meta.whiten_rewards
            ? t("reward_white")
            : t("reward_is", { coef: number(meta.kl_coef) }),
      ),
      tile(
        "advantage",
        data.advantage,
        advantages.length
          ? high - low > 1e-6
            ? t("advantage_is", { low: signed(low, 3), high: signed(high, 3) })
            : t("advantage_one")
          : t("unlearned"),
      ),
      tile("length", data.length, t(`finish.${data.finish_reason}`)),
    );
  }

  // -------------------------------------------------------------------------------------------------- tokens

  drawTokens() {
    const { tokens } = this.data.tokens;
    this.spans = tokens.map((piece, j) =>
      h(
        "span",
        { class: "token", role: "option", id: `token-${j}`, "data-token": j, "aria-selected": "false" },
        h("span", { class: "piece" }, visible(piece)),
        h("span", { class: "amount" }),
      ),
    );
    this.box = h("div", {
      class: "tokens",
      role: "listbox",
      tabindex: 0,
      id: "tokens",
      "aria-orientation": "horizontal",
    });
    this.spans.forEach((span, j) => {
      if (/^\s/.test(tokens[j])) this.box.append(h("wbr", {})); // lines end between words, not between tokens
      this.box.append(span);
      if (tokens[j].includes("\n")) this.box.append(h("br", {}));
    });
    const at = (event) => event.target.closest?.("[data-token]")?.dataset.token;
    this.box.addEventListener("click", (event) => at(event) !== undefined && this.choose(Number(at(event))));
    this.box.addEventListener("mouseover", (event) =>
      at(event) === undefined ? this.hideTip() : this.showTip(Number(at(event)), this.spans[at(event)]),
    );
    this.box.addEventListener("mouseleave", () => this.hideTip());
  }

  paint() {
    const { t } = this.app;
    const { data, colour, epoch } = this;
    if (!this.spans.length) return;
    const numbers = numbersOf(data, colour, epoch) ?? this.spans.map(() => null);
    const clipped = data.clipped?.[epoch] ?? [];
    const scale = scaleOf(colour, numbers, this.locked);
    this.numbers = numbers;
    this.box.classList.toggle("with-numbers", this.withNumbers);
    this.box.dataset.colour = colour;
    this.box.setAttribute("aria-label", t("tokens", { name: name(colour) }));
    this.spans.forEach((span, j) => {
      const x = numbers[j];
      span.style.setProperty("--fill", scale.colour(x));
      span.classList.toggle("clipped", clipped[j] === true);
      span.lastChild.textContent = written(colour, x, colour === "ratios" ? 3 : 2);
      if (x === null) delete span.dataset.value;
      else span.dataset.value = x;
      span.setAttribute(
        "aria-label",
        t("token_label", {
          n: j + 1,
          piece: visibleText(data.tokens.tokens[j]),
          name: name(colour),
          x: written(colour, x),
        }),
      );
    });
    const drawing = bars(numbers, {
      colour: scale.strong,
      zero: scale.zero,
      limit: scale.cut && !scale.sequential && colour !== "ratios" ? scale.limit * 1.5 : undefined,
      marked: (j) => clipped[j] === true,
      choose: (j) => this.choose(j),
      label: t("bars", { name: name(colour) }),
    });
    this.cursor = drawing.mark;
    drawing.picture.addEventListener("mousemove", (event) =>
      this.showTip(drawing.place(event), this.strip, event.clientX),
    );
    drawing.picture.addEventListener("mouseleave", () => this.hideTip());
    fill(
      this.strip,
      h(
        "span",
        { class: "axis", "aria-hidden": "true" },
        h("span", {}, number(drawing.high, 3)),
        h("span", {}, number(drawing.low, 3)),
      ),
      drawing.picture,
    );
    fill(this.tools, this.choices());
    fill(this.legend, this.scaleOf(scale, numbers, clipped));
    if (this.token !== undefined) this.cursor(this.token);
  }

  choices() {
    const { t } = this.app;
    const { data } = this;
    const buttons = offered(data).map((key) =>
      h(
        "button",
        {
          type: "button",
          id: `colour-${key}`,
          "data-colour": key,
          "aria-pressed": String(key === this.colour),
          onclick: () => this.set({ colour: key, limit: undefined }),
        },
        name(key),
      ),
    );
    const epochs = (data.ratios ?? []).map((list, e) => [list, e]).filter(([list]) => list);
    const clippedIn = (e) => (data.clipped?.[e] ?? []).filter(Boolean).length;
    return [
      h("div", { class: "segmented", role: "group", "aria-label": t("colour_by") }, buttons),
      epochs.length
        ? h(
            "label",
            { class: "field" },
            t("epoch"),
            h(
              "select",
              {
                id: "epoch",
                value: String(this.epoch + 1),
                onchange: (event) => this.set({ epoch: event.target.value }),
              },
              epochs.map(([, e]) =>
                h(
                  "option",
                  { value: String(e + 1) },
                  clippedIn(e) ? t("epoch_clipped", { e: e + 1, n: clippedIn(e) }) : t("epoch_n", { e: e + 1 }),
                ),
              ),
            ),
          )
        : null,
      h(
        "label",
        { class: "field" },
        h("input", {
          type: "checkbox",
          id: "numbers",
          checked: this.withNumbers,
          onchange: (event) => this.set({ numbers: event.target.checked ? "1" : "0" }),
        }),
        t("show_numbers"),
      ),
    ];
  }

  scaleOf(scale, numbers, clipped) {
    const { t } = this.app;
    const { colour } = this;
    const steps = scale.sequential ? 10 : 20;
    const at = (share) =>
      colour === "ratios"
        ? Math.exp(share * scale.limit)
        : scale.sequential
          ? -share * scale.limit
          : share * scale.limit;
    const cells = Array.from({ length: steps + 1 }, (_, i) => (scale.sequential ? i / steps : (2 * i) / steps - 1));
    const ramp = h(
      "div",
      { class: "ramp" },
      h(
        "div",
        { class: "cells", "aria-hidden": "true" },
        cells.map((share) => h("i", { style: { background: scale.colour(at(share)) } })),
      ),
      h(
        "div",
        { class: "ticks" },
        scale.legend.map(([, label]) => h("span", {}, label)),
      ),
    );
    const ends = extremes(numbers);
    const jump = (j, key) =>
      h(
        "button",
        { type: "button", class: "quiet", "data-extreme": key, onclick: () => this.choose(j) },
        t(key, { x: written(colour, numbers[j], 3), n: j + 1 }),
      );
    const lock = h(
      "label",
      { class: "field", title: t("lock_what") },
      h("input", {
        type: "checkbox",
        id: "lock",
        checked: this.locked !== null,
        onchange: (event) => this.set({ limit: event.target.checked ? String(scale.limit) : undefined }),
      }),
      t("lock"),
    );
    const notes = [brief("quantity", colour)];
    if (scale.cut && colour !== "ratios")
      notes.push(
        scale.sequential ? t("cut_below", { x: signed(-scale.limit, 3) }) : t("cut", { x: number(scale.limit, 3) }),
      );
    if (clipped.some(Boolean)) notes.push(t("clipped_mark", { e: this.epoch + 1 }));
    return [
      h(
        "div",
        { class: "scale-line" },
        ramp,
        ends ? [jump(ends.low, "lowest"), jump(ends.high, "highest")] : null,
        lock,
      ),
      h(
        "p",
        { class: "caption", "data-name": "meaning" },
        notes.join(" "),
        question("quantity", [colour], name(colour)),
      ),
    ];
  }

  /** Change what is shown, and the address with it. */
  set(changes) {
    this.write(changes);
    const active = document.activeElement?.id;
    this.apply();
    if (active && document.activeElement?.id !== active)
      document.getElementById(active)?.focus({ preventScroll: true });
  }

  choose(j, { write = true, focus = true } = {}) {
    const { tokens } = this.data.tokens;
    if (!(j >= 0 && j < tokens.length)) return;
    const old = this.root.querySelector(".token.here");
    old?.classList.remove("here");
    old?.setAttribute("aria-selected", "false");
    const span = this.spans[j];
    span.classList.add("here");
    span.setAttribute("aria-selected", "true");
    this.box.setAttribute("aria-activedescendant", span.id);
    this.cursor?.(j);
    // In a narrow window the panel stands below the answer, and comes to its foot when a token is asked for.
    if (write) this.panel.element.classList.add("asked");
    if (write && focus) intoView(span);
    this.tableBox.querySelector("tr.here")?.classList.remove("here");
    this.tableBox.querySelector(`tr[data-token-row="${j}"]`)?.classList.add("here");
    if (this.token !== j || this.shown !== this.key) this.panel.show(this.data, j, this.ask(j));
    [this.token, this.shown] = [j, this.key];
    if (write) this.write({ token: String(j) });
  }

  /** What the server says of a token; only of tokens that one rests on. */
  ask(j) {
    if (this.equations.has(j)) return this.equations.get(j);
    const { run, step, row } = this.params;
    const path = `/api/runs/${encodeURIComponent(run[0])}/iterations/${step}/answers/${row}/tokens/${j}`;
    clearTimeout(this.timer);
    return new Promise((resolve, reject) => {
      this.timer = setTimeout(() => {
        const asked = this.app.api(path);
        this.equations.set(j, asked);
        asked.catch(() => this.equations.delete(j));
        asked.then(resolve, reject);
      }, 70);
    });
  }

  table(open, { write = true } = {}) {
    if (this.tableOpen === open && this.drawn === `${this.key}/${open}`) return;
    [this.tableOpen, this.drawn] = [open, `${this.key}/${open}`];
    if (this.details.open !== open) this.details.open = open;
    fill(
      this.tableBox,
      open ? tokenTable(this.data, { chosen: this.token, choose: (j) => this.choose(j, { focus: false }) }) : null,
    );
    if (write) this.write({ table: open ? "1" : undefined });
  }

  // -------------------------------------------------------------------------------------------------- hovering

  showTip(j, beside, x = null) {
    const { t } = this.app;
    const piece = h("code", {}, visible(this.data.tokens.tokens[j]));
    const p = Math.exp(this.data.tokens.log_probs[j]);
    fill(
      this.tip,
      h("span", { class: "muted" }, `${j + 1} `),
      piece,
      h("b", {}, ` ${name(this.colour)} ${written(this.colour, this.numbers[j])}`),
      h("span", { class: "muted" }, ` · ${t("tip_p", { p: percent(p) })}`),
    );
    this.tip.hidden = false;
    const box = beside.getBoundingClientRect();
    const width = this.tip.offsetWidth;
    const left = Math.min(innerWidth - width - 8, Math.max(8, (x ?? box.left) - (x === null ? 0 : width / 2)));
    const above = box.top - this.tip.offsetHeight - 6;
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${above > 4 ? above : box.bottom + 6}px`;
  }

  hideTip() {
    this.tip.hidden = true;
  }

  // -------------------------------------------------------------------------------------------------- other answers

  /** Before and after in the order of the list that one came from, or in the batch. */
  async neighbours() {
    const { app, params, data } = this;
    const key = this.key;
    const at = Number(params.at);
    let [before, after] = [data.previous, data.next].map((row) => (row === null || row === undefined ? null : { row }));
    if (params.at !== undefined && Number.isInteger(at) && at >= 0) {
      const from = Math.max(at - 1, 0);
      const query = new URLSearchParams({ ...listing(params), offset: from, limit: 3 });
      const page = await app.api(`/api/runs/${encodeURIComponent(params.run[0])}/iterations/${params.step}?${query}`);
      if (key !== this.key) return;
      const here = at - from;
      if (page.rows[here]?.row === data.row) {
        before = here > 0 ? { row: page.rows[here - 1].row, at: at - 1 } : null;
        after = page.rows[here + 1] ? { row: page.rows[here + 1].row, at: at + 1 } : null;
        const sorted = params.sort
          ? ` · ${app.t("sorted", { sort: `${app.t(params.sort)} ${params.order === "asc" ? "↑" : "↓"}` })}`
          : "";
        this.place.textContent = app.t("place", { at: number(at + 1), of: number(page.matching) }) + sorted;
      }
    }
    const join = (anchor, to) => {
      anchor.classList.toggle("off", to === null);
      if (to) anchor.setAttribute("href", app.link("answer", this.address(to)));
      else anchor.setAttribute("aria-disabled", "true");
    };
    join(this.before, before);
    join(this.after, after);
  }

  address({ row, at }) {
    const { token, ...rest } = this.params;
    return { ...rest, row: String(row), at };
  }

  async drawSiblings() {
    const { t, link, api } = this.app;
    const key = this.key;
    const { run, step } = this.params;
    const among = { prompt_id: this.data.prompt_id, sort: "score", order: "desc" };
    const page = await api(
      `/api/runs/${encodeURIComponent(run[0])}/iterations/${step}?${new URLSearchParams({ ...among, limit: SIBLINGS })}`,
    );
    if (key !== this.key || page.matching < 2) return;
    this.siblings.hidden = false;
    const { token, at, ...rest } = this.params;
    const chip = (row, i) =>
      h(
        "a",
        {
          class: "chip",
          "data-row": row.row,
          "aria-current": row.row === this.data.row ? "true" : null,
          href: link("answer", { ...rest, ...cleared(rest), ...among, row: row.row, at: i }),
        },
        h("span", { class: "muted" }, `#${row.row}`),
        h("b", { class: "num" }, signed(row.score, 3)),
      );
    const all =
      page.matching > page.rows.length
        ? h("a", { href: link("iteration", { run, step, ...among }) }, t("siblings.all", { n: page.matching }))
        : null;
    fill(this.siblings, h("span", { class: "caption" }, t("siblings")), page.rows.map(chip), all);
  }

  // -------------------------------------------------------------------------------------------------- the keyboard

  keys() {
    const { t } = this.app;
    return onlyWith(() => this.data, {
      ArrowRight: [t("key.token"), () => this.choose(this.token + 1)],
      ArrowLeft: [t("key.token.back"), () => this.choose(this.token - 1)],
      ArrowDown: [t("key.line"), () => this.line(1)],
      ArrowUp: [t("key.line.back"), () => this.line(-1)],
      Home: [t("key.first"), () => this.choose(0)],
      End: [t("key.last"), () => this.choose(this.spans.length - 1)],
      x: [t("key.extreme"), () => this.nextExtreme()],
      c: [t("key.colour"), () => this.turnColour(1)],
      C: [t("key.colour.back"), () => this.turnColour(-1)],
      e: [t("key.epoch"), () => this.turnEpoch()],
      n: [t("key.numbers"), () => this.set({ numbers: this.withNumbers ? "0" : "1" })],
      t: [t("key.table"), () => this.table(!this.tableOpen)],
      j: [t("key.next"), () => this.after.click()],
      k: [t("key.previous"), () => this.before.click()],
      u: [t("key.up"), () => document.getElementById("to-iteration")?.click()],
    });
  }

  turnColour(by) {
    const keys = offered(this.data);
    this.set({ colour: keys[(keys.indexOf(this.colour) + by + keys.length) % keys.length], limit: undefined });
  }

  turnEpoch() {
    const read = (this.data.ratios ?? []).map((list, e) => (list ? e : -1)).filter((e) => e >= 0);
    if (read.length) this.set({ epoch: String(read[(read.indexOf(this.epoch) + 1) % read.length] + 1) });
  }

  /** The token that stands nearest in the line above or below. */
  line(by) {
    const here = this.spans[this.token].getBoundingClientRect();
    const middle = (here.left + here.right) / 2;
    let [best, distance, line] = [null, Infinity, null];
    for (let j = this.token + by; j >= 0 && j < this.spans.length; j += by) {
      const box = this.spans[j].getBoundingClientRect();
      if (Math.abs(box.top - here.top) < 4) continue;
      line ??= box.top;
      if (Math.abs(box.top - line) >= 4) break;
      const off = Math.abs((box.left + box.right) / 2 - middle);
      if (off < distance) [best, distance] = [j, off];
    }
    if (best !== null) this.choose(best);
  }

  /** From the largest number of the colouring down. */
  nextExtreme() {
    const one = this.colour === "ratios" ? 1 : 0;
    const which = `${this.colour}/${this.epoch}`;
    if (this.extreme?.which !== which) {
      const order = this.numbers
        .map((x, j) => [Math.abs((x ?? one) - one), j])
        .sort((a, b) => b[0] - a[0])
        .map(([, j]) => j);
      this.extreme = { which, order, next: 0 };
    }
    this.choose(this.extreme.order[this.extreme.next++ % this.extreme.order.length]);
  }
}

/** What the page can do without: leaving it ends the request, and another failure is the console's. */
function beside(work) {
  work.catch((error) => error.name === "AbortError" || console.error(error));
}

function extremes(numbers) {
  let [low, high] = [null, null];
  numbers.forEach((x, j) => {
    if (x === null) return;
    if (low === null || x < numbers[low]) low = j;
    if (high === null || x > numbers[high]) high = j;
  });
  return low === null || numbers[low] === numbers[high] ? null : { low, high };
}

/** Scroll just as far as needed; the bar covers the top. */
function intoView(element) {
  const box = element.getBoundingClientRect();
  if (box.top < 70 || box.bottom > innerHeight - 16) element.scrollIntoView({ block: "center" });
}
