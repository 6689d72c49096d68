"""Increments counters as a stock grpcio client does: default channel options, no retry policy.

Calls come due at a fixed rate whatever the answers; a latency counts from when its call was
due. It makes at least --calls of them and goes on until its standard input ends, then reads
every counter and prints one line of JSON: calls, failures, longest stall, counters off.
"""

import argparse
import asyncio
import collections
import json
import random
import sys
import threading
import time

import grpc
from shoal.v1 import shoal_pb2, shoal_pb2_grpc

DEADLINE = 5.0
# Calls under way at most; what is due beyond waits, and its wait counts.
IN_FLIGHT = 2_000
# Reading the counters at the end: attempts with a pause, for a cluster under a last change.
READS, PAUSE = 20, 0.25


class Tally:
    def __init__(self, keys):
        self.calls = self.forwarded = 0
        # How long the slowest call took, and when it was due.
        self.longest = (0.0, 0.0)
        self.failures = collections.Counter()
        self.failed = []
        self.acknowledged = [0] * keys


async def increment(stub, tally, key, name, due):
    request = shoal_pb2.CallRequest(key=name, method="incr")
    tally.calls += 1
    try:
        answer = await stub.Call(request, timeout=DEADLINE)
        int(answer.payload)
        tally.acknowledged[key] += 1
        tally.forwarded += answer.forwarded
    except grpc.aio.AioRpcError as error:
        tally.failures[f"{error.code().name}: {error.details()}"] += 1
        tally.failed.append(due)
    except ValueError:
        tally.failures[f"the answer is no number: {answer.payload!r}"] += 1
    tally.longest = max(tally.longest, (time.monotonic() - due, due))


async def read(stub, name):
    request = shoal_pb2.CallRequest(key=name, method="incr", payload=b"0")
    for attempt in range(READS):
        try:
            return int((await stub.Call(request, timeout=DEADLINE)).payload)
        except grpc.aio.AioRpcError:
            await asyncio.sleep(PAUSE)
    return None


async def drive(args, over):
    # Channels of equal arguments would share one connection to the same address.
    channels = [
        grpc.aio.insecure_channel(address, options=[("shoal.connection", number)])
        for number, address in enumerate(args.addresses.split(","))
    ]
    stubs = [shoal_pb2_grpc.ShoalStub(channel) for channel in channels]
    run = random.getrandbits(64)
    names = [f"grpcio-{run:016x}-{key}".encode() for key in range(args.keys)]
    tally, room, running = Tally(args.keys), asyncio.Semaphore(IN_FLIGHT), set()
    began, due = time.monotonic(), 0.0
    while tally.calls < args.calls or not over.is_set():
        due = max(due, began) + 1 / args.rate
        await asyncio.sleep(max(0, due - time.monotonic()))
        await room.acquire()
        key = random.randrange(args.keys)
        stub = stubs[tally.calls % len(stubs)]
        task = asyncio.create_task(increment(stub, tally, key, names[key], due))
        running.add(task)
        task.add_done_callback(lambda task: (running.discard(task), room.release()))
        await asyncio.sleep(0)
    await asyncio.gather(*running)
    lasted = time.monotonic() - began
    values = [await read(stubs[key % len(stubs)], name) for key, name in enumerate(names)]
    for channel in channels:
        await channel.close()
    return report(tally, began, lasted, values)


def report(tally, began, lasted, values):
    pairs = [(value, wanted) for value, wanted in zip(values, tally.acknowledged)]
    known = [(value, wanted) for value, wanted in pairs if value is not None]
    return {
        "client": f"grpcio {grpc.__version__}",
        "calls": tally.calls,
        "seconds": round(lasted, 1),
        "failed": sum(tally.failures.values()),
        "failures": dict(tally.failures.most_common(10)),
        "forwarded_percent": round(100 * tally.forwarded / max(1, tally.calls), 1),
        "longest_ms": round(1_000 * tally.longest[0], 1),
        "longest_at": round(tally.longest[1] - began, 1),
        "failed_at": [round(tally.failed[at] - began, 1) for at in (0, -1) if tally.failed],
        "lost": sum(max(0, wanted - value) for value, wanted in known),
        "doubled": sum(max(0, value - wanted) for value, wanted in known),
        "unread": len(pairs) - len(known),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--addresses", required=True, help="comma-separated, one channel each")
    parser.add_argument("--calls", type=int, default=3_000)
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=200, help="calls per second")
    args = parser.parse_args()
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    print(json.dumps(asyncio.run(drive(args, over))))


if __name__ == "__main__":
    main()
