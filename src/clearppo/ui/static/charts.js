// Charts: Plotly (from this server, loaded when the first chart is drawn) in the look of style.css.

import { h } from "./dom.js";
import { colours, theme, token } from "./theme.js";

let loading = null;

/** The Plotly library. */
function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const failed = () => {
      loading = null;
      reject(new Error("plotly.min.js could not be loaded. Is `clearppo view` still running?"));
    };
    document.head.append(
      h("script", { src: "/static/plotly.min.js", onload: () => resolve(window.Plotly), onerror: failed }),
    );
  });
  return loading;
}

/** A card for a chart: its title, a caption in words, a legend [{name, colour, dash}] if there is more than one thing,
 *  `more` (a question mark) behind the title. `double` is twice as wide. `figure` is the card, `plot` what draw() draws in. */
export function panel({ id, title, unit, caption, legend = [], double = false, more = null }) {
  const plot = h("div", { class: "plot", role: "img", "aria-label": title });
  const figure = h(
    "figure",
    { class: ["card", "chart", double && "double"], "data-chart": id },
    h(
      "figcaption",
      {},
      h(
        "div",
        { class: "card-head" },
        h("div", { class: "asked" }, h("h3", { class: "chart-title" }, title), more),
        unit && h("span", { class: "unit" }, unit),
      ),
      h("p", { class: "caption" }, caption),
      legend.length > 1 &&
        h(
          "p",
          { class: "legend" },
          legend.map(({ name, colour, dash }) =>
            h("span", {}, h("i", { class: dash, style: { "--c": colour } }), name),
          ),
        ),
    ),
    plot,
  );
  return { figure, plot };
}

/** Text for Plotly, which reads tags in it. */
export function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** The colours and lines that all charts share; `over` is merged over it, the axes key by key. */
export function layout(over = {}) {
  const ink = token("ink-2");
  const axis = {
    gridcolor: token("grid"),
    zeroline: false,
    linecolor: token("line"),
    tickcolor: token("line"),
    automargin: true,
    tickfont: { size: 11, color: token("ink-3") },
    title: { font: { size: 11.5, color: token("ink-3") }, standoff: 8 },
    ticks: "",
    nticks: 6,
  };
  const { xaxis, yaxis, ...rest } = over;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 46, r: 12, t: 8, b: 30 },
    showlegend: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    hovermode: "x unified",
    bargap: 0.18,
    colorway: colours.categorical,
    dragmode: "zoom",
    hoverlabel: {
      bgcolor: token("surface"),
      bordercolor: token("line-strong"),
      font: { color: token("ink"), size: 12 },
      align: "left",
      namelength: 40,
    },
    ...rest,
    xaxis: { ...axis, showgrid: false, showline: true, ...xaxis, title: { ...axis.title, ...xaxis?.title } },
    yaxis: { ...axis, tickformat: "~g", ...yaxis, title: { ...axis.title, ...yaxis?.title } },
  };
}

/** The axis of iterations (or steps): whole numbers, and "iteration 12" above what the pointer shows. */
export function stepAxis(word, steps, range) {
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const few = range ? range[1] - range[0] <= 12 : last - first <= 12;
  const room = Math.max((last - first) * 0.02, 0.5);
  return {
    title: { text: word },
    ...(few ? { dtick: 1 } : {}),
    tickformat: "d",
    range: range ?? [first - room, last + room],
    unifiedhovertitle: { text: `${word} %{x}` },
    hoverformat: "d",
    showspikes: false,
  };
}

const OPTIONS = { displayModeBar: false, responsive: true, doubleClick: "reset", showTips: false };

/** Draw, or draw again with what has changed. */
export async function draw(plot, traces, layout_) {
  const library = await plotly();
  if (!plot.isConnected) return;
  await library.react(plot, traces, layout_, OPTIONS);
}

/** The same without waiting; nothing as long as Plotly itself is not there. */
export function drawNow(plot, traces, layout_) {
  window.Plotly?.react(plot, traces, layout_, OPTIONS);
}

/** Free what charts hold, when their view is left. */
export function forget(plots) {
  for (const plot of plots) if (plot.data) window.Plotly?.purge(plot);
}

const DOUBLE = 280; // ms within which two clicks are one double click

/** click(point) of the point that is nearest to the pointer; zoom([from, to] | null) when a range of x was chosen or
 *  left. */
export function listen(plot, { click, zoom }) {
  if (click) {
    // Of a double click neither click is meant as one; Plotly tells the second one after the double click.
    let waiting;
    let doubled = -Infinity;
    plot.on("plotly_click", ({ points, event }) => {
      clearTimeout(waiting);
      if (performance.now() - doubled < DOUBLE) return;
      waiting = setTimeout(() => click(nearest(points, event.clientY - plot.getBoundingClientRect().top)), DOUBLE);
    });
    plot.on("plotly_doubleclick", () => {
      clearTimeout(waiting);
      doubled = performance.now();
    });
  }
  if (!zoom) return;
  plot.on("plotly_relayout", (change) => {
    if ("xaxis.range[0]" in change) zoom([change["xaxis.range[0]"], change["xaxis.range[1]"]]);
    else if (change["xaxis.autorange"] || "xaxis.range" in change) zoom(null);
  });
}

function nearest(points, height) {
  const away = ({ yaxis, y }) => Math.abs(yaxis.d2p(y) + yaxis._offset - height);
  return points.reduce((best, point) => (away(point) < away(best) ? point : best));
}

const FEW = 10; // points; so few have nothing to smooth
export const MANY = 300; // points; so many are drawn thinly
const DASHES = ["solid", "dot", "dash", "dashdot"];
/** The name of the n-th kind of line. */
export function dash(n) {
  return DASHES[n % DASHES.length];
}

/** A mean of the past that forgets: of what stood `k` points ago, share^k as much; nothing of the future. Nulls stay
 *  out. Its beginning is not pulled towards 0. */
export function smooth(values, share) {
  if (!share) return values;
  let sum = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return null;
    sum = share * sum + (1 - share) * value;
    weight = share * weight + (1 - share);
    return sum / weight;
  });
}

/** A line through points; with `share` a smoothed one over a faint one, if there is enough to smooth. Few points are
 *  marked. */
export function line({ x, y, name, colour, style = "solid", share = 0, digits = 4 }) {
  const known = y.filter((value) => value !== null && value !== undefined).length;
  const look = { x, type: "scatter", connectgaps: true, name: plain(name) };
  const marked = known <= 30 ? "lines+markers" : "lines";
  const raw = {
    ...look,
    y,
    mode: known > 1 ? marked : "markers",
    marker: { size: 4.5, color: colour },
    line: { color: colour, width: known > MANY ? 1.1 : 1.8, dash: style },
  };
  raw.hovertemplate = `%{y:.${digits}~g}`;
  if (!share || known < FEW) return [raw];
  const faint = {
    ...raw,
    mode: "lines",
    line: { ...raw.line, width: 1, dash: "solid" },
    opacity: theme() === "dark" ? 0.35 : 0.3,
    hoverinfo: "skip",
    hovertemplate: undefined,
  };
  return [faint, { ...raw, y: smooth(y, share), mode: "lines", line: { ...raw.line, width: 2.2 } }];
}

/** A share between 0 and 1 as percent, for axes of shares. */
export const PERCENT = { tickformat: "~%" };

/** An axis for shares: it ends at 0 and 1, beyond which there is none. */
export function shareAxis(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (!known.length) return PERCENT;
  const [low, high] = known.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [1, 0]);
  const room = Math.max((high - low) * 0.06, low === high ? 0.1 : 0.005);
  const edge = 0.015 * (high - low || 0.1); // so that a line along the end is drawn whole
  return { ...PERCENT, range: [Math.max(low - room, -edge), Math.min(high + room, 1 + edge)] };
}

/** An axis for counts: from 0, in whole steps. */
export function countAxis(values) {
  const most = values.reduce((a, b) => Math.max(a, b ?? 0), 1);
  return { range: [0, most * 1.06], tickformat: "d", ...(most <= 5 ? { dtick: 1 } : {}) };
}

/** An axis for these values: powers of ten where they are tiny, and some room around a constant, 1 around 0. */
export function valueAxis(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (!known.length) return {};
  const [low, high] = known.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const tiny =
    Math.max(Math.abs(low), Math.abs(high)) < 1e-3 && high > 0
      ? { tickformat: "", exponentformat: "e", minexponent: 2 }
      : {};
  if (low !== high) return tiny;
  const half = Math.abs(low) / 2 || 1;
  return { ...tiny, range: [low - half, high + half] };
}
