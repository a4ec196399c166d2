// The lower half of the page: one namespace's semantic hits. What was learned, what another threshold would mean, the
// policy in force and its changes, and why a text is served or not.

import { call } from "./api.js";
import { makeAudit } from "./audit.js";
import { byId, h, number, percent, show } from "./dom.js";
import { makeExplain } from "./explain.js";
import { makePolicy } from "./policy.js";
import { makeWhatIf } from "./whatif.js";

export function makeNamespace(engineMs) {
  const chosen = byId("chosen");
  const model = byId("chosen-model");
  const view = { namespace: "default", policy: null, calibration: null, query: (more = {}) => query(more) };
  let turn = 0; // so that an answer for a namespace that was left is not shown

  function query(more) {
    const names = model.options.length > 1 ? { model: model.value } : {};
    return new URLSearchParams({ namespace: view.namespace, ...names, ...more }).toString();
  }

  view.change = async (body) => {
    const answer = await call("admin/thresholds", { method: "PUT", body: { namespace: view.namespace, ...body } });
    await refresh();
    return answer;
  };
  view.undo = async (change) => {
    const whose = change.namespace === "*" ? { all: true } : { namespace: change.namespace };
    const answer = await call("admin/undo", { method: "POST", body: { ...whose, revision: change.revision } });
    await refresh();
    policy.tell(answer);
    return answer;
  };
  view.names = () => (model.options.length > 1 ? { model: model.value } : {});

  const policy = makePolicy(view);
  const whatIf = makeWhatIf(view, engineMs, policy);
  const explain = makeExplain(view);
  const audit = makeAudit(view);

  async function refresh() {
    const asked = (turn += 1);
    const shown = await call(`admin/thresholds?${query({})}`);
    let calibration = null;
    if (shown.namespaces[view.namespace].learned) calibration = await call(`admin/calibration?${query({})}`).catch(() => view.calibration);
    if (asked !== turn) return;
    view.policy = shown.namespaces[view.namespace];
    view.calibration = calibration;
    served(view);
    policy.update();
    whatIf.update();
    audit.update(shown.changes);
  }

  function options(select, names) {
    if ([...select.options].map((one) => one.value).join("\n") === names.join("\n")) return;
    const before = select.value;
    select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    if (names.includes(before)) select.value = before;
  }

  const changed = () => {
    view.namespace = chosen.value;
    view.policy = view.calibration = null;
    policy.reset();
    whatIf.reset();
    explain.reset();
    return refresh().catch(() => {});
  };
  chosen.addEventListener("change", changed);
  model.addEventListener("change", changed);

  return {
    refresh,
    /** The namespaces and models there are. */
    offer(overview) {
      options(chosen, overview.namespaces);
      options(model, overview.models.map((one) => one.name));
      byId("model-choice").hidden = overview.models.length < 2;
      view.namespace = chosen.value;
      if (overview.namespaces_left_out) chosen.title = `${overview.namespaces_left_out} more are not listed`;
    },
  };
}

const MODES = {
  off: "off: nothing is looked up or learned",
  observe: "observe: it learns, and serves nothing",
  auto: "auto: it serves once that is proven, and worth its cost",
  on: "on: it serves above a moving threshold",
};

function served({ policy, calibration }) {
  const mode = policy.in_force.semantic_mode.value;
  const learned = policy.learned;
  const parts = [h("strong", {}, MODES[mode])];
  if (learned) {
    parts.push(learned.serving_from === null ? "Not serving now." : `Serving from ${number(learned.serving_from, 3)} on.`);
    if (mode === "auto" && learned.certificate_phase) parts.push(`Certificate: ${learned.certificate_phase}.`);
    if (mode === "on" && learned.reason) parts.push(`Threshold: ${learned.reason}.`);
    const wrong = learned.checked ? `, ${percent(learned.violations / learned.checked)} of those wrong` : "";
    parts.push(`${number(learned.hits)} hits served, ${number(learned.checked)} of them recomputed${wrong}.`);
  } else if (mode !== "off") {
    parts.push("Nothing can be said of it now: engine or Redis is away, or the bundle has no static embedding.");
  }
  if (calibration) parts.push(h("span", { class: "quiet" }, calibration.reading));
  show(byId("served"), parts.flatMap((part) => [part, " "]));
}
