"""The public Sandbox: an isolated process, from a root directory and nothing else."""

import os
import select
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from pyrunc._native import plan as native
from pyrunc.errors import TimedOut
from pyrunc.runtime.compile import Rootfs, candidates, compile_spec
from pyrunc.runtime.supervised import EXITED, Supervised


class RunResult(NamedTuple):
    """What a finished run left.

    *timings_ns* says how long each stage of the start took, in the order in which they happened.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    timings_ns: dict[str, int]
    utime_us: int
    stime_us: int
    maxrss_bytes: int


class Sandbox:
    def __init__(self, spec, rootfs: Rootfs, files=None) -> None:
        self._spec = spec
        self._template = compile_spec(spec, rootfs, files)
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def run(self, argv: Sequence[str], *, env: Sequence[str] = (), timeout_s: float | None = None) -> RunResult:
        begun = time.monotonic_ns()
        out_r, out_w = os.pipe2(os.O_CLOEXEC)
        err_r, err_w = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                container_id = os.urandom(32).hex()
                plan = self._template.finish(container_id, argv, env, candidates(argv[0], env), native.FLAG_QUIET)
                child = Supervised(plan, self._template.steps, (self._null, out_w, err_w), argv[0])
            finally:
                os.close(out_w)
                os.close(err_w)
            try:
                chunks = {out_r: [], err_r: []}
                poller = select.poll()
                poller.register(out_r, select.POLLIN)
                poller.register(err_r, select.POLLIN)
                poller.register(child, select.POLLIN)
                pending = 3
                while pending:
                    for fd, _ in poller.poll():
                        if fd in chunks:
                            data = os.read(fd, 65536)
                            if data:
                                chunks[fd].append(data)
                                continue
                        else:
                            child.take()
                        poller.unregister(fd)
                        pending -= 1
            finally:
                child.close()
        finally:
            os.close(out_r)
            os.close(err_r)
        end = child.exit
        ended = time.monotonic_ns()
        marks = [("request", begun), *end.stages_ns.items(), ("", ended)]
        timings = {name: marks[i + 1][1] - at for i, (name, at) in enumerate(marks[:-1])}
        return RunResult(end.exit_code, b"".join(chunks[out_r]), b"".join(chunks[err_r]), timings, end.utime_us, end.stime_us, end.maxrss_bytes)
