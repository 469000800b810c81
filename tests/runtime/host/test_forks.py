"""The host program forks: the child has a spawner of its own, and holds nothing of its parent's."""

import pytest

from tests.runtime.host.conftest import Script, finish


def test_parent_and_child_go_on(script: Script) -> None:
    output = finish(
        script("""
        from pyrunc.runtime import spawner

        assert box.run(["true"]).exit_code == 0
        before = spawner.current().pid
        child = os.fork()
        assert box.run(["echo", "here"]).stdout == b"here\\n"
        os.write(1, f"{child == 0} {spawner.current().pid == before}\\n".encode())
        if child:
            assert os.waitpid(child, 0)[1] == 0
            assert box.run(["true"]).exit_code == 0
    """)
    )
    assert sorted(output.splitlines()) == ["False True", "True False"]


def test_a_fork_in_another_thread_does_not_keep_input_open(script: Script) -> None:
    """Without care the child would hold the other end of `cat`'s input, and the run would never end."""
    finish(
        script("""
        children = []

        def fork():
            for _ in range(40):
                child = os.fork()
                if child == 0:
                    time.sleep(1000)
                    os._exit(0)
                children.append(child)

        box.run(["true"])
        forker = threading.Thread(target=fork)
        forker.start()
        while forker.is_alive():
            assert box.run(["cat"], stdin=b"x" * 200_000, timeout_s=30).stdout == b"x" * 200_000
        forker.join()
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    """)
    )


def test_a_child_does_not_keep_its_parents_containers_alive(script: Script) -> None:
    finish(
        script("""
        from tests.runtime.host.leftovers import alive, eventually

        reading, writing = os.pipe()
        parent = os.fork()
        if parent == 0:
            process = box.start(["sleep", "1000"])
            child = os.fork()
            if child == 0:
                time.sleep(1000)
                os._exit(0)
            os.write(writing, f"{process.pid} {child}".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        container, child = map(int, os.read(reading, 100).split())
        os.waitpid(parent, 0)
        eventually(lambda: not alive(container), "the container outlived its requester")
        assert alive(child)
        os.kill(child, signal.SIGKILL)
        os.close(reading)
        os.close(writing)
    """)
    )


def test_an_inherited_process_belongs_to_the_parent(script: Script) -> None:
    finish(
        script("""
        from pyrunc import errors

        process = box.start(["sleep", "1000"])
        child = os.fork()
        if child == 0:
            for use in (process.wait, process.close, lambda: process.exit_code, process.kill):
                try:
                    use()
                except errors.FailedPrecondition as exc:
                    assert "forked" in str(exc)
                else:
                    os._exit(1)
            del process
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert process.exit_code is None
        process.close()
        assert process.exit_code == 137
    """)
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(script: Script, method: str) -> None:
    output = finish(
        script(f"""
        import multiprocessing

        def work(name):
            return box.run(["echo", name]).stdout

        if __name__ == "__main__":
            assert box.run(["true"]).exit_code == 0
            running = box.start(["sleep", "1000"])
            with multiprocessing.get_context({method!r}).Pool(3) as pool:
                print(pool.map(work, "abcdef"))
                pool.close()
                pool.join()
            assert running.exit_code is None
            running.close()
    """)
    )
    assert output == str([b"%c\n" % letter for letter in b"abcdef"]) + "\n"


def test_subprocesses_beside_runs(script: Script) -> None:
    """Also with a function before exec, which runs in a child with one thread."""
    finish(
        script("""
        import subprocess

        def before_exec():
            os.environ["SEEN"] = box.run(["echo", "in between"]).stdout.decode().strip()

        over = threading.Event()

        def run():
            while not over.is_set():
                assert box.run(["cat"], stdin=b"x").stdout == b"x"

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                command = ["sh", "-c", "ls /proc/self/fd | wc -l"]
                done = subprocess.run(command, preexec_fn=before_exec, capture_output=True)
                assert int(done.stdout) <= 4, done.stdout  # nothing of ours is inherited
        finally:
            over.set()
            for thread in threads:
                thread.join()
    """)
    )


def test_the_host_program_has_one_child_of_ours(script: Script) -> None:
    finish(
        script("""
        from pathlib import Path
        from pyrunc.runtime import spawner

        def children():
            tasks = Path("/proc/self/task").iterdir()
            return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]

        running = [box.start(["sleep", "1000"]) for _ in range(3)]
        assert [box.run(["true"]).exit_code for _ in range(20)] == [0] * 20
        assert children() == [spawner.current().pid]
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)
        for process in running:
            process.close()
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)
    """)
    )


def test_a_host_program_that_reaps_whatever_ends(script: Script) -> None:
    finish(
        script("""
        from pyrunc.runtime import spawner

        def reap(*_):
            try:
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass
            except ChildProcessError:
                pass

        signal.signal(signal.SIGCHLD, reap)
        for _ in range(5):
            assert box.run(["true"]).exit_code == 0
            try:
                os.kill(spawner.current().pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # the spare of the last one served this run
        spawner.shut_down()
        assert box.run(["true"]).exit_code == 0
    """)
    )
