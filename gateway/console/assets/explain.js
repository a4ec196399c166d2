// Why a text would be a semantic hit or not: its neighbours, the prediction, and what it had to clear.

import { call } from "./api.js";
import { byId, h, number, show, table } from "./dom.js";
import { state } from "./live.js";

const NEAREST = 4;

export function makeExplain(view) {
  const text = h("textarea", { id: "text", rows: 3, maxLength: 100000, required: true, placeholder: "How do I reset my password?", spellcheck: false });
  const truth = h("input", { type: "checkbox", id: "truth" });
  const go = h("button", { type: "submit", class: "main" }, "Explain");
  const answer = h("div", { role: "status" });
  byId("explain").append(
    h("form", { onsubmit: submit },
      h("label", { for: "text" }, "A text as a client would send it; it is neither served, stored nor logged"), text,
      h("div", { class: "buttons" }, go, h("label", { class: "check" }, truth, " let the engine compute it, to compare"))),
    answer);

  async function submit(event) {
    event.preventDefault();
    go.disabled = true;
    try {
      const body = { text: text.value, namespace: view.namespace, truth: truth.checked, ...view.names() };
      shown(await call("admin/explain", { method: "POST", body }));
    } catch (error) {
      show(answer, h("p", { class: "trouble" }, error.status === 404 ? "There is no semantic tier here: the mode is off, there is no Redis, or the bundle has no static embedding." : error.message));
    } finally {
      go.disabled = false;
    }
  }

  function verdict(found) {
    if (!found.candidates.length) return ["none", "No neighbour", "The index has none for this namespace yet."];
    if (found.serve) return ["good", "A hit", `z ${number(found.best.z, 3)} clears the threshold ${number(found.tau, 3)}.`];
    if (found.tau === null) return ["warn", "Not served", `Nothing is served here now: ${found.mode === "observe" ? "the mode is observe" : found.paused ? "a violation was just found" : "nothing is certified"}.`];
    return ["warn", "Not served", `z ${number(found.best?.z, 3)} is under the threshold ${number(found.tau, 3)}.`];
  }

  function shown(found) {
    const [kind, word, why] = verdict(found);
    const best = found.best;
    const steps = best === null ? null : h("dl", { class: "facts sum" },
      h("div", {}, h("dt", {}, "Predicted similarity"), h("dd", {}, number(best.predicted_similarity, 4))),
      h("div", {}, h("dt", {}, "less the margin"), h("dd", {}, `− ${number(best.margin, 4)}`)),
      h("div", { class: "total" }, h("dt", {}, "z"), h("dd", {}, number(best.z, 4))),
      h("div", {}, h("dt", {}, "Threshold"), h("dd", {}, number(found.tau, 4))),
      best.true_similarity === undefined ? null : h("div", {}, h("dt", {}, "Similarity to the engine's own vector"), h("dd", {}, number(best.true_similarity, 4))));
    const heads = [{ name: "Neighbour, by its key" }, { name: "Static similarity", class: "right" }, { name: "" }];
    const isBest = (one) => one.entry === best?.entry;
    const rows = found.candidates.toSorted((one, other) => isBest(other) - isBest(one)).map((one) => [h("code", {}, one.entry.slice(0, 12)), number(one.static_similarity, 4), isBest(one) ? "best" : ""]);
    show(answer, h("p", { class: "verdict" }, state(kind, word), " ", why), steps,
      rows.length ? table(heads, rows.slice(0, NEAREST), { label: "Nearest neighbours" }) : null,
      rows.length > NEAREST ? h("details", {}, h("summary", {}, `${rows.length - NEAREST} more`), table(heads, rows.slice(NEAREST), { label: "More neighbours" })) : null,
      h("p", { class: "quiet note" }, `Texts are not kept, so neighbours are named by their keys. Cost gate: ${found.cost_gate.state}${found.cost_gate.reason ? `, ${found.cost_gate.reason}` : ""}.`));
  }

  const teach = () => show(answer, h("p", { class: "empty" }, "You get its nearest neighbours in this namespace, the similarity that is predicted for the best of them, the margin taken off it, and the threshold that is left to clear."));
  teach();
  return { reset: teach };
}
