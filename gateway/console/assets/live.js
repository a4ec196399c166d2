// The upper half of the page: what all workers of this gateway have done lately, its engines, its caches.

import { asTable, drawn, latencyChart, queueChart, spark, trafficChart, trafficLegend } from "./charts.js";
import { byId, bytes, duration, figure, h, number, percent, show, span, table } from "./dom.js";
import { hitShare, quantile, TIERS, WINDOW_S } from "./figures.js";

const STAGES = { request: "Whole request", local: "L0", exact: "Exact tier", semantic: "Semantic tier", engine: "Engine with queue" };
const SHAPES = { good: "●", warn: "▲", bad: "✕", none: "○" };

/** A state as a shape, a colour and a word. */
export function state(kind, word) {
  return h("span", { class: `state ${kind}` }, h("span", { "aria-hidden": "true" }, SHAPES[kind]), " ", word);
}

/** Redis' state; `word` is the gateway's. */
export function redisState(word) {
  return state({ ok: "good", none: "none", "partly away": "warn" }[word] ?? "bad", word);
}

export function pills(overview) {
  const models = overview.models;
  const ready = models.filter((model) => model.is_ready).length;
  const engine = models.length === 1 ? (ready ? "ready" : "away") : `${ready} of ${models.length} models ready`;
  show(byId("pills"),
    h("li", {}, "Engine ", state(ready === models.length ? "good" : ready ? "warn" : "bad", engine)),
    h("li", {}, "Redis ", redisState(overview.redis.state)),
    overview.semantic_redis ? h("li", {}, "Semantic Redis ", redisState(overview.semantic_redis.state)) : null);
}

export function makeLive(history) {
  const figuresOf = () => {
    const { by, seconds } = history.texts();
    const rates = history.rates();
    return { by, seconds, rates, now: history.latest };
  };
  const chart = byId("traffic");
  const canvas = h("div", { class: "canvas" });
  const legend = h("div");
  const behind = h("div");
  chart.append(canvas, legend, behind);
  const drawTraffic = drawn(canvas, (width) => {
    const { by, rates } = figuresOf();
    if (!rates.length) {
      show(canvas, h("p", { class: "empty" }, "Collecting: the first points come with the second reading."));
      return;
    }
    canvas.replaceChildren(trafficChart(rates, width));
    show(legend, trafficLegend(rates, by));
    tableBehind(behind, rates);
  });
  const queue = h("div", { class: "canvas" });
  const list = h("div");
  byId("engines").append(list, h("p", { class: "quiet caption" }, "Texts waiting for engines"), queue);
  const drawQueue = drawn(queue, (width) => queue.replaceChildren(queueChart(history.readings.map((one) => ({ at: one.at, queued: queued(one) })), width)));
  const latency = h("div", { class: "canvas" });
  byId("latency").append(latency, h("p", { class: "key quiet" }, "● p50   | p95   ◆ p99, on a logarithmic scale"));
  const drawLatency = drawn(latency, (width) => latency.replaceChildren(latencyChart(stages(history), width)));

  return () => {
    const { by, seconds, rates, now } = figuresOf();
    pulse(history, by, seconds, rates);
    byId("latency-window").textContent = seconds > 0 ? `last ${span(Math.min(seconds, WINDOW_S))}` : "since the start";
    drawTraffic();
    drawLatency();
    drawQueue();
    engines(list, now.models);
    caches(now);
    pills(now);
  };
}

function tableBehind(node, rates) {
  if (!node.firstChild) node.append(asTable(h("div")));
  if (!node.firstChild.open) return;
  const end = rates.at(-1).at;
  const rows = rates.toReversed().filter((_, index) => index % 15 === 0).map((one) => [one.at === end ? "now" : `−${span(end - one.at)}`, ...TIERS.map(({ key }) => figure(one[key]))]);
  const heads = [{ name: "When" }, ...TIERS.map(({ name }) => ({ name: `${name}, /s`, class: "right" }))];
  show(node.firstChild.lastChild, table(heads, rows, { label: "Traffic by tier" }));
}

function stages(history) {
  return Object.entries(STAGES).filter(([key]) => history.latest.latency[key]).map(([key, name]) => {
    let buckets = history.buckets(key);
    if (history.readings.length < 2) buckets = history.latest.latency[key];
    return { name, p50: quantile(buckets, 0.5), p95: quantile(buckets, 0.95), p99: quantile(buckets, 0.99) };
  });
}

function pulse(history, by, seconds, rates) {
  const now = history.latest;
  const over = seconds > 0 ? `last ${span(seconds)}` : "collecting";
  const buckets = history.buckets("request");
  const { good, violation } = now.checked_hits;
  const lines = rates.map((one) => hitShare(one));
  const rate = seconds > 0 ? Object.values(by).reduce((total, value) => total + value, 0) / seconds : null;
  const share = hitShare(by);
  const ever = hitShare(now.texts);
  show(byId("pulse"),
    cell("Hit share", percent(share), share === null ? (ever === null ? "no texts yet" : `none lately; ${percent(ever)} since the start`) : `${over}; ${percent(ever)} since the start`, spark(lines)),
    cell("Texts a second", rate === null ? "–" : figure(rate), `${over}; requests in work: ${number(now.in_flight)}`),
    cell("Request, p99", duration(quantile(buckets, 0.99) ?? NaN), `p50 ${duration(quantile(buckets, 0.5) ?? NaN)}; ${over}`),
    cell("Wrong semantic hits", good + violation > 0 ? percent(violation / (good + violation)) : "–", good + violation > 0 ? `${number(violation)} of ${number(good + violation)} that were recomputed` : "none recomputed yet"),
    cell("Texts waiting for engines", number(queued(now)), `failed requests: ${number(Object.entries(now.requests).reduce((total, [status, count]) => total + (status >= "500" ? count : 0), 0))} since the start`));
}

/** Texts that wait for all engines; null while none tells. */
function queued(reading) {
  const told = reading.models.flatMap((model) => model.engines).map((engine) => engine.queued_texts).filter((one) => one !== undefined);
  return told.length ? told.reduce((total, one) => total + one, 0) : null;
}

function cell(name, value, note, drawing) {
  return h("div", { class: "figure" }, h("dt", {}, name), h("dd", {}, h("span", { class: "big" }, value), drawing ?? null), h("dd", { class: "quiet" }, note));
}

const WORDS = { ready: ["good", "ready"], "not ready": ["warn", "not ready"], away: ["bad", "away"], "left out": ["warn", "left out"], avoided: ["warn", "avoided"], silent: ["bad", "silent"], ejected: ["bad", "ejected"] };

function engines(node, models) {
  const heads = [{ name: "Engine" }, { name: "State" }, { name: "Queue, texts", class: "right" }, { name: "tokens", class: "right" }, { name: "Tokens/s", class: "right" }, { name: "Padding", class: "right" }, { name: "Memory", class: "right" }];
  show(node, models.map((model) => [
    h("p", { class: "model" }, h("strong", {}, model.name), h("span", { class: "quiet" }, model.dimensions ? ` ${model.dimensions} dimensions, fingerprint ${model.fingerprint.slice(0, 12)}` : " not reached yet")),
    table(heads, model.engines.map((one) => [
      one.url.replace(/^https?:\/\//, ""), state(...WORDS[one.state]), number(one.queued_texts), number(one.queued_tokens), number(one.tokens_per_s), percent(one.padding_share, 0), one.gpu_total_bytes ? `GPU ${bytes(one.gpu_used_bytes)} of ${bytes(one.gpu_total_bytes)}` : bytes(one.memory_bytes ?? NaN),
    ]), { label: `Engines of ${model.name}` }),
    model.is_ready ? null : h("p", { class: "trouble" }, `The gateway answers what is cached, and 503 to the rest: ${model.reason || "the engine is away"}. Look at the engine's log.`),
    ...model.engines.filter((one) => one.reason).map((one) => h("p", { class: "quiet" }, `${one.url.replace(/^https?:\/\//, "")}: ${one.reason}`)),
  ]));
}

/** How much of a bound is used; `high`: from where on that is worth a look. */
function meter(used, most, label, high = most) {
  return h("meter", { min: 0, max: most, high, value: Math.min(used, most), "aria-label": label });
}

const NOTES = {
  away: "Redis does not answer: requests go on with L0 and the engine, and nothing is learned. dejavec uses it again when it is back.",
  "partly away": "Some servers of the Redis cluster do not answer: texts whose entries they hold are computed anew, all others are answered from the cache. dejavec uses them again when they are back.",
  none: "No Redis is set: there is L0 alone. redis_url gives exact entries that outlive a restart, and semantic hits.",
};
const SEMANTIC_NOTES = {
  away: "The Redis of the semantic tier (semantic_redis_url) does not answer: there are no semantic hits and nothing is learned. Exact entries are not affected.",
};
SEMANTIC_NOTES["partly away"] = SEMANTIC_NOTES.away;

/** Redis, the semantic tier's own where there is one, and L0. */
export function caches(now) {
  const { redis, semantic_redis: semantic, local } = now;
  byId("redis-version").textContent = [redis.server, semantic?.server].filter(Boolean).join(", ");
  const rows = [...figuresOfRedis("Redis", redis), ...(semantic ? figuresOfRedis("Semantic Redis", semantic) : [])];
  const row = (name, value, extra) => rows.push(fact(name, value, extra));
  row("Written", number(now.written), now.write_dropped ? h("span", { class: "quiet" }, ` ${number(now.write_dropped)} dropped`) : null);
  row("Failed look-ups", number(now.cache_errors));
  row(local.workers > 1 ? `L0 of ${local.workers} workers` : "L0 of one worker", `${number(local.entries)} vectors, ${bytes(local.bytes)}`, local.max_bytes ? meter(local.bytes, local.max_bytes, "L0 in use") : null);
  const note = (text, kind) => (text ? h("p", { class: kind === "none" ? "teach" : "trouble" }, text) : null);
  show(byId("caches"), note(NOTES[redis.state], redis.state), semantic ? note(SEMANTIC_NOTES[semantic.state], semantic.state) : null, h("dl", { class: "facts" }, rows));
}

function fact(name, value, extra) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value, extra ?? null));
}

/** Rows of what Redis tells of itself; of a cluster the sums, and how full its fullest server is. None where it tells nothing. */
function figuresOfRedis(name, redis) {
  if (redis.servers === undefined) return [];
  const used = redis.memory_max_bytes > 0 ? `${bytes(redis.memory_bytes)} of ${bytes(redis.memory_max_bytes)}` : `${bytes(redis.memory_bytes)}, no limit`;
  const [most, full] = [redis.fullest_memory_max_bytes, redis.fullest_memory_bytes];
  const fullest = redis.servers > 1 && most > 0 ? `; the fullest server ${percent(full / most, 0)}` : "";
  const of = redis.servers > 1 ? `${name}, ${redis.servers} servers:` : name;
  return [
    fact(`${of} memory`, used + fullest, most > 0 ? meter(full, most, `${name} memory in use`, 0.9 * most) : null),
    fact(`${of} keys`, number(redis.keys)),
    fact(`${of} evicted`, number(redis.evicted_keys)),
    fact(`${of} expired`, number(redis.expired_keys)),
  ];
}
