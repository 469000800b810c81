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

Some 300 command lines were given to runc 1.1.5, and what it said is in `tests/fixtures/runc`. pyrunc-oci says the same,
but for this:

- a document that is wrong (`config.json`, `update --resources`) is refused by the name of its field;
- `list` fails where `--root` names a directory that does not exist, as runc does since 1.2; before, it made one;
- when `update` is refused a limit, those that it has changed before are put back;
- a container whose `checkpoint` fails is left alone;
- with `--systemd-cgroup` a unit has its limits from the start; systemd is never told to deny all devices where the
  document denies only some; a name that ends in `.slice` works; a user who is in no cgroup of their own systemd is
  refused; and no container in a unit is checkpointed.

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
