"""The files that Docker makes for each container: /etc/hostname, /etc/hosts and /etc/resolv.conf."""

from __future__ import annotations

from pyrunc.errors import InvalidArgument

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.runtime.options import SandboxOptions


def etc_files(options: SandboxOptions, name: str) -> dict[str, str]:
    """The three files that Docker makes for each container."""
    if options.get("network") == "host":
        hosts = _host_file("/etc/hosts")
    else:
        hosts = (
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
            "fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
        )
    for host, addresses in options.get("hosts", {}).items():
        if not host:
            raise InvalidArgument("hosts: a name must not be empty")
        hosts += "".join(f"{address}\t{host}\n" for address in addresses)
    resolv = _resolv_conf(options)
    return {"/etc/hostname": name + "\n", "/etc/hosts": hosts, "/etc/resolv.conf": resolv}


def _resolv_conf(options: SandboxOptions) -> str:
    """The host's file, or one whose servers, domains and options are those of *options*, or else the host's."""
    host = _host_file("/etc/resolv.conf")
    if not any(key in options for key in ("dns", "dns_search", "dns_options")):
        return host
    lines = [line.split() for line in host.splitlines()]

    def theirs(word: str) -> list[str]:
        found = [line[1:] for line in lines if line[:1] == [word]]
        return found[-1] if found else []

    servers = list(options.get("dns", ())) or [
        line[1] for line in lines if line[:1] == ["nameserver"] and line[1:]
    ]
    domains = list(options.get("dns_search", ())) or theirs("search")
    flags = list(options.get("dns_options", ())) or theirs("options")
    text = "".join(f"nameserver {address}\n" for address in servers)
    if domains and domains != ["."]:
        text += f"search {' '.join(domains)}\n"
    return text + (f"options {' '.join(flags)}\n" if flags else "")


def _host_file(path: str) -> str:
    """A small text file of the host's; "" where there is none. NULs would end it early in a plan."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(65536).replace("\0", "")
    except OSError:
        return ""
