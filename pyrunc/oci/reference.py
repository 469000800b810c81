"""`python -m pyrunc.oci.reference`: docs/oci.md, which is made of the verbs and flags of pyrunc-oci."""

from __future__ import annotations

from pyrunc.oci.grammar import GLOBAL, VERBS
from pyrunc.oci.state import ROOT
from pyrunc.oci.usage import row, summary

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyrunc.oci.grammar import Flag

_BEGIN = """\
# pyrunc-oci

An OCI runtime with runc's command line: what is below is read, answered and refused as runc does it, with its exit
codes, its log lines and the texts that engines look for. `python -m pyrunc.oci.reference` makes this page.

```sh
podman --runtime /path/to/pyrunc-oci run --rm alpine true
ctr run --runc-binary /path/to/pyrunc-oci docker.io/library/alpine:latest box true
dockerd --add-runtime pyrunc=/path/to/pyrunc-oci        # docker run --runtime pyrunc …
```

podman shows a runtime's errors in their own words, without log lines around them, if it is told that the runtime
writes its log as JSON: by its name, in `/etc/containers/containers.conf` or `~/.config/containers/containers.conf`,
where a runtime can be given a name and be made the default, too:

```toml
[engine]
runtime = "pyrunc-oci"
runtime_supports_json = ["crun", "runc", "pyrunc-oci"]
[engine.runtimes]
pyrunc-oci = ["/path/to/pyrunc-oci"]
```

Some 300 command lines were given to runc 1.1.5, and what it said is in `tests/fixtures/runc`; more is compared with it
while tests run. pyrunc-oci says and does the same, but for this.

Documents:

- one that is wrong (`config.json`, `--process`, `--resources`) is refused by the name of its field, and all of it
  before anything is made: where runc finds it later, poststop hooks run there and not here;
- a document is a regular file of at most 16 MiB; `--process` and `--resources` may be a pipe (`/dev/fd/N`), which is
  waited for 10 s. runc waits for a FIFO or a terminal for ever;
- the root may be a symlink, or lie behind one, as with crun; `state` shows where it leads. runc refuses that;
- `cgroupsPath` without a slash before it, or none, is below the root of every hierarchy, as one with a slash, and not
  below the caller's cgroup in each: so the container has one path, and its place does not depend on who calls
  (engines pass absolute paths). `..` in it is refused, which runc resolves;
- a cgroup in which others are is refused, as runc does since 1.2 where it can;
- a bind mount's option that nobody knows, mappings of ids without a user namespace, and a hook's time-out of 0 are
  refused; runc passes over them;
- a program is looked for in the usual places if `env` has no PATH;
- what is masked twice is mounted once, and with nosuid, nodev and noexec;
- `hugepageLimits` and `unified` act on a hybrid host too;
- `SCMP_ACT_NOTIFY` may be the default action, and of `write` too, since init needs neither to hand its listener over;
  runc refuses both. Where the agent gives up its descriptor before it has answered all that init calls, the command
  fails; with runc, which has others than `write` notified as well, init waits for ever;
- of `readonlyPaths` what is mounted below them is read-only too, but below `/`;
- a program of `exec` has the document's umask (as runc since 1.2), and 0022 without one, not the caller's.

Containers:

- `state` of what is being created says `creating`; with runc there is no such container yet;
- what runs is never shown as created, though whoever started it was killed before the end; runc goes by a file that
  is removed afterwards;
- the streams of `run` and `exec` in the foreground are the caller's own, as with crun; runc puts pipes between. What
  the container's user is given of them, also detached: pipes, sockets, and files that are written to, so that it can
  open /dev/stdout. A terminal, a device, or what is only read stays the caller's; runc, detached, gives it away. But a
  program that goes on in the background can go on reading a terminal that it has got so: where it is not trusted, let
  it have one of its own (`--tty`), or pipes;
- the session keyring's name ends in random digits: `_ses.<id>` alone can be taken by any user of the host beforehand,
  whose keyring runc joins then;
- `delete --force` removes a container whose `state.json` is damaged, with what that still names; runc fails for ever;
- what a killed `create` leaves, `delete --force` finds: cgroups too, where runc says that there is no such container;
- `delete` and `kill --all` end nobody who is not of the container: where another container has got its `cgroupsPath`
  by now, or one below it, that is left, with a warning. runc kills all who are there if there is no pid namespace;
- a process whose first thread has ended before others is running; runc calls it stopped.

Hooks:

- poststart hooks run in `start`, as the standard has it, and newer runc; runc 1.1 has them in `create`;
- all poststop hooks run, though one fails, as the standard has it; runc ends with the first;
- those of a creation (prestart, createRuntime, createContainer) end with a creator that is killed, and what they have
  started with them; runc leaves them running;
- one whose time is over is killed with its process group;
- a startContainer hook that fails makes a detached `run` fail as well;
- a signal to a `run` whose hook still runs ends both: a hook is in a process group of its own, which a terminal's keys
  do not reach.

Verbs:

- `list` fails where `--root` names a directory that does not exist, as runc does since 1.2; before, it made one;
- when `update` is refused a limit, those that it has changed before are put back;
- a container whose `checkpoint` fails is left alone;
- with `--systemd-cgroup` a unit has its limits from the start; systemd is never told to deny all devices where the
  document denies only some; a name that ends in `.slice` works; a user who is in no cgroup of their own systemd is
  refused; and no container in a unit is checkpointed;
- with NOTIFY_SOCKET, `run` and `start` do not wait for the readiness of a program that has ended, and pass on
  `READY=1` from any line of a message, in the foreground again and again; a LISTEN_FDS that is no number of
  descriptors is none;
- `kill` knows `RTMIN+n` and `CLD`;
- `--debug` adds no places in a program's source to lines.

`checkpoint` and `restore` need a criu that works on this kernel. A container with a terminal cannot be restored; one is
restored into the cgroups that it was saved from; of its streams, pipes and sockets become those of who calls `restore`.

State is in `/run/pyrunc-oci/<id>`; an unprivileged user's is in `$XDG_RUNTIME_DIR/pyrunc-oci`. runc cannot use what
pyrunc-oci writes there, nor pyrunc-oci what runc writes.

## Global options

"""


def text() -> str:
    """The page."""
    out = [_BEGIN, *_table(GLOBAL, ""), "\n## Verbs\n"]
    for name, verb in VERBS.items():
        out.append(f"\n### {name}\n\n{_sentence(summary(name))}\n")
        shown = [flag for flag in verb.flags if not flag.hidden]
        if shown:
            out += ["\n", *_table(shown, name)]
    return "".join(out)


def _table(flags: Iterable[Flag], verb: str) -> list[str]:
    rows = ["| flag | what it does |\n", "|---|---|\n"]
    for flag in flags:
        names, what = row(flag, verb)
        first = what.partition("\n")[0].replace("|", "\\|").replace("{root}", ROOT)
        rows.append(f"| `{names}` | {first} |\n")
    return rows


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


if __name__ == "__main__":
    print(text(), end="")  # noqa: T201
