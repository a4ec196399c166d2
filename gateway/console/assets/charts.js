// Charts as SVG of the width they have, drawn anew with each reading. Colours and dashes are in console.css. Each has a
// sentence for people who do not see it, and its figures as a table behind it.

import { duration, figure, h, number, percent, plain, s, span } from "./dom.js";
import { TIERS } from "./figures.js";

/** Draws into `node` at its width, now and whenever the width changes; returns the function that draws anew. */
export function drawn(node, draw) {
  const again = () => {
    const width = Math.floor(node.clientWidth);
    if (width > 0) draw(width);
  };
  let known = 0;
  new ResizeObserver(() => {
    if (node.clientWidth !== known) { known = node.clientWidth; again(); }
  }).observe(node);
  return again;
}

const path = (points) => points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

/** Round steps from 0 up to a little over `most`. */
function ticks(most, count = 3) {
  const raw = Math.max(most, 1e-9) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => one >= raw - 1e-12);
  return Array.from({ length: count + 1 }, (_, index) => index * step);
}

const text = (x, y, anchor, content, cls = "axis") => s("text", { x, y, "text-anchor": anchor, class: cls }, content);
const line = (x1, y1, x2, y2, cls) => s("line", { x1, y1, x2, y2, class: cls });

/** Stacked areas of texts a second. `rates` as History.rates gives them. */
export function trafficChart(rates, width) {
  const height = width < 520 ? 200 : 244;
  const [left, right, top, bottom] = [46, 8, 10, height - 24];
  const most = Math.max(1, ...rates.map((one) => TIERS.reduce((total, { key }) => total + one[key], 0)));
  const marks = ticks(most);
  const end = rates.at(-1).at;
  const age = Math.max(60, end - rates[0].at);
  const x = (at) => width - right - ((end - at) / age) * (width - left - right);
  const y = (value) => bottom - (value / marks.at(-1)) * (bottom - top);
  const parts = marks.map((mark) => [line(left, y(mark), width - right, y(mark), mark ? "rule" : "base"), text(left - 8, y(mark) + 4, "end", plain(mark))]).flat();
  let floor = rates.map(() => 0);
  for (const { key } of TIERS) {
    const ceiling = floor.map((value, index) => value + rates[index][key]);
    const upper = rates.map((one, index) => [x(one.at), y(ceiling[index])]);
    const lower = rates.map((one, index) => [x(one.at), y(floor[index])]);
    parts.push(s("path", { d: `${path([...upper, ...lower.toReversed()])}Z`, class: `area ${key}` }), s("path", { d: path(upper), class: `edge ${key}` }));
    floor = ceiling;
  }
  const steps = width < 520 ? 2 : 4;
  for (let step = 0; step <= steps; step += 1) {
    const at = end - (age * step) / steps;
    parts.push(text(x(at), height - 6, step === 0 ? "end" : step === steps ? "start" : "middle", step === 0 ? "now" : `−${span(end - at)}`));
  }
  const last = rates.at(-1);
  const sentence = `Texts a second over the last ${span(age)}. Now: ${TIERS.map(({ key, long }) => `${long} ${figure(last[key])}`).join(", ")}.`;
  return s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": sentence }, parts);
}

/** Texts that wait for engines, over the readings: [{at, queued}], `queued` null where no engine answered. */
export function queueChart(readings, width) {
  const height = 96;
  const [left, right, top, bottom] = [46, 8, 8, height - 22];
  const marks = ticks(Math.max(4, ...readings.map((one) => one.queued ?? 0)), 2);
  const end = readings.at(-1).at;
  const age = Math.max(60, end - readings[0].at);
  const x = (at) => width - right - ((end - at) / age) * (width - left - right);
  const y = (value) => bottom - (value / marks.at(-1)) * (bottom - top);
  const parts = marks.map((value) => [line(left, y(value), width - right, y(value), value ? "rule" : "base"), text(left - 8, y(value) + 4, "end", plain(value))]).flat();
  let run = [];
  const flush = () => {
    if (run.length > 1) parts.push(s("path", { d: path(run), class: "edge queue" }));
    run = [];
  };
  for (const one of readings) {
    if (one.queued === null) flush();
    else run.push([x(one.at), y(one.queued)]);
  }
  flush();
  parts.push(text(left, height - 4, "start", `−${span(age)}`), text(width - right, height - 4, "end", "now"));
  const last = readings.at(-1).queued;
  const sentence = `Texts waiting for engines over the last ${span(age)}: at most ${number(Math.max(0, ...readings.map((one) => one.queued ?? 0)))}; now ${last === null ? "unknown, no engine answers" : number(last)}.`;
  return s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": sentence }, parts);
}

/** A key to the areas, with what each has now: mark, name, rate and share. */
export function trafficLegend(rates, by) {
  const all = Object.values(by).reduce((total, value) => total + value, 0);
  return h("ul", { class: "legend" }, TIERS.map(({ key, name, long }) =>
    h("li", { title: long }, mark(key), h("span", { class: "name" }, name), h("span", { class: "value" }, `${figure(rates.at(-1)[key])}/s`),
      h("span", { class: "quiet value" }, all > 0 ? percent(by[key] / all) : "–"))));
}

/** The mark of a tier: a shape as well as a colour. */
export function mark(key) {
  const shapes = {
    local: s("circle", { cx: 6, cy: 6, r: 5 }),
    exact: s("rect", { x: 1.5, y: 1.5, width: 9, height: 9, rx: 1 }),
    semantic: s("path", { d: "M6 0.500 11.500 6 6 11.500 0.500 6Z" }),
    miss: s("path", { d: "M6 1 11.500 10.500H0.500Z" }),
  };
  return s("svg", { width: 12, height: 12, viewBox: "0 0 12 12", class: `mark ${key}`, "aria-hidden": "true" }, shapes[key]);
}

/** A line of shares in [0, 1]; null leaves a gap. */
export function spark(values, width = 120, height = 28) {
  const x = (index) => (index / Math.max(1, values.length - 1)) * (width - 4) + 2;
  const points = values.map((value, index) => (value === null ? null : [x(index), height - 3 - value * (height - 6)])).filter(Boolean);
  return s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "spark", "aria-hidden": "true" },
    line(0, height - 3, width, height - 3, "rule"), points.length > 1 ? s("path", { d: path(points), class: "edge spark-line" }) : null,
    points.length ? s("circle", { cx: points.at(-1)[0], cy: points.at(-1)[1], r: 2.5, class: "spark-end" }) : null);
}

const FASTEST = 0.0001;
const SLOWEST = 10;

/** Stages with percentiles, each a span from p50 to p99 on a logarithmic scale. */
export function latencyChart(rows, width) {
  const [left, right] = [8, 8];
  const step = 58;
  const height = rows.length * step + 22;
  const place = (value) => Math.log(Math.min(SLOWEST, Math.max(FASTEST, value)) / FASTEST) / Math.log(SLOWEST / FASTEST);
  const x = (value) => left + place(value) * (width - left - right);
  const parts = [];
  for (const [value, word] of [[0.0001, "0.1 ms"], [0.001, "1"], [0.01, "10"], [0.1, "100"], [1, "1 s"], [10, "10"]]) {
    const anchor = value === FASTEST ? "start" : value === SLOWEST ? "end" : "middle";
    parts.push(line(x(value), 0, x(value), height - 20, "rule"), text(x(value), height - 4, anchor, word));
  }
  rows.forEach(({ name, p50, p95, p99 }, index) => {
    const y = index * step + 42;
    parts.push(text(left, y - 22, "start", name, "label"));
    if (p50 === null) {
      parts.push(text(left, y + 4, "start", "nothing in this time"));
      return;
    }
    parts.push(
      text(width - right, y - 22, "end", `p50 ${duration(p50)}   p99 ${duration(p99)}`, "label figure"),
      s("line", { x1: x(p50), y1: y, x2: x(p99), y2: y, class: "whisker" }),
      s("circle", { cx: x(p50), cy: y, r: 5, class: "p50" }),
      s("path", { d: `M${x(p95).toFixed(1)} ${y - 6}V${y + 6}`, class: "p95" }),
      s("path", { d: `M${x(p99).toFixed(1)} ${y - 6}l5 6-5 6-5-6Z`, class: "p99" }),
    );
  });
  const sentence = rows.map(({ name, p50, p95, p99 }) => `${name}: ${p50 === null ? "nothing" : `p50 ${duration(p50)}, p95 ${duration(p95)}, p99 ${duration(p99)}`}`).join("; ");
  return s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Latency. ${sentence}.` }, parts);
}

/**
 * Two panels over one axis of thresholds: the share of look-ups reused, and the share of those that is wrong, with its
 * interval. `chosen` {tau}, `serving` tau or null, `alpha` the allowed share.
 */
export function curveChart({ points, fidelity, alpha, chosen, serving }, width) {
  const narrow = width < 520;
  const [left, right] = [46, 12];
  const [upper, lower] = [{ top: 22, bottom: narrow ? 130 : 184 }, { top: narrow ? 168 : 228, bottom: narrow ? 268 : 372 }];
  const height = lower.bottom + 40;
  const x = (tau) => left + ((tau - 0.8) / 0.2) * (width - left - right);
  const seen = points.filter((one) => one.wrong !== null);
  const wrongest = Math.min(1, 5 * alpha, Math.max(2 * alpha, ...seen.map((one) => one.wrong * 1.25))); // more is off the scale
  const marks = { upper: ticks(Math.max(0.05, points[0].reused), 3), lower: ticks(wrongest, 2) };
  const y = (panel, scale) => (share) => panel.bottom - (share / scale.at(-1)) * (panel.bottom - panel.top);
  const [yReused, yWrong] = [y(upper, marks.upper), y(lower, marks.lower)];
  const parts = [];
  for (const [panel, scale, at] of [[upper, marks.upper, yReused], [lower, marks.lower, yWrong]]) {
    for (const value of scale) parts.push(line(left, at(value), width - right, at(value), value ? "rule" : "base"), text(left - 8, at(value) + 4, "end", percent(value, value && scale[1] < 0.01 ? 1 : 0)));
  }
  parts.push(text(left, upper.top - 9, "start", "Reused, of all look-ups", "label"), text(left, lower.top - 9, "start", `Wrong, of what is reused (below ${fidelity})`, "label"));
  parts.push(s("path", { d: path(points.map((one) => [x(one.tau), yReused(one.reused)])), class: "curve reused" }));
  if (seen.length) {
    const band = [...seen.map((one) => [x(one.tau), yWrong(one.interval[1])]), ...seen.toReversed().map((one) => [x(one.tau), yWrong(one.interval[0])])];
    parts.push(s("clipPath", { id: "wrong-panel" }, s("rect", { x: left, y: lower.top - 2, width: width - left - right, height: lower.bottom - lower.top + 4 })),
      s("g", { "clip-path": "url(#wrong-panel)" }, s("path", { d: `${path(band)}Z`, class: "band" }), s("path", { d: path(seen.map((one) => [x(one.tau), yWrong(one.wrong)])), class: "curve wrong" })));
  }
  parts.push(line(left, yWrong(alpha), width - right, yWrong(alpha), "allowed"), text(width - right, yWrong(alpha) - 5, "end", `allowed ${percent(alpha)}`, "axis halo"));
  for (const tau of narrow ? [0.8, 0.9, 1] : [0.8, 0.84, 0.88, 0.92, 0.96, 1]) parts.push(text(x(tau), lower.bottom + 17, tau === 1 ? "end" : tau === 0.8 ? "start" : "middle", number(tau, 2)));
  parts.push(text(left + (width - left - right) / 2, height - 4, "middle", "threshold: predicted similarity less its margin"));
  const flags = []; // over both lines
  const flag = (tau, cls, word, row) => {
    const at = x(Math.max(0.8, Math.min(1, tau)));
    const atEnd = at > width - 120;
    parts.push(line(at, upper.top - 4, at, lower.bottom, cls));
    flags.push(text(at + (atEnd ? -6 : 6), upper.top + 8 + row * 15, atEnd ? "end" : "start", `${word} ${number(tau, 3)}`, `flag ${cls}`));
  };
  if (serving !== null && serving !== undefined) flag(serving, "serving", "in force", 0);
  flag(chosen, "chosen", "what if", 1);
  parts.push(...flags);
  const here = points.reduce((best, one) => (Math.abs(one.tau - chosen) < Math.abs(best.tau - chosen) ? one : best));
  const sentence = `At threshold ${number(chosen, 3)} and fidelity ${fidelity}, ${percent(here.reused)} of look-ups would be reused, ${here.wrong === null ? "none" : percent(here.wrong)} of them wrong.`;
  return s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": sentence }, parts);
}

/** A closed table behind a chart. */
export function asTable(table) {
  return h("details", {}, h("summary", {}, "As a table"), table);
}
