// Making nodes. Data becomes text nodes and attributes here, never HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. `attrs`: attributes by name; `class` a string or a list with holes; `style` an object; `onclick` and
 *  its like a listener; true is an empty attribute; false, null and undefined leave the attribute out. `value`,
 *  `checked` and `selected` are set as properties. `children`: nodes, strings, numbers, lists of them; null and false
 *  are left out. */
export function h(tag, attrs, ...children) {
  return furnished(document.createElement(tag), attrs, children);
}

/** The same for an element of SVG. */
export function svg(tag, attrs, ...children) {
  return furnished(document.createElementNS(SVG, tag), attrs, children);
}

/** Put these children in place of those that are there. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter(shown));
  return node;
}

const PROPERTIES = new Set(["value", "checked", "selected", "disabled", "indeterminate"]);

function furnished(node, attrs, children) {
  for (const [name, value] of Object.entries(attrs ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2).toLowerCase(), value);
    else if (name === "class") node.setAttribute("class", [value].flat().filter(Boolean).join(" "));
    else if (name === "style") for (const [key, it] of Object.entries(value)) node.style.setProperty(key, it);
    else if (!PROPERTIES.has(name)) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter(shown));
  // After the children, because the value of a select is one of its options.
  for (const name of PROPERTIES) if (attrs?.[name] !== undefined && attrs[name] !== null) node[name] = attrs[name];
  return node;
}

function shown(child) {
  return child !== null && child !== undefined && child !== false && child !== true;
}

/** A number for people: `digits` significant digits, no padding zeros, a true minus sign; "–" for null. */
export function number(x, digits = 4) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  return written(x, digits).replaceAll("-", "−");
}

function written(x, digits) {
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "-∞";
  const size = Math.abs(x);
  if (Number.isInteger(x) && size < 1e15) return size >= 10000 ? x.toLocaleString("en-US") : String(x);
  if (size >= 10 ** digits) return size < 1e9 ? Math.round(x).toLocaleString("en-US") : x.toExponential(digits - 1);
  if (size < 1e-4) return x.toExponential(Math.min(digits - 1, 2)).replace(/\.?0+e/, "e");
  return String(Number(x.toPrecision(digits)));
}

/** `wait` ms after the last call, call once. */
export function calmly(action, wait = 250) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), wait);
  };
}
