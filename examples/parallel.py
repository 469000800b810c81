"""Many short runs from a pool of threads, and how many a second. Usage: parallel.py [ROOTFS]."""

import time
from concurrent.futures import ThreadPoolExecutor

import busybox

import pyrunc

RUNS, THREADS = 200, 8


def square(number: int) -> int:
    """One container for one multiplication."""
    return int(box.run(["sh", "-c", f"echo $(({number} * {number}))"]).stdout)


with busybox.rootfs() as root, pyrunc.Sandbox(root) as box, ThreadPoolExecutor(THREADS) as pool:
    begun = time.perf_counter()
    squares = list(pool.map(square, range(RUNS)))
    passed = time.perf_counter() - begun
    assert squares == [number * number for number in range(RUNS)]
    print(f"{RUNS} containers from {THREADS} threads: {RUNS / passed:.0f} a second")
