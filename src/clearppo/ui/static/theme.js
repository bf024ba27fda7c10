// Light and dark, and the colours that numbers are drawn in. The tokens themselves stand in style.css.

import { h, svg } from "./dom.js";
import { onLanguage, translator } from "./i18n.js";

const KEPT = "clearppo.theme";
const CHOICES = ["auto", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();
let choice = fromStorage();
mark();
system.addEventListener("change", () => choice === "auto" && tell());

function fromStorage() {
  try {
    const kept = localStorage.getItem(KEPT);
    return CHOICES.includes(kept) ? kept : "auto";
  } catch {
    return "auto"; // storage is forbidden in this browser
  }
}

function mark() {
  if (choice === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
}

function tell() {
  for (const listener of listeners) listener(theme());
}

/** What is shown: "light" or "dark". */
export function theme() {
  return choice === "auto" ? (system.matches ? "dark" : "light") : choice;
}

/** Choose, and keep it for the next visit. */
function setTheme(wanted) {
  if (!CHOICES.includes(wanted)) return;
  choice = wanted;
  mark();
  try {
    localStorage.setItem(KEPT, wanted);
  } catch {
    // as above
  }
  tell();
}

/** auto, light, dark, auto, ... */
export function nextTheme() {
  setTheme(CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length]);
}

/** Call `listener("light" | "dark")` on every change. */
export function onTheme(listener) {
  listeners.add(listener);
}

/** What a token of style.css is now, as rgb(...): token("ink") for --ink. */
export function token(name) {
  const probe = h("span", { style: { color: `var(--${name})`, display: "none" } });
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

// Ends and middle of the scales. Text in --ink is readable on every colour between them (contrast 4.5 and more).
const SCALES = {
  light: { middle: [255, 255, 255], negative: [240, 148, 84], positive: [110, 172, 232], much: [164, 140, 220] },
  dark: { middle: [27, 31, 38], negative: [158, 74, 18], positive: [25, 95, 165], much: [104, 78, 168] },
};
// Okabe and Ito's palette for all kinds of colour vision, the yellow left out; a shade lighter on dark.
const CATEGORICAL = {
  light: ["#0072b2", "#d55e00", "#009e73", "#b0548f", "#2a93cf", "#c28800", "#5b6470"],
  dark: ["#56a8e0", "#f08a45", "#2fc29a", "#dc8fbf", "#8cd0f5", "#e6b03a", "#a4adba"],
};

function between(from, to, share) {
  const [r, g, b] = from.map((start, i) => Math.round(start + (to[i] - start) * share));
  return `rgb(${r}, ${g}, ${b})`;
}

function part(x, limit) {
  return limit > 0 ? Math.min(Math.abs(x) / limit, 1) : 0;
}

/** Colours of the theme of now: css colours, safe for all kinds of colour vision. Always say the number too. */
export const colours = {
  /** Orange below 0, blue above, strongest from `limit` on; null is no colour. */
  diverging(x, limit) {
    if (x === null || x === undefined || Number.isNaN(x)) return "transparent";
    const scale = SCALES[theme()];
    return between(scale.middle, x < 0 ? scale.negative : scale.positive, part(x, limit));
  },
  /** From nothing at 0 to violet at `limit`; null is no colour. */
  sequential(x, limit) {
    if (x === null || x === undefined || Number.isNaN(x)) return "transparent";
    const scale = SCALES[theme()];
    return between(scale.middle, scale.much, x < 0 ? 0 : part(x, limit));
  },
  /** For things without an order; each has a name beside it wherever it is used. */
  get categorical() {
    return CATEGORICAL[theme()];
  },
};

const words = {
  en: { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" },
  zh: { auto: "主题：跟随系统", light: "主题：浅色", dark: "主题：深色" },
};
const t = translator(words);
const PICTURES = {
  auto: [
    ["circle", { cx: 12, cy: 12, r: 8 }],
    ["path", { d: "M12 4a8 8 0 0 1 0 16z", fill: "currentColor" }],
  ],
  light: [
    ["circle", { cx: 12, cy: 12, r: 4.2 }],
    [
      "path",
      {
        d: "M12 2.5v3M12 18.5v3M2.5 12h3M18.5 12h3M5.3 5.3l2.1 2.1M16.6 16.6l2.1 2.1M18.7 5.3l-2.1 2.1M7.4 16.6l-2.1 2.1",
      },
    ],
  ],
  dark: [["path", { d: "M20 14.2A8.3 8.3 0 0 1 9.8 4 8.3 8.3 0 1 0 20 14.2z" }]],
};

/** A small picture from paths on a 24 by 24 grid, drawn in the colour of the text. */
export function icon(shapes, label) {
  const attrs = {
    viewBox: "0 0 24 24",
    class: "icon",
    ...(label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" }),
  };
  return svg("svg", attrs, ...shapes.map(([tag, attrs]) => svg(tag, attrs)));
}

/** A button that goes through the three choices. */
export function themeButton() {
  const button = h("button", { class: "quiet square", type: "button", id: "theme", onclick: nextTheme });
  const show = () => {
    button.replaceChildren(icon(PICTURES[choice]));
    button.title = `${t(choice)} (d)`;
    button.setAttribute("aria-label", t(choice));
  };
  show();
  onTheme(show);
  onLanguage(show);
  return button;
}
