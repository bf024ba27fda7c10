// What a reward model is worth: reward_report.json of `clearppo reward` in pictures. Its fields are described in
// train/reward_report.py.

import { draw, forget, layout, panel, PERCENT } from "../charts.js";
import { fill } from "../dom.js";
import { language } from "../i18n.js";
import { token } from "../theme.js";
import { words } from "./reward.words.js";

export { words };

/** What the verdict's reasons are in Chinese: reasons are English sentences in the file, see train/reward_verdict.py. */
const IN_CHINESE = [
  [/^It gives every answer the same score\.$/, () => "它给每条回答同样的得分。"],
  [
    /^It is right in (\S+) of (\d+) pairs? \(of (\d+) prompts?\).* between (\S+) and (\S+) \(95 %\)/,
    (share, n, prompts, low, high) =>
      `在没有学过的 ${n} 个比较对（来自 ${prompts} 条提示）上判对 ${share}；真实的比例在 ${low} 到 ${high} 之间（95 %）。随机猜测是 50 %。`,
  ],
  [/^Even the upper end is below (\S+)\.$/, (share) => `连区间的上端也低于 ${share}。`],
  [
    /^For ± 5 points it takes about (\d+) held-out pairs/,
    (n) => `要精确到 ± 5 个百分点，大约需要 ${n} 对留出的比较：调大 --eval_fraction。`,
  ],
  [/^That may be chance\.$/, () => "这可能只是偶然。"],
  [/^It is better than guessing, but below (\S+)\.$/, (share) => `比随机猜测强，但低于 ${share}。`],
  [
    /^Even the lower end is above ([^,]+), as of/,
    (share) => `连区间的下端也高于 ${share}，与 PPO 用成功过的奖励模型相当。`,
  ],
  [
    /^It prefers the (longer|shorter) answer in (\S+) of pairs/,
    (kind, share) => `在 ${share} 的比较对里它都偏好较${LENGTHS[kind]}的回答：PPO 只会学到长度。`,
  ],
  [
    /^Always choosing the (longer|shorter) answer would be right as often \((\S+)\)/,
    (kind, share) => `一律选较${LENGTHS[kind]}的，也能判对这么多（${share}）：PPO 时要看着长度。`,
  ],
  [
    /^It is right (\S+) points more often on the comparisons it learned from/,
    (n) => `在学过的比较上要多对 ${n} 个百分点：很多是死记硬背。减少 --num_train_epochs 或调小 --learning_rate。`,
  ],
  [
    /^On the (\d+) pairs? whose labels are clearly apart it is right in (\S+)\.$/,
    (n, share) => `在标签差距明显的 ${n} 对上判对 ${share}。`,
  ],
  [
    /^It is (surer than it should be|less sure than it could be): .* off by (\S+) on average/,
    (way, share) =>
      `它${way.startsWith("surer") ? "过度自信" : "自信不足"}：预测的概率平均偏差 ${share}。回答的先后次序不受影响，奖励的大小受影响。`,
  ],
];
const LENGTHS = { longer: "长", shorter: "短" };

/** A reason in the language of the page; as it is in the file where this page does not know it. */
function reasonOf(sentence, h) {
  if (language() === "zh") {
    for (const [pattern, said] of IN_CHINESE) {
      const found = pattern.exec(sentence);
      if (found) return h("li", {}, said(...found.slice(1)));
    }
  }
  return h("li", { lang: "en" }, sentence);
}

const TONES = { good: "good", usable: "warn", "not good enough": "bad", "cannot tell": "soft" };
const percent = (share, digits = 1) =>
  share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`;

export async function show(root, params, app) {
  const { t, h } = app;
  const [id] = params.run;
  const run = (await app.runs()).find((it) => it.id === id);
  if (!run) return fill(root, h("div", { class: "card empty" }, t("none"))) && undefined;
  const report = await app.api(`/api/runs/${encodeURIComponent(id)}/reward_report`);
  const charts = [
    gaps(report, app),
    calibration(report, app),
    generalises(report, app),
    length(report, app),
    scores(report, app),
  ].filter(Boolean);
  fill(
    root,
    h(
      "header",
      { class: "view-head" },
      h(
        "div",
        {},
        h("h1", {}, t("title")),
        h("p", { class: "sub" }, run.name, " · ", h("a", { href: app.link("overview", { run: id }) }, t("course"))),
      ),
    ),
    verdict(report, app),
    h(
      "div",
      { class: "tiles" },
      tiles(report, app).map(([name, value, under]) =>
        h(
          "div",
          { class: "tile", "data-name": name },
          h("div", { class: "name" }, t(name)),
          h("div", { class: "value" }, value),
          h("div", { class: "from" }, under),
        ),
      ),
    ),
    h(
      "div",
      { class: "charts", "data-columns": 3 },
      charts.map(({ figure }) => figure),
    ),
    numbers(report, app),
  );
  const drawn = (async () => {
    for (const { plot, traces, look } of charts) await draw(plot, traces, look);
  })();
  drawn.catch((error) => console.error(error));
  return () => forget(charts.map(({ plot }) => plot));
}

/** The file has it in English. */
function verdict({ verdict: { level, meaning, reasons } }, { t, h }) {
  return h(
    "section",
    { class: ["card", "rm-verdict", TONES[level]], "data-name": "verdict" },
    h("h2", {}, language() === "zh" && level in TONES ? t(`meaning.${level}`) : meaning),
    reasons.length > 0 &&
      h(
        "div",
        {},
        h("h3", {}, t("why")),
        h(
          "ul",
          {},
          reasons.map((reason) => reasonOf(reason, h)),
        ),
      ),
  );
}

function tiles(report, { t, number }) {
  const { accuracy, clear, near_ties: near, train, length } = report;
  return [
    [
      "accuracy",
      percent(accuracy.value),
      t("accuracy?", { low: percent(accuracy.low), high: percent(accuracy.high), n: number(accuracy.n_pairs) }),
    ],
    clear && [
      "clear",
      percent(clear.value),
      t("clear?", { gap: number(report.clear_gap, 3), n: number(clear.n_pairs) }),
    ],
    [
      "near",
      percent(near.agreement.value),
      t("near?", { gap: number(near.high, 3), n: number(near.agreement.n_pairs) }),
    ],
    ["log_loss", number(report.log_loss, 3), t("log_loss?")],
    ["calibration_error", percent(report.calibration_error), t("calibration_error?", { over: report.overconfidence })],
    length.spearman !== null && ["spearman", number(length.spearman, 2), t("spearman?")],
    train && ["train", percent(train.train.value), t("train?", { gap: (100 * train.gap).toFixed(1) })],
  ].filter(Boolean);
}

/** Bars with intervals and the line of guessing. */
function shares(bars, app) {
  const colour = app.colours.categorical[0];
  const known = bars.map(({ low, high }) => low !== undefined && high !== undefined);
  return {
    x: bars.map(({ name }) => name),
    y: bars.map(({ value }) => value),
    type: "bar",
    width: Math.min(0.62, 0.18 * bars.length),
    marker: { color: `${colour}99` },
    text: bars.map(({ value }) => percent(value)),
    textposition: "inside",
    insidetextanchor: "start",
    textangle: 0,
    textfont: { color: token("ink"), size: 12 },
    error_y: known.every(Boolean)
      ? {
          type: "data",
          symmetric: false,
          array: bars.map(({ high, value }) => high - value),
          arrayminus: bars.map(({ low, value }) => value - low),
          color: token("ink"),
          thickness: 1.3,
          width: 5,
        }
      : undefined,
    customdata: bars.map(({ said }) => said),
    hovertemplate: "%{y:.1%}<br>%{customdata}<extra></extra>",
  };
}

function guessing() {
  return [
    {
      type: "line",
      xref: "paper",
      x0: 0,
      x1: 1,
      y0: 0.5,
      y1: 0.5,
      line: { color: token("ink-3"), width: 1, dash: "dot" },
    },
  ];
}

const interval = ({ low, high, n_pairs: n }, app) =>
  `${percent(low)} – ${percent(high)}, ${app.number(n)} ${app.t("pairs")}`;

function gaps({ by_margin: bins, margin_kind: kind }, app) {
  const { t, number } = app;
  const bars = bins.map(({ low, high, agreement }) => ({
    name: `${number(low, 2)} – ${number(high, 2)}`,
    ...agreement,
    said: interval(agreement, app),
  }));
  return {
    ...panel({ id: "gaps", title: t("gaps"), caption: t(`gaps.${kind}`) }),
    traces: [shares(bars, app)],
    look: layout({
      hovermode: "closest",
      xaxis: { type: "category", title: { text: t("gap", { kind: t(`kind.${kind}`) }) } },
      yaxis: { ...PERCENT, range: [0, 1] },
      shapes: guessing(),
    }),
  };
}

function calibration({ calibration: bins }, app) {
  const { t } = app;
  const most = Math.max(...bins.map((bin) => bin.n_pairs));
  const traces = [
    {
      x: [0.5, 1],
      y: [0.5, 1],
      mode: "lines",
      line: { color: token("ink-3"), width: 1, dash: "dot" },
      hoverinfo: "skip",
    },
    {
      x: bins.map((bin) => bin.predicted),
      y: bins.map((bin) => bin.observed),
      mode: "lines+markers",
      line: { color: app.colours.categorical[0], width: 1.5 },
      cliponaxis: false,
      marker: {
        color: app.colours.categorical[0],
        size: bins.map((bin) => 6 + 14 * Math.sqrt(bin.n_pairs / most)),
        opacity: 0.9,
        line: { color: token("surface"), width: 1.5 },
      },
      customdata: bins.map((bin) => bin.n_pairs),
      hovertemplate: `${t("predicted")} %{x:.1%}<br>${t("observed")} %{y:.1%}<br>%{customdata} ${t("pairs")}<extra></extra>`,
    },
  ];
  const low = Math.min(0.45, ...bins.map((bin) => bin.observed - 0.05));
  return {
    ...panel({ id: "calibration", title: t("calibration"), caption: t("calibration.why") }),
    traces,
    look: layout({
      hovermode: "closest",
      xaxis: { ...PERCENT, range: [0.47, 1.03], showgrid: true, title: { text: t("predicted") } },
      yaxis: { ...PERCENT, range: [low, 1.04], title: { text: t("observed") } },
    }),
  };
}

function generalises({ accuracy, train }, app) {
  if (!train) return null;
  const { t } = app;
  const bars = [
    ["learned", train.train],
    ["held", accuracy],
  ].map(([name, agreement]) => ({ name: t(name), ...agreement, said: interval(agreement, app) }));
  return {
    ...panel({ id: "generalises", title: t("generalises"), caption: t("generalises.why") }),
    traces: [shares(bars, app)],
    look: layout({
      hovermode: "closest",
      xaxis: { type: "category" },
      yaxis: { ...PERCENT, range: [0, 1] },
      shapes: guessing(),
    }),
  };
}

function length({ length: of }, app) {
  const { t } = app;
  const names = ["longer_wins", "prefers_longer", "right_when_longer_wins", "right_when_shorter_wins"].filter(
    (name) => of[name] !== null,
  );
  if (!names.length) return null;
  const [first, second] = app.colours.categorical;
  const bar = {
    y: names.map((name) => t(name)),
    x: names.map((name) => of[name]),
    type: "bar",
    orientation: "h",
    width: 0.6,
    marker: { color: names.map((name) => `${name.startsWith("right") ? first : second}99`) },
    text: names.map((name) => percent(of[name])),
    textposition: "inside",
    insidetextanchor: "start",
    textfont: { color: token("ink"), size: 12 },
    hovertemplate: "%{y}: %{x:.1%}<extra></extra>",
  };
  const look = layout({
    hovermode: "closest",
    margin: { l: 10, r: 14, t: 8, b: 30 },
    xaxis: { ...PERCENT, range: [0, 1], showgrid: true },
    yaxis: { autorange: "reversed", showgrid: false, tickformat: "" },
    shapes: [
      {
        type: "line",
        yref: "paper",
        y0: 0,
        y1: 1,
        x0: 0.5,
        x1: 0.5,
        line: { color: token("ink-3"), width: 1, dash: "dot" },
      },
    ],
  });
  return { ...panel({ id: "length", title: t("length"), caption: t("length.why") }), traces: [bar], look };
}

function scores({ scores: of }, app) {
  const { t, number } = app;
  const edges = of.histogram_edges;
  const counts = of.histogram_counts;
  const bar = {
    x: counts.map((_, i) => (edges[i] + edges[i + 1]) / 2),
    y: counts,
    width: counts.map((_, i) => 0.94 * (edges[i + 1] - edges[i])),
    type: "bar",
    marker: { color: `${app.colours.categorical[0]}99` },
    customdata: counts.map((_, i) => `${number(edges[i], 3)} – ${number(edges[i + 1], 3)}`),
    hovertemplate: `%{customdata}<br>%{y} ${t("answers")}<extra></extra>`,
  };
  return {
    ...panel({
      id: "scores",
      double: true,
      title: t("scores"),
      caption: t("scores.why", { n: number(of.n), mean: number(of.mean, 3), std: number(of.std, 3) }),
    }),
    traces: [bar],
    look: layout({
      hovermode: "closest",
      xaxis: { title: { text: t("score") }, tickformat: "~g" },
      yaxis: { title: { text: t("answers") } },
    }),
  };
}

function numbers(report, app) {
  const { t, h, number } = app;
  const { length, scores: of, accuracy } = report;
  const rows = [
    ["accuracy", `${percent(accuracy.value)} (${interval(accuracy, app)})`],
    ["n_prompts", number(accuracy.n_prompts)],
    ["ties", number(report.n_ties)],
    ["log_loss", number(report.log_loss)],
    ["calibration_error", percent(report.calibration_error)],
    ["overconfidence", percent(report.overconfidence)],
    ["logit_scale", number(report.logit_scale)],
    ["pearson", number(length.pearson)],
    ["spearman", number(length.spearman)],
    ...["longer_wins", "prefers_longer", "right_when_longer_wins", "right_when_shorter_wins"].map((name) => [
      name,
      percent(length[name]),
    ]),
    [
      "quantiles",
      Object.entries(of.quantiles)
        .map(([share, value]) => `${percent(Number(share), 0)}: ${number(value, 3)}`)
        .join(",  "),
    ],
  ];
  return h(
    "details",
    { class: "card" },
    h("summary", {}, t("all")),
    h(
      "table",
      { class: "data numbers" },
      h(
        "tbody",
        {},
        rows.map(([name, value]) =>
          h("tr", {}, h("th", { scope: "row" }, t(name)), h("td", { "data-name": name }, value)),
        ),
      ),
    ),
  );
}
