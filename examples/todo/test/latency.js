// From the commit, by the server's clock, to the row in another user's page, by the browser's on the same machine; both sources
// of news in turn, so that what disturbs one disturbs the other.

import { test } from "node:test";
import { control, GROCERIES, World } from "./support.js";

const ROUNDS = Number(process.env.ROUNDS ?? 200);

/** When the page shows a title, in milliseconds since 1970. */
const shownAt = (page, title) =>
  page.evaluate((wanted) => new Promise((resolve) => {
    const look = () => {
      if (![...document.querySelectorAll(".todo .title")].some(({ textContent }) => textContent === wanted)) return;
      observer.disconnect();
      resolve(performance.timeOrigin + performance.now());
    };
    const observer = new MutationObserver(look);
    observer.observe(document.body, { childList: true, subtree: true, characterData: true });
    look();
  }), title);

async function measure(world, page, title) {
  const shown = shownAt(page, title);
  await page.evaluate(() => {}); // The page looks from here on.
  const [{ xid }] = await world.query("UPDATE todo SET title = $2 WHERE id = $1 RETURNING pg_current_xact_id()::text AS xid", [world.id, title]);
  const [{ at }] = await world.query("SELECT extract(epoch FROM pg_xact_commit_timestamp($1::text::xid))::float8 * 1000 AS at", [xid]);
  return (await shown) - at;
}

test("commit to browser", async (t) => {
  const admin = new World();
  admin.database = "postgres";
  await admin.query("ALTER SYSTEM SET track_commit_timestamp = on");
  for (const word of ["kill", "start"]) await control(word);
  const sources = [];
  for (const live of ["wait", "relay"]) {
    const world = await World.make(t, live);
    const page = await world.visit("Ben");
    [{ id: world.id }] = await world.query("SELECT id FROM todo WHERE list_id = $1 AND NOT done LIMIT 1", [GROCERIES]);
    sources.push({ live, world, page, times: [] });
  }
  for (let round = -20; round < ROUNDS; round++) {
    for (const { world, page, times } of sources) {
      const time = await measure(world, page, `Round ${round}`);
      if (round >= 0) times.push(time); // Before, all is cold.
      await new Promise((resolve) => setTimeout(resolve, 50 * Math.random()));
    }
  }
  for (const { live, times } of sources) {
    times.sort((a, b) => a - b);
    const at = (percent) => times[Math.floor(((times.length - 1) * percent) / 100)].toFixed(1);
    console.log(`${live}: ${times.length} commits, in the page after ${at(50)} ms (median), ${at(90)} (p90), ${at(99)} (p99), ${at(0)} (least)`);
  }
});
