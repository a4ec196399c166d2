// Where the page begins: the sign-in with the token, then a reading every two seconds.

import { call, isUnlocked, lock, Refused, unlock } from "./api.js";
import { byId, h, say, show } from "./dom.js";
import { History } from "./figures.js";
import { makeLive, redisState, state } from "./live.js";
import { makeNamespace } from "./namespace.js";

const EVERY_MS = 2000;
const history = new History();
let timer = null;
let live = null;
let namespace = null;

/** Milliseconds of the engine that a text costs: the price that is set, else by its rate and the texts' tokens. */
function engineMs() {
  const now = history.latest;
  if (now.engine_price_ms !== null) return now.engine_price_ms;
  const rate = Math.max(0, ...now.models.flatMap((model) => model.engines).map((one) => one.tokens_per_s ?? 0));
  const tokens = engineMs.tokens();
  return rate > 0 && Number.isFinite(tokens) ? (1000 * tokens) / rate : null;
}
engineMs.tokens = () => {
  const texts = Object.values(history.latest.texts).reduce((total, value) => total + value, 0);
  return texts > 0 ? history.latest.tokens / texts : NaN;
};

function banner(text) {
  byId("banner").hidden = !text;
  byId("banner").textContent = text;
}

async function read() {
  try {
    const overview = await call("admin/overview");
    history.add(overview);
    namespace.offer(overview);
    live();
    await namespace.refresh();
    banner("");
  } catch (error) {
    if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
      close(error.message);
      return;
    }
    const last = history.latest ? ` What is shown is of ${new Date(history.latest.at * 1000).toLocaleTimeString("en-GB")}.` : "";
    banner(`${error instanceof Refused ? error.message : "The gateway does not answer."}${last} Trying again.`);
  }
}

async function poll() {
  await read();
  if (isUnlocked()) timer = setTimeout(poll, EVERY_MS);
}

async function open(typed, trouble) {
  unlock(typed);
  try {
    history.add(await call("admin/overview"));
  } catch (error) {
    lock();
    trouble.textContent = error instanceof Refused ? error.message : "The gateway does not answer.";
    return false;
  }
  byId("sign-in").hidden = true;
  byId("desk").hidden = byId("lock").hidden = false;
  live ??= makeLive(history);
  namespace ??= makeNamespace(engineMs);
  say("Unlocked");
  byId("main").focus({ preventScroll: true });
  poll();
  return true;
}

/** Forget the token and show the sign-in. */
function close(why = "") {
  lock();
  clearTimeout(timer);
  history.readings = [];
  byId("desk").hidden = byId("lock").hidden = true;
  banner("");
  signIn(why);
}

function whenClosed() {
  return [
    h("h1", {}, "The console is closed"),
    h("p", {}, "It opens with the operator's token, and none is set. Make one, put it into the gateway's settings, and start the gateway again:"),
    h("pre", {}, h("code", {}, 'openssl rand -hex 24\n\n# dejavec.toml\nadmin_token = "the token"\n\nchmod 600 dejavec.toml')),
    h("p", { class: "quiet" }, "or the variable DEJAVEC_ADMIN_TOKEN. Until then /metrics and /ready have what anyone may see."),
  ];
}

async function signIn(why = "") {
  const node = byId("sign-in");
  node.hidden = false;
  let known;
  try {
    known = await call("console/state");
  } catch {
    node.replaceChildren(h("h1", {}, "The gateway does not answer"), h("p", {}, "This page tries again in a moment."));
    timer = setTimeout(() => signIn(why), EVERY_MS);
    return;
  }
  byId("version").textContent = known.version;
  show(byId("pills"),
    h("li", {}, "Engine ", state(known.is_ready ? "good" : "bad", known.is_ready ? "ready" : "away")),
    h("li", {}, "Redis ", redisState(known.redis)),
    known.semantic_redis ? h("li", {}, "Semantic Redis ", redisState(known.semantic_redis)) : null);
  if (known.admin === "closed") {
    node.replaceChildren(...whenClosed());
    return;
  }
  const token = h("input", { type: "password", id: "token", autocomplete: "off", required: true, spellcheck: false, "aria-describedby": "token-about token-trouble" });
  const trouble = h("p", { class: "trouble", id: "token-trouble", role: "alert" }, why);
  const go = h("button", { type: "submit", class: "main" }, "Open");
  const form = h("form", { onsubmit: async (event) => {
    event.preventDefault();
    go.disabled = true;
    await open(token.value, trouble);
    token.value = "";
    go.disabled = false;
    if (!isUnlocked()) token.focus();
  } }, h("label", { for: "token" }, "Operator's token"), h("div", { class: "row" }, token, go), trouble);
  node.replaceChildren(h("h1", {}, "What the gateway does, and why"), form,
    h("p", { class: "quiet", id: "token-about" }, "admin_token of the gateway's settings. It stays in this page's memory until you lock or leave the page."));
  token.focus();
}

byId("lock").addEventListener("click", () => close());
signIn();
