import asyncio, contextlib
import psycopg2, websockets

SHAPE = '{"tables": {"issues": {"where": "project_id = $1"}}, "params": [3]}'

def pull(since):
    with psycopg2.connect("") as db, db.cursor() as cursor:
        cursor.execute("SELECT p->>'cursor', p::text FROM sync_pull(%s, %s) p", (since, SHAPE))
        return cursor.fetchone()

async def watch():
    global changed
    db = psycopg2.connect("")
    db.autocommit = True
    cursor = db.cursor()
    while True:
        await asyncio.to_thread(cursor.execute, "SELECT sync_position()")
        position = cursor.fetchone()
        changed.set()
        changed = asyncio.Event()
        await asyncio.to_thread(cursor.execute, "CALL sync_wait(%s, NULL)", position)

async def follow(socket):
    since = await socket.recv() or None
    while True:
        seen = changed
        since, delta = await asyncio.to_thread(pull, since)
        await socket.send(delta)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(seen.wait(), timeout=15)

async def main():
    global changed
    changed = asyncio.Event()
    async with websockets.serve(follow, "127.0.0.1", 8082):
        await watch()

asyncio.run(main())
