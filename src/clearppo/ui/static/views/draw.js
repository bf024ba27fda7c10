// Small drawings in SVG. Numbers always stand beside them, so they are hidden from screen readers unless labelled.

import { svg } from "../dom.js";

/** The smallest of 1, 2, 2.5, 5 times a power of ten that is not below x. */
export function rounded(x) {
  if (!(x > 0) || !Number.isFinite(x)) return 1;
  const power = 10 ** Math.floor(Math.log10(x));
  const step = [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((factor) => factor * power >= x * (1 - 1e-9));
  return step * power;
}

/** One bar a token, up or down from 0. `colour(x)` paints, `marked` draws a notch above, `choose(i)` hears clicks. */
export function bars(numbers, { colour, marked, choose, zero = 0, limit, label }) {
  const seen = numbers.filter((x) => x !== null);
  let high = Math.max(
    zero,
    Math.min(
      limit ?? Infinity,
      seen.reduce((a, b) => Math.max(a, b), zero),
    ),
  );
  let low = Math.min(
    zero,
    Math.max(
      -(limit ?? Infinity),
      seen.reduce((a, b) => Math.min(a, b), zero),
    ),
  );
  if (high === low) [low, high] = [zero - 1, zero + 1]; // all alike: the line in the middle
  const span = high - low;
  const y = (x) => 8 + (84 * (high - Math.min(high, Math.max(low, x)))) / span;
  const n = numbers.length;
  const gap = n > 160 ? 0.04 : 0.1;
  const cursor = svg("rect", { class: "cursor", x: 0, y: 0, width: 1, height: 100 });
  const picture = svg(
    "svg",
    {
      viewBox: `0 0 ${Math.max(n, 1)} 100`,
      preserveAspectRatio: "none",
      class: "bars",
      role: "img",
      "aria-label": label,
    },
    cursor,
  );
  numbers.forEach((x, i) => {
    if (x !== null) {
      const [top, bottom] = [Math.min(y(x), y(zero)), Math.max(y(x), y(zero))];
      const height = Math.max(bottom - top, 0.8);
      picture.append(svg("rect", { x: i + gap, y: top, width: 1 - 2 * gap, height, style: { fill: colour(x) } }));
      // A bar that is longer than the drawing is broken.
      if (x > high || x < low)
        picture.append(svg("rect", { class: "break", x: i, y: x > high ? 16 : 80, width: 1, height: 5 }));
    }
    if (marked?.(i)) picture.append(svg("rect", { class: "notch", x: i + 0.2, y: 0, width: 0.6, height: 5 }));
  });
  picture.append(svg("line", { class: "zero", x1: 0, x2: Math.max(n, 1), y1: y(zero), y2: y(zero) }));
  const place = (event) => {
    const box = picture.getBoundingClientRect();
    return Math.min(n - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * n)));
  };
  if (choose) picture.addEventListener("click", (event) => choose(place(event)));
  return { picture, high, low, place, mark: (i) => cursor.setAttribute("x", String(i)) };
}

/** Counts over ranges; a click on a bar or a drag over several hands the range to `choose(low, high)`. */
export function histogram({ edges, counts }, { choose, label, within = () => true, describe }) {
  const n = counts.length;
  const most = counts.reduce((a, b) => Math.max(a, b), 1);
  const rectangles = counts.map((count, i) => {
    const height = count ? Math.max(2.5, (56 * count) / most) : 0;
    const inside = within(edges[i], edges[i + 1]);
    const bar = svg("rect", {
      x: i + 0.06,
      y: 58 - height,
      width: 0.88,
      height,
      class: inside ? "bar" : "bar outside",
    });
    const reach = svg("rect", { x: i, y: 0, width: 1, height: 60, class: "reach", "data-bin": i });
    reach.append(svg("title", {}, describe(edges[i], edges[i + 1], count)));
    return [bar, reach];
  });
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${n} 60`, preserveAspectRatio: "none", class: "histogram", role: "img", "aria-label": label },
    svg("line", { class: "zero", x1: 0, x2: n, y1: 58.5, y2: 58.5 }),
    ...rectangles.flat(),
  );
  let from = null;
  const bin = (event) => {
    const box = picture.getBoundingClientRect();
    return Math.min(n - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * n)));
  };
  const paint = (low, high) => {
    rectangles.forEach(([, reach], i) => reach.classList.toggle("chosen", low !== null && i >= low && i <= high));
  };
  picture.addEventListener("pointerdown", (event) => {
    from = bin(event);
    picture.setPointerCapture(event.pointerId);
    paint(from, from);
  });
  picture.addEventListener("pointermove", (event) => {
    if (from !== null) paint(Math.min(from, bin(event)), Math.max(from, bin(event)));
  });
  picture.addEventListener("pointercancel", () => {
    from = null;
    paint(null);
  });
  picture.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const [low, high] = [Math.min(from, bin(event)), Math.max(from, bin(event))];
    from = null;
    choose(edges[low], edges[high + 1]);
  });
  return picture;
}
