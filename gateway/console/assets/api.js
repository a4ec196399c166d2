// Calls to this gateway. The token is a variable of this module: it is in no storage, no cookie and no address.

let token = null;

export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the gateway answers ${status}`);
    this.status = status;
  }
}

export const unlock = (typed) => { token = typed; };
export const lock = () => { token = null; };
export const isUnlocked = () => token !== null;

const TIMEOUT_MS = 15000;

/** One call; paths are relative, so that the page works behind a prefix. Throws Refused, or TypeError without an answer. */
export async function call(path, { method = "GET", body } = {}) {
  const headers = {};
  if (token !== null && path.startsWith("admin/")) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const reply = await fetch(path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    referrerPolicy: "no-referrer",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  let content = null;
  try { content = await reply.json(); } catch { /* an answer of a proxy, perhaps */ }
  if (!reply.ok) throw new Refused(reply.status, content?.error);
  return content;
}
