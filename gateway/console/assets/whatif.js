// The curve of a namespace and the two sliders over it: what a threshold and a fidelity would reuse, get wrong and save.

import { curve, whatIf } from "./calibration.js";
import { asTable, curveChart, drawn } from "./charts.js";
import { byId, figure, h, number, percent, show, table } from "./dom.js";

const FEWEST_LABELS = 20;

function slider(id, label, min, max, step) {
  const input = h("input", { type: "range", id, min, max, step });
  const output = h("output", { for: id });
  return { input, output, row: h("div", { class: "slider" }, h("label", { for: id }, label), output, input) };
}

export function makeWhatIf(view, engineMs, policy) {
  const tau = slider("tau", "Threshold", 0.8, 1, 0.005);
  const fidelity = slider("fidelity", "Fidelity", 0.8, 0.99, 0.005);
  const price = h("input", { type: "number", id: "price", min: 0, step: "any", inputMode: "decimal", placeholder: "none" });
  const result = h("div");
  const apply = h("button", { type: "button", class: "main", onclick: () => policy.propose(proposal()) }, "Propose this");
  const how = h("p", { class: "quiet" });
  byId("whatif").append(tau.row, fidelity.row, result, h("p", { class: "price" }, h("label", { for: "price" }, "Price of a million tokens, to count money"), price), apply, how);
  const canvas = h("div", { class: "canvas" });
  const behind = asTable(h("div"));
  byId("curve").append(canvas, behind);
  let isMoved = false;

  const chosen = () => ({ tau: Number(tau.input.value), fidelity: Number(fidelity.input.value) });
  const value = (field) => view.policy.in_force[field].value;

  function proposal() {
    const { tau: at, fidelity: bound } = chosen();
    const values = { semantic_fidelity: bound };
    if (value("semantic_mode") === "on") {
      values.similarity_threshold = at;
      values.threshold_floor = Math.min(value("threshold_floor"), at);
      values.threshold_ceiling = Math.max(value("threshold_ceiling"), at);
    }
    return values;
  }

  const draw = drawn(canvas, (width) => {
    const labels = view.calibration?.labels ?? 0;
    byId("labels").textContent = view.calibration ? `${number(labels)} labels for ${number(view.calibration.lookups)} look-ups` : "";
    behind.hidden = labels < 1;
    if (labels < 1) {
      show(canvas, h("div", { class: "empty" }, h("p", {}, teaching())));
      return;
    }
    canvas.shown = null;
    const { tau: at, fidelity: bound } = chosen();
    const points = curve(view.calibration, bound);
    canvas.replaceChildren(curveChart({ points, fidelity: bound, alpha: value("certificate_alpha"), chosen: at, serving: view.calibration.tau }, width));
    if (behind.open) tableOf(points);
  });
  behind.addEventListener("toggle", () => draw());

  function teaching() {
    if (!view.policy) return "Reading what was learned…";
    if (value("semantic_mode") === "off") return "Semantic hits are off here, so there are no labels. Set the mode to observe: nothing is served then, and each text that the engine computes becomes a label.";
    if (!view.policy.learned) return "What was learned cannot be read now: engine or Redis is away, or the model's bundle has no static embedding.";
    if (!view.calibration) return "What was learned could not be read just now, as Redis was too slow. Trying again.";
    return "No labels yet. Each text that is computed is compared with its nearest neighbour, and that comparison is a label; some hundred make a curve. Send traffic, or replay a log with dejavec cache simulate.";
  }

  function tableOf(points) {
    const heads = [{ name: "Threshold" }, ...["Reused", "Wrong", "95 % interval", "Labels behind it"].map((name) => ({ name, class: "right" }))];
    const rows = points.filter((one) => one.reused > 0).map((one) => [number(one.tau, 3), percent(one.reused), percent(one.wrong), one.interval ? `${percent(one.interval[0])} – ${percent(one.interval[1])}` : "–", number(one.labels)]);
    show(behind.lastChild, table(heads, rows, { label: "The curve" }));
  }

  function answers() {
    const { tau: at, fidelity: bound } = chosen();
    tau.output.textContent = number(at, 3);
    fidelity.output.textContent = number(bound, 3);
    tau.input.setAttribute("aria-valuetext", number(at, 3));
    fidelity.input.setAttribute("aria-valuetext", number(bound, 3));
    const calibration = view.calibration;
    const mode = view.policy ? value("semantic_mode") : "off";
    apply.disabled = !view.policy || mode === "off";
    how.textContent = mode === "on"
      ? "In mode on the threshold starts where you set it, or at the fidelity where that is higher, and moves between floor and ceiling."
      : "In mode auto the threshold is proven from the labels, not set: what you choose is the fidelity. Mode on lets you set both.";
    if (!calibration || calibration.labels < 1) {
      show(result);
      return;
    }
    const then = whatIf(calibration, at, bound);
    const now = calibration.tau === null ? null : whatIf(calibration, calibration.tau, calibration.fidelity);
    const saved = (one) => (one && engineMs() !== null ? 1000 * one.reused * engineMs() : null);
    const heads = [{ name: "" }, { name: "What if", class: "right" }, { name: "In force", class: "right" }];
    const perMillion = Number(price.value) * (engineMs.tokens?.() ?? NaN);
    const rows = [
      ["Reused, of look-ups", h("strong", { id: "whatif-reused" }, percent(then.reused)), now ? percent(now.reused) : "none"],
      ["Wrong, of reused", h("strong", { id: "whatif-wrong" }, percent(then.wrong)), now ? percent(now.wrong) : "–"],
      ["95 % interval", then.interval ? `${percent(then.interval[0])} – ${percent(then.interval[1])}` : "–", now?.interval ? `${percent(now.interval[0])} – ${percent(now.interval[1])}` : "–"],
      ["Engine ms saved, of 1,000 look-ups", saved(then) === null ? "–" : figure(saved(then)), now && saved(now) !== null ? figure(saved(now)) : "–"],
    ];
    if (price.value && perMillion >= 0) rows.push(["Money saved, of a million look-ups", figure(then.reused * perMillion), now ? figure(now.reused * perMillion) : "–"]);
    const few = calibration.labels < FEWEST_LABELS ? h("p", { class: "trouble" }, `Only ${number(calibration.labels)} labels: too few to go by.`) : null;
    const over = then.wrong !== null && then.wrong > value("certificate_alpha") ? h("p", { class: "trouble" }, `More than the ${percent(value("certificate_alpha"))} that the policy allows.`) : null;
    show(result, table(heads, rows, { label: "What if" }), few, over);
  }

  const moved = () => { isMoved = true; answers(); draw(); };
  for (const input of [tau.input, fidelity.input]) input.addEventListener("input", moved);
  price.addEventListener("input", answers);

  return {
    reset() { isMoved = false; show(result); draw(); },
    update() {
      if (!isMoved) {
        tau.input.value = String(view.calibration?.tau ?? value("similarity_threshold"));
        fidelity.input.value = String(value("semantic_fidelity"));
      }
      answers();
      draw();
    },
  };
}
