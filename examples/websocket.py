import asyncio
import live, websockets

async def follow(socket):
    since = await socket.recv() or None
    while True:
        seen = live.wakes
        since, delta, up_to_date = await asyncio.to_thread(live.pull, since)
        await socket.send(delta)
        for _ in range(300 if up_to_date else 0):
            if live.wakes == seen:
                await asyncio.sleep(0.05)

async def main():
    async with websockets.serve(follow, "127.0.0.1", 8082):
        await asyncio.Future()

asyncio.run(main())
