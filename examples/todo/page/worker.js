// A service worker: the page opens without a network, from what was fetched last. Data is the store's business.

addEventListener("fetch", (event) => {
  const { request } = event;
  const { pathname } = new URL(request.url);
  const isPage = request.mode === "navigate" && pathname === "/";
  if (request.method !== "GET" || !(isPage || /^\/(page|syncline)\//.test(pathname))) return;
  event.respondWith(isPage ? fetch(request).catch(() => caches.match("/shell")) : freshOrKept(request));
});

async function freshOrKept(request) {
  const cache = await caches.open("tandem");
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch {
    return (await cache.match(request)) ?? Response.error();
  }
}
