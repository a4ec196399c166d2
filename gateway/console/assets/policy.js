// The policy of a namespace: each value with where it comes from, changed in all gateways, and back with one click.

import { byId, h, show } from "./dom.js";

const FIELDS = [
  ["semantic_mode", "Mode", "off, observe, auto or on"],
  ["semantic_fidelity", "Fidelity", "least cosine similarity to the engine's own vector", 0.8, 0.99],
  ["certificate_alpha", "Allowed wrong share", "largest share of hits below the fidelity", 0.005, 0.2],
  ["similarity_threshold", "Threshold", "mode on: where it starts", 0, 1],
  ["threshold_floor", "Floor", "mode on: lowest it may go", 0, 1],
  ["threshold_ceiling", "Ceiling", "mode on: highest it may go", 0, 1],
];
export const NAMES = Object.fromEntries(FIELDS.map(([field, name]) => [field, name]));
const SOURCES = {
  default: "nothing set it",
  configuration: "set in dejavec.toml or by a variable",
  live: "changed while running",
};

function input(field, low, high) {
  if (field === "semantic_mode") {
    return h("select", { id: field }, ["off", "observe", "auto", "on"].map((mode) => h("option", { value: mode }, mode)));
  }
  return h("input", { id: field, type: "number", min: low, max: high, step: "any", inputMode: "decimal", required: true, "aria-describedby": `${field}-about` });
}

export function makePolicy(view) {
  const inputs = Object.fromEntries(FIELDS.map(([field, , , low, high]) => [field, input(field, low, high)]));
  const sources = Object.fromEntries(FIELDS.map(([field]) => [field, h("span", { class: "source" })]));
  const message = h("p", { class: "message", role: "status" });
  const save = h("button", { type: "submit", class: "main", disabled: true }, "Change it in all gateways");
  const drop = h("button", { type: "button", class: "plain", disabled: true, onclick: () => { reset(); update(); } }, "Discard");
  const rows = FIELDS.map(([field, name, about]) => h("div", { class: "field" },
    h("label", { for: field }, name, h("span", { class: "quiet about", id: `${field}-about` }, about)), inputs[field], sources[field]));
  byId("policy").append(h("form", { onsubmit: submit }, rows, h("div", { class: "buttons" }, save, drop)), message);
  let edited = new Set();

  const typed = (field) => (field === "semantic_mode" ? inputs[field].value : Number(inputs[field].value));
  const differs = () => FIELDS.map(([field]) => field).filter((field) => edited.has(field) && typed(field) !== view.policy.in_force[field].value);

  function mark() {
    const fields = view.policy ? differs() : [];
    for (const [field] of FIELDS) inputs[field].classList.toggle("edited", fields.includes(field));
    save.disabled = fields.length === 0;
    drop.disabled = edited.size === 0;
  }
  for (const [field] of FIELDS) inputs[field].addEventListener("input", () => { edited.add(field); mark(); });

  async function act(doing) {
    save.disabled = true;
    try {
      const answer = await doing();
      reset();
      update();
      tell(answer);
    } catch (error) {
      show(message, h("span", { class: "trouble" }, `Not changed: ${error.message}`));
      mark();
    }
  }

  /** Say what a change has changed, with the button that takes it back. */
  function tell(answer) {
    const what = answer.changed.map((one) => `${NAMES[one.field]} ${one.old} → ${one.new}`).join(", ");
    const last = answer.changed[0];
    show(message, what ? `${last.undoes ? "Undone: " : ""}${what}. ${answer.note} ` : "Nothing to change: these values are in force. ",
      last && !last.undoes ? h("button", { type: "button", class: "plain small", "data-revision": last.revision, onclick: () => act(() => view.undo(last)) }, "Undo") : null);
  }

  function submit(event) {
    event.preventDefault();
    const body = Object.fromEntries(differs().map((field) => [field, typed(field)]));
    act(() => view.change(body));
  }

  function reset() { edited = new Set(); }

  function source(field) {
    const found = view.policy.in_force[field];
    const back = found.source === "live" ? h("button", { type: "button", class: "plain small", "aria-label": `${NAMES[field]}: back to the configured value`, onclick: () => act(() => view.change({ [field]: null })) }, "Reset") : null;
    show(sources[field], h("span", { class: `chip ${found.source}`, title: SOURCES[found.source] }, found.source), back);
  }

  function update() {
    if (!view.policy) return;
    for (const [field] of FIELDS) {
      if (!edited.has(field)) inputs[field].value = String(view.policy.in_force[field].value);
      source(field);
    }
    mark();
  }

  return {
    tell,
    update,
    reset() { reset(); show(message); },
    /** Fill values in without changing anything yet. */
    propose(values) {
      for (const [field, value] of Object.entries(values)) { inputs[field].value = String(value); edited.add(field); }
      mark();
      byId("policy-title").scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
      (save.disabled ? inputs.semantic_fidelity : save).focus({ preventScroll: true });
      show(message, save.disabled ? "These values are in force already." : "Filled in; nothing is changed yet.");
    },
  };
}
