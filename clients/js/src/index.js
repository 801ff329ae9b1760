// Everything that the README names.

export { Client } from "./client.js";
export { sees } from "./cursor.js";
export { applyDelta, keyText, parseDelta } from "./delta.js";
export { digest } from "./digest.js";
export { events, httpGet, httpPull, httpPush, HttpError, Rejected } from "./http.js";
export { indexedDb } from "./indexeddb.js";
export { memory } from "./storage.js";
export { StreamCopy } from "./stream.js";
