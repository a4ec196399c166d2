// What a threshold and a fidelity would mean, from the bins of labels that the gateway gives; the same arithmetic as
// cache/semantic/calibration.py, so that a slider needs no call.

const WIDTH = 0.005;
export const LOWEST = 0.8;
const Z_95 = 1.959964;

/** The first edge at or above a value: between edges the next one counts, so that the answer is never rosier. */
const edge = (value) => Math.ceil((value - LOWEST) / WIDTH - 1e-9) * WIDTH + LOWEST;
const atLeast = (value, bound) => value >= bound - 1e-9;

/** The 95 % interval of a share seen in n trials (Wilson 1927). */
export function wilson(share, n) {
  if (n <= 0) return [0, 1];
  const spread = (Z_95 * Z_95) / n;
  const middle = (share + spread / 2) / (1 + spread);
  const half = (Z_95 * Math.sqrt((share * (1 - share)) / n + spread / (4 * n))) / (1 + spread);
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

/** {reused, wrong, interval, labels}: shares of look-ups, and of what would be reused; `wrong` null where nothing is. */
export function whatIf(calibration, tau, fidelity) {
  const [from, good] = [edge(tau), edge(fidelity)];
  let [weight, bad, squares] = [0, 0, 0];
  for (const bin of calibration.bins) {
    if (!atLeast(bin.z_from, from)) continue;
    weight += bin.weight;
    squares += bin.labels > 0 ? (bin.weight * bin.weight) / bin.labels : 0;
    for (const [similarity, part] of bin.true_from) if (!atLeast(similarity, good)) bad += part;
  }
  const reused = calibration.lookups > 0 ? weight / calibration.lookups : 0;
  if (weight <= 0) return { reused, wrong: null, interval: null, labels: 0 };
  const labels = squares > 0 ? (weight * weight) / squares : 0;
  return { reused, wrong: bad / weight, interval: wilson(bad / weight, labels), labels };
}

/** The points of the curve for a fidelity: [{tau, reused, wrong, interval, labels}]. */
export function curve(calibration, fidelity) {
  const taus = Array.from({ length: 41 }, (_, index) => LOWEST + index * WIDTH);
  return taus.map((tau) => ({ tau, ...whatIf(calibration, tau, fidelity) }));
}
