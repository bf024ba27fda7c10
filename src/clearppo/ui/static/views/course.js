// The numbers of one run through its steps, read from the server piece by piece.

/** What /metrics has said so far. `steps` are in order; column(name) has a number or null for each of them. */
export class Course {
  constructor(id, api) {
    this.id = id;
    this.api = api;
    this.cursor = null;
    this.rows = new Map();
  }

  /** Ask for what is new. */
  async read() {
    const query = this.cursor === null ? "" : `?cursor=${encodeURIComponent(this.cursor)}`;
    const { cursor, reset, columns } = await this.api(`/api/runs/${encodeURIComponent(this.id)}/metrics${query}`);
    this.cursor = cursor;
    if (reset) this.rows.clear();
    const names = Object.keys(columns);
    for (const [i, step] of (columns.step ?? []).entries()) {
      this.rows.set(step, Object.fromEntries(names.map((name) => [name, columns[name][i]])));
    }
    this.steps = [...this.rows.keys()].sort((a, b) => a - b);
    this.columns = new Map();
    return this;
  }

  column(name) {
    if (!this.columns.has(name))
      this.columns.set(
        name,
        this.steps.map((step) => this.rows.get(step)[name] ?? null),
      );
    return this.columns.get(name);
  }

  /** The names that have a number anywhere. */
  get names() {
    const found = new Set();
    for (const row of this.rows.values())
      for (const [name, value] of Object.entries(row)) if (value !== null) found.add(name);
    return found;
  }

  /** The first and the last number of a metric: [[step, value], [step, value]]; null if there is none. */
  ends(name) {
    const known = this.column(name)
      .map((value, i) => [this.steps[i], value])
      .filter(([, value]) => value !== null);
    return known.length ? [known[0], known.at(-1)] : null;
  }
}

/** Options of several runs that are not the same in all: [{name, values}], each value as text, "–" where it is not set. */
export function differing(runs) {
  const flat = runs.map((run) => flattened(run.options ?? {}));
  const names = [...new Set(flat.flatMap((options) => [...options.keys()]))].sort();
  const said = (options, name) =>
    options.has(name) ? JSON.stringify(options.get(name)).replace(/^"(.*)"$/, "$1") : "–";
  return names
    .map((name) => ({ name, values: flat.map((options) => said(options, name)) }))
    .filter(({ name, values }) => !name.endsWith("output_dir") && new Set(values).size > 1);
}

function flattened(options, prefix = "", into = new Map()) {
  for (const [name, value] of Object.entries(options)) {
    if (value !== null && typeof value === "object" && !Array.isArray(value))
      flattened(value, `${prefix}${name}.`, into);
    else into.set(prefix + name, value);
  }
  return into;
}
