// Rates, shares and percentiles out of readings of counters, which the gateway gives as sums since its start.

export const TIERS = [
  { key: "local", name: "L0", long: "In-process cache (L0)" },
  { key: "exact", name: "Exact", long: "Exact tier in Redis" },
  { key: "semantic", name: "Semantic", long: "Semantic hits" },
  { key: "miss", name: "Computed", long: "Computed by the engine" },
];
export const KEPT_S = 600;
export const WINDOW_S = 300;
const SMOOTHED = 3; // readings that a rate goes over

const sum = (values) => Object.values(values).reduce((total, value) => total + value, 0);

/** The readings of the last minutes, the oldest first. */
export class History {
  constructor() { this.readings = []; }

  get latest() { return this.readings.at(-1); }

  add(reading) {
    const last = this.latest;
    if (last && reading.at <= last.at) return;
    if (last && sum(reading.texts) < sum(last.texts)) this.readings = []; // the gateway was started anew
    this.readings.push(reading);
    while (this.readings[0].at < reading.at - KEPT_S) this.readings.shift();
  }

  /** The oldest reading of the window, to subtract from the latest. */
  base(window_s = WINDOW_S) {
    const from = this.latest.at - window_s;
    return this.readings.find((one) => one.at >= from);
  }

  /** Texts by tier within the window, and the seconds that it covers so far. */
  texts(window_s = WINDOW_S) {
    const [base, now] = [this.base(window_s), this.latest];
    const by = Object.fromEntries(TIERS.map(({ key }) => [key, (now.texts[key] ?? 0) - (base.texts[key] ?? 0)]));
    return { by, seconds: now.at - base.at };
  }

  /** Texts a second by tier at each reading: [{at, local, exact, ...}]. */
  rates() {
    return this.readings.map((now, index) => {
      const base = this.readings[Math.max(0, index - SMOOTHED)];
      const seconds = now.at - base.at;
      const of = (key) => (seconds > 0 ? Math.max(0, (now.texts[key] ?? 0) - (base.texts[key] ?? 0)) / seconds : 0);
      return { at: now.at, ...Object.fromEntries(TIERS.map(({ key }) => [key, of(key)])) };
    }).slice(1);
  }

  /** Bucket counts of a stage within the window: [[upper bound or null, cumulative count]]. */
  buckets(stage, window_s = WINDOW_S) {
    const now = this.latest.latency[stage] ?? [];
    const before = new Map((this.base(window_s).latency[stage] ?? []).map(([bound, count]) => [bound, count]));
    return now.map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)]);
  }
}

export function hitShare(by) {
  const all = TIERS.reduce((total, { key }) => total + (by[key] ?? 0), 0);
  return all > 0 ? (all - (by.miss ?? 0)) / all : null;
}

/** A quantile of a histogram, linear within its bucket, as Prometheus has it; null without observations. */
export function quantile(buckets, q) {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  const rank = q * total;
  let [lower, below] = [0, 0];
  for (const [bound, count] of buckets) {
    if (count >= rank) {
      if (bound === null) return lower;
      return lower + (bound - lower) * (count > below ? (rank - below) / (count - below) : 0);
    }
    [lower, below] = [bound, count];
  }
  return lower;
}
