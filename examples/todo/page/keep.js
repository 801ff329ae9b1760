// Keeps what the page is made of, for its service worker.

const CACHE = "tandem";

/** A page without rows, and the files that this one has loaded, unless they are there: later ones pass the worker. */
export async function keepPage() {
  if (!("serviceWorker" in navigator)) return;
  await navigator.serviceWorker.register("/page/worker.js", { scope: "/" });
  const cache = await caches.open(CACHE);
  const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
  const files = [...new Set(loaded)].filter((name) => /^\/(page|syncline)\//.test(new URL(name).pathname));
  const held = await Promise.all(files.map((name) => cache.match(name)));
  await cache.addAll(["/shell", ...files.filter((_, i) => !held[i])]);
  await navigator.serviceWorker.ready;
}

export async function forgetPage() {
  await globalThis.caches?.delete(CACHE);
}
