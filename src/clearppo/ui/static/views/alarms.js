// Alarms of runs: the card of the overview, what charts show of them, and the badge in the list of runs. The server tells
// titles, sentences and advice in every language.

import { language } from "../i18n.js";
import { token } from "../theme.js";

export const alarmWords = {
  en: {
    alarms: "Alarms",
    "alarm.on": "on",
    "alarm.over": "over",
    "alarm.since": "since {round} {step}",
    "alarm.until": "{round} {step} to {over}",
    "alarm.at": "{round} {step}",
    "alarm.more": "+{n}",
    "alarm.action.checkpoint": "The run wrote a checkpoint.",
    "alarm.action.raise_kl": "The run raised its KL coefficient.",
    "alarm.action.lower_lr": "The run lowered its learning rate.",
    "alarm.action.rollback": "The run went back to its last checkpoint.",
    "alarm.action.stop": "The run was stopped by it.",
    plan: "Planned and measured",
    "plan.what": "",
    "plan.planned": "planned",
    "plan.measured": "measured",
    "plan.off": "off by",
    "plan.memory": "peak memory, GiB",
    "plan.seconds": "seconds an {round}",
    "plan.phase": "{value} ({phase})",
  },
  zh: {
    alarms: "警报",
    "alarm.on": "未解除",
    "alarm.over": "已解除",
    "alarm.since": "自第 {step} 次{round}起",
    "alarm.until": "第 {step} 至 {over} 次{round}",
    "alarm.at": "第 {step} 次{round}",
    "alarm.more": "+{n}",
    "alarm.action.checkpoint": "训练因此写了一个检查点。",
    "alarm.action.raise_kl": "训练因此调高了 KL 系数。",
    "alarm.action.lower_lr": "训练因此调低了学习率。",
    "alarm.action.rollback": "训练因此回到了上一个检查点。",
    "alarm.action.stop": "训练因此停止。",
    plan: "计划与实测",
    "plan.what": "",
    "plan.planned": "计划",
    "plan.measured": "实测",
    "plan.off": "偏差",
    "plan.memory": "内存峰值，GiB",
    "plan.seconds": "每次{round}的秒数",
    "plan.phase": "{value}（{phase}）",
  },
};

const SHADE = 0.07;
const OFTEN = 8; // alarms of one metric; more would shade the whole chart

/** A text in the language of the page. */
export function said(texts) {
  return texts?.[language()] ?? texts?.en ?? "";
}

/** What the list of runs says beside a run's name: the alarms that are on. */
export function alarmBadge(alarms, { t, h }) {
  const on = (alarms ?? []).filter(({ over }) => over === null);
  if (!on.length) return null;
  const title = on.map((alarm) => said(alarm.title)).join("\n");
  return h(
    "span",
    { class: "kind bad", title },
    said(on[0].title),
    on.length > 1 && ` ${t("alarm.more", { n: on.length - 1 })}`,
  );
}

/** The alarms of the page's runs, those that are on first. */
export function alarmList({ runs, h, t, app }) {
  const every = runs.flatMap((run) => (run.alarms ?? []).map((alarm) => ({ ...alarm, run })));
  every.sort((a, b) => (a.over !== null) - (b.over !== null) || b.step - a.step);
  const when = ({ step, over, run }) => {
    const round = t(run.kind === "ppo" ? "iteration" : "step");
    const until = over === step ? "alarm.at" : "alarm.until";
    const text = t(over === null ? "alarm.since" : until, { round, step, over });
    return run.recorded_steps?.includes(step)
      ? h("a", { href: app.link("iteration", { run: run.id, step }) }, text)
      : text;
  };
  const done = ({ action }) => {
    const words = t(`alarm.action.${action}`);
    return words.startsWith("alarm.action.") ? null : h("span", { class: "done" }, words);
  };
  return every.map((alarm) =>
    h(
      "li",
      { "data-alarm": alarm.alarm, "data-state": alarm.over === null ? "on" : "over" },
      h(
        "p",
        { class: "head" },
        h(
          "span",
          { class: ["kind", alarm.over === null && "bad"] },
          t(alarm.over === null ? "alarm.on" : "alarm.over"),
        ),
        h("b", { title: alarm.alarm }, said(alarm.title)),
        h(
          "span",
          { class: "muted" },
          runs.length > 1 && `${alarm.run.name} · `,
          when(alarm),
          alarm.metric && [" · ", h("span", { class: "mono" }, alarm.metric)],
        ),
      ),
      h("p", {}, said(alarm.sentence)),
      h("p", { class: "soft" }, said(alarm.advice), " ", done(alarm)),
    ),
  );
}

/** What a chart of these metrics shows of a run's alarms: the time in which one was on, and the limit. */
export function alarmShapes({ runs, params, courses }, metrics) {
  if (params.events === "0" || runs.length !== 1) return [];
  const found = (runs[0].alarms ?? []).filter(({ metric, step, over }) => metrics.includes(metric) && step !== over);
  if (found.length > OFTEN) return [];
  const last = courses[0].steps.at(-1);
  const colour = token("bad");
  return found.flatMap(({ step, over, limit }) => [
    {
      type: "rect",
      xref: "x",
      yref: "paper",
      x0: step,
      x1: over ?? last,
      y0: 0,
      y1: 1,
      layer: "below",
      fillcolor: colour,
      opacity: SHADE,
      line: { width: 0 },
    },
    ...(limit === null
      ? []
      : [
          {
            type: "line",
            xref: "x",
            yref: "y",
            x0: step,
            x1: over ?? last,
            y0: limit,
            y1: limit,
            layer: "below",
            opacity: 0.8,
            line: { color: colour, width: 1.2, dash: "dash" },
          },
        ]),
  ]);
}

/** What the run planned to take, and what it took; null without a plan. */
export function planTable(run, { h, t, app }) {
  if (!run.plan) return null;
  const round = t(run.kind === "ppo" ? "iteration" : "step");
  const phase = (name) => (t(`phase.${name}`) === `phase.${name}` ? name : t(`phase.${name}`));
  const cell = (value, of) =>
    of && value !== null ? t("plan.phase", { value: app.number(value, 3), phase: phase(of) }) : app.number(value, 3);
  const off = ({ planned, measured }) =>
    measured ? `${planned >= measured ? "+" : "−"}${Math.abs(100 * (planned / measured - 1)).toFixed(0)} %` : "–";
  return h(
    "table",
    { class: "data" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["what", "planned", "measured", "off"].map((name) =>
          h("th", { scope: "col", class: name !== "what" && "num" }, t(`plan.${name}`)),
        ),
      ),
    ),
    h(
      "tbody",
      {},
      Object.entries(run.plan).map(([name, it]) =>
        h(
          "tr",
          { "data-name": name },
          h("th", { scope: "row" }, t(`plan.${name}`, { round })),
          h("td", { class: "num" }, cell(it.planned, it.phase)),
          h("td", { class: "num" }, cell(it.measured, it.measured_phase)),
          h("td", { class: "num" }, off(it)),
        ),
      ),
    ),
  );
}
