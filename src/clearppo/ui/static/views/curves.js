// The charts of the overview as Plotly reads them: [traces, layout] of a page (views/overview.js) with its runs, their
// courses, and what is chosen: smoothing, range, marks. A trace's meta.run is the number of its run.

import { countAxis, dash, layout, line, MANY, plain, shareAxis, smooth, stepAxis, valueAxis } from "../charts.js";
import { token } from "../theme.js";

function axis(page) {
  const word = page.t(page.runs.some((run) => run.kind === "ppo") ? "iteration" : "step");
  return stepAxis(
    word,
    page.courses.flatMap((course) => course.steps),
    page.range,
  );
}

/** Lines of these metrics through the steps, or bars of counts. */
export function lines(page, chart, metrics) {
  const several = page.runs.length > 1;
  const traces = page.courses.flatMap((course, i) =>
    metrics.flatMap((metric, n) => {
      const label = metrics.length > 1 || !several ? page.name(chart, metric) : "";
      const name = [several && page.runs[i].name, label].filter(Boolean).join(" · ");
      const colour = page.colour(several ? i : n);
      const band = chart.spread && course.names.has(chart.spread) ? around(course, metric, chart.spread, colour) : [];
      const curve = line({
        x: course.steps,
        y: course.column(metric),
        name,
        colour,
        style: several ? dash(n) : "solid",
        share: chart.bars ? 0 : page.share,
      });
      for (const trace of curve) trace.meta = { run: i };
      return [...band, ...curve];
    }),
  );
  const values = page.courses.flatMap((course) => metrics.flatMap((metric) => course.column(metric)));
  if (chart.bars)
    return [
      traces.map((trace) => ({ ...trace, type: "bar", marker: { color: trace.line.color } })),
      layout({ xaxis: axis(page), yaxis: countAxis(values), barmode: "group" }),
    ];
  if (chart.share) for (const trace of traces) if (trace.hovertemplate) trace.hovertemplate = "%{y:.1%}";
  const look = chart.share ? shareAxis(values) : valueAxis(values);
  return [traces, layout({ xaxis: axis(page), yaxis: look, shapes: page.marks(metrics) })];
}

/** A mean with its standard deviation around it. */
function around(course, metric, variance, colour) {
  const known = course.steps
    .map((step, i) => [step, course.column(metric)[i], course.column(variance)[i]])
    .filter(([, mean, of]) => mean !== null && of !== null);
  const edge = (sign) => known.map(([, mean, of]) => mean + sign * Math.sqrt(of));
  const look = {
    x: known.map(([step]) => step),
    type: "scatter",
    mode: "lines",
    line: { width: 0 },
    hoverinfo: "skip",
  };
  return [
    { ...look, y: edge(-1) },
    { ...look, y: edge(1), fill: "tonexty", fillcolor: colour + "26" },
  ];
}

/** Seconds of the phases over each other. */
export function stacked(page, chart, metrics) {
  // One run: a stack. Several: their sums, or nothing could be compared.
  if (page.runs.length > 1) {
    const traces = page.courses.flatMap((course, i) => {
      const sums = course.steps.map(
        (_, k) => metrics.reduce((sum, metric) => sum + (course.column(metric)[k] ?? 0), 0) || null,
      );
      return line({
        x: course.steps,
        y: sums,
        name: page.runs[i].name,
        colour: page.colour(i),
        share: page.share,
      }).map((trace) => ({ ...trace, meta: { run: i } }));
    });
    return [traces, layout({ xaxis: axis(page), yaxis: { rangemode: "tozero" } })];
  }
  const [course] = page.courses;
  const traces = metrics.map((metric, n) => ({
    x: course.steps,
    y: course.column(metric),
    type: "bar",
    name: plain(page.name(chart, metric)),
    marker: { color: page.colour(n) },
    hovertemplate: "%{y:.3~g} s",
    meta: { run: 0 },
  }));
  return [traces, layout({ xaxis: axis(page), barmode: "stack", bargap: course.steps.length > 60 ? 0 : 0.18 })];
}

/** One metric against another, the points joined through time. */
export function frontier(page, { frontier: [across, up] }) {
  const several = page.runs.length > 1;
  const traces = page.courses.flatMap((course, i) => {
    const points = course.steps
      .map((step, k) => [step, course.column(across)[k], course.column(up)[k]])
      .filter(([, x, y]) => x !== null && y !== null);
    if (!points.length) return [];
    const [x, y, steps] = [1, 2, 0].map((at) => points.map((point) => point[at]));
    const ends = points.map((_, k) =>
      k === 0 ? page.t("start") : k === points.length - 1 && k > 0 ? page.t("end") : "",
    );
    const colour = page.colour(i);
    const many = points.length > MANY;
    const strongest = many ? 0.5 : 1;
    const shade = steps.map((_, k) => (points.length > 1 ? strongest * (0.3 + (0.7 * k) / (points.length - 1)) : 1));
    const smoothed = page.share > 0 && {
      x: smooth(x, page.share),
      y: smooth(y, page.share),
      type: "scatter",
      mode: "lines",
      line: { color: token("ink"), width: 1.6 },
      hoverinfo: "skip",
    };
    return [
      {
        x,
        y,
        text: ends,
        textposition: "top center",
        textfont: { size: 11 },
        type: "scatter",
        mode: "lines+markers+text",
        cliponaxis: false,
        line: { color: colour, width: many ? 0.3 : 1.2 },
        marker: {
          color: colour,
          size: many ? 4 : 7,
          opacity: shade,
          line: { color: token("surface"), width: many ? 0 : 1 },
        },
        customdata: steps,
        meta: { run: i, steps },
        name: plain(page.runs[i].name),
        hovertemplate: `${several ? `<b>${plain(page.runs[i].name)}</b><br>` : ""}${page.t("iteration")} %{customdata}<br>${page.t("axis.score")} %{y:.4~g}<br>KL %{x:.4~g}<extra></extra>`,
      },
      smoothed,
    ].filter(Boolean);
  });
  return [
    traces,
    layout({
      hovermode: "closest",
      xaxis: { title: { text: page.t("axis.kl") }, showgrid: true, tickformat: "~g" },
      yaxis: { title: { text: page.t("axis.score") } },
    }),
  ];
}
