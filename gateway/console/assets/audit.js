// The changes made while running, and undoing the last one.

import { byId, h, show, table } from "./dom.js";
import { NAMES } from "./policy.js";

export function makeAudit(view) {
  const list = h("div");
  const trouble = h("p", { class: "message", role: "status" });
  byId("audit").append(list, trouble);

  async function undo(change) {
    try {
      show(trouble);
      await view.undo(change);
    } catch (error) {
      show(trouble, h("span", { class: "trouble" }, `Not undone: ${error.message}`));
    }
  }

  function button(change, doing) {
    const whose = change.namespace === "*" ? "of all namespaces" : `of ${change.namespace}`;
    return h("button", { type: "button", class: "plain small", "data-revision": change.revision, "aria-label": `${doing} ${NAMES[change.field]} ${whose}`, onclick: () => undo(change) }, doing);
  }

  /** Undo stands by the last change of a namespace that is in force, Redo by an undoing that came last. */
  function doings(changes) {
    const found = new Map();
    for (const namespace of new Set(changes.map((one) => one.namespace))) {
      const own = changes.filter((one) => one.namespace === namespace && one.revision);
      const standing = own.find((one) => !one.undoes && !one.undone);
      if (standing) found.set(standing, button(standing, "Undo"));
      if (own[0]?.undoes) found.set(own[0], button(own[0], "Redo"));
    }
    return found;
  }

  return {
    update(changes) {
      if (!changes.length) {
        show(list, h("p", { class: "empty" }, "No policy was changed while running. Each change made here, by dejavec cache thresholds or over the API will stand here, and can be undone."));
        return;
      }
      const buttons = doings(changes);
      const heads = [{ name: "When" }, { name: "Whose" }, { name: "What" }, { name: "From", class: "right" }, { name: "To", class: "right" }, { name: "" }];
      show(list, table(heads, changes.map((one) => [
        h("time", { dateTime: one.at }, new Date(one.at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" })),
        one.namespace === "*" ? "all" : one.namespace,
        h("span", {}, NAMES[one.field] ?? one.field, one.undoes ? h("span", { class: "chip" }, "undo") : null, one.undone ? h("span", { class: "chip" }, "undone") : null),
        String(one.old), String(one.new), buttons.get(one) ?? "",
      ]), { label: "Changes" }));
    },
  };
}
