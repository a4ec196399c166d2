// Elements without markup in strings, and how figures are written.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `props` are properties, but `class`, `for`, `role`, `aria-*` and `data-*` are attributes. */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && !name.includes("-")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined));
  return node;
}

/** An SVG element; all props are attributes. */
export function s(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Put `children` into a node, unless they are what it shows already: selections and reading aloud stay. */
export function show(node, ...children) {
  const fresh = h("div", {}, ...children);
  if (node.shown === fresh.innerHTML) return;
  node.shown = fresh.innerHTML;
  node.replaceChildren(...fresh.childNodes);
}

/** Say something to people who listen to the page. */
export function say(text) {
  byId("said").textContent = text;
}

export function table(heads, rows, props = {}) {
  const cell = (tag, value, index) =>
    h(tag, tag === "th" ? { scope: "col", class: heads[index].class } : { class: heads[index].class }, value);
  return h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": props.label ?? "Table" },
    h("table", {},
      h("thead", {}, h("tr", {}, heads.map((head, index) => cell("th", head.name, index)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((value, index) => cell("td", value, index)))))));
}

const THIN = "\u202f";
const format = (digits) => new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const FORMATS = [0, 1, 2, 3, 4].map(format);

export function number(value, digits = 0) {
  return value === null || value === undefined || !Number.isFinite(value) ? "–" : FORMATS[digits].format(value);
}

/** A number of a scale, without digits that say nothing. */
export const plain = (value) => new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(value);

/** A number with as many digits as are worth reading. */
export function figure(value) {
  if (!Number.isFinite(value)) return "–";
  return number(value, value >= 100 || value === 0 ? 0 : value >= 10 ? 1 : 2);
}

export function percent(share, digits = 1) {
  return share === null || share === undefined || !Number.isFinite(share) ? "–" : `${number(100 * share, digits)}${THIN}%`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds >= 1) return `${figure(seconds)}${THIN}s`;
  if (seconds >= 0.001) return `${figure(seconds * 1000)}${THIN}ms`;
  return `${number(seconds * 1e6)}${THIN}µs`;
}

export function bytes(value) {
  if (!Number.isFinite(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit === 0 ? number(value) : figure(value)}${THIN}${units[unit]}`;
}

/** "3 min", for a span of seconds. */
export function span(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))}${THIN}s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}${THIN}min`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)}${THIN}h` : `${Math.round(seconds / 86400)}${THIN}d`;
}
