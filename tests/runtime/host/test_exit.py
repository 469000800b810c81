"""The end of the host program, whichever way: at once, in silence, and nothing is left."""

import pytest

from tests.runtime.host.conftest import Script, finish
from tests.runtime.host.leftovers import alive, eventually, marked, new_mark

ENDS = {
    "falls off the end": "",
    "sys.exit": "sys.exit(0)",
    "os._exit": "os._exit(0)",
    "os._exit in a thread": "threading.Thread(target=os._exit, args=(0,)).start(); time.sleep(1000)",
    "execs": "os.execv('/bin/true', ['true'])",
    "another thread runs": """
threading.Thread(target=lambda: box.run(["sleep", MARK]), daemon=True).start()
eventually(lambda: len(marked(MARK)) >= 4, "not started")
""",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_an_end_with_running_containers(script: Script, end: str) -> None:
    mark = new_mark()
    process = script(
        f"""
from tests.runtime.host.leftovers import eventually, marked
MARK = {mark!r}
one = box.start(["sleep", MARK])
two = box.start(["sh", "-c", "sleep " + MARK + " & sleep " + MARK])
eventually(lambda: len(marked(MARK)) >= 3, "not started")
three = pyrunc.AsyncSandbox("/")
print("ending", flush=True)
{end}
"""
    )
    assert finish(process) == "ending\n"
    eventually(lambda: not marked(mark), "processes are left")


def test_killed(script: Script) -> None:
    mark = new_mark()
    process = script(f"""
        kept = box.start(["sleep", {mark!r}])
        box.run(["sh", "-c", "sleep {mark}"])
    """)
    eventually(lambda: len(marked(mark)) == 2, "not started")
    process.kill()
    process.wait()
    eventually(lambda: not marked(mark), "processes are left")


def test_dropped_and_closed_objects_warn_of_nothing(script: Script) -> None:
    finish(
        script("""
        import gc
        from pyrunc import errors

        dropped = pyrunc.Sandbox("/")
        del dropped
        process = box.start(["sleep", "1000"])
        del process
        for argv in (["nothing"], ["/etc"]):
            for start in (box.run, box.start):
                try:
                    start(argv)
                except errors.StartError:
                    pass
        try:
            box.run(["sleep", "1000"], timeout_s=0.01)
        except errors.TimedOut:
            pass
        gc.collect()
    """)
    )


def test_the_spawner_ends_with_the_program(script: Script) -> None:
    """Also right after a run, when the supervisor that is done asks for more work."""
    output = finish(
        script("""
        from pyrunc.runtime import spawner
        from tests.runtime.host.leftovers import alive

        for _ in range(20):
            box.run(["true"])
            pid = spawner.current().pid
            spawner.shut_down()
            assert not alive(pid)
        box.run(["true"])
        print(spawner.current().pid)
    """)
    )
    assert not alive(int(output))
