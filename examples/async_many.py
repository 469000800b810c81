"""500 containers at once in one thread, by asyncio. Usage: async_many.py [ROOTFS]."""

import asyncio
import resource
import threading
import time
from pathlib import Path

import busybox

import pyrunc

COUNT = 500


async def main(root: Path) -> None:
    """Run COUNT programs that all wait for the same thing, and then end them."""
    async with pyrunc.AsyncSandbox(root) as box:
        begun = time.perf_counter()
        results = asyncio.gather(
            *(box.run(["sh", "-c", f"sleep 1; echo {number}"]) for number in range(COUNT))
        )
        outputs = [int(result.stdout) for result in await results]
        passed = time.perf_counter() - begun
        assert outputs == list(range(COUNT))
        print(f"{COUNT} programs that sleep a second: {passed:.1f} s, {threading.active_count()} thread")

        patient = asyncio.create_task(box.run(["sleep", "1000"]))
        await asyncio.sleep(0.1)
        patient.cancel()  # kills the container; the task ends when nothing of it is left
        await asyncio.wait([patient])
        print("cancelled:", patient.cancelled())


if __name__ == "__main__":
    # Four descriptors for each run; many systems allow 1024 unless asked for more.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard >= 0 else 4096, hard))
    with busybox.rootfs() as rootfs:
        asyncio.run(main(rootfs))
