"""Two hosts on this machine: Linux namespaces with a cable between them, their own names and addresses.

Nothing of them is left when their last process has ended, and they need no privileges, only a kernel that
lets users have namespaces.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from tests.waiting import LIMIT_S

TOOLS = ("ip", "unshare", "nsenter", "mount", "hostname")
UNSHARE = ("unshare", "--net", "--uts", "--mount")


def why_no_hosts() -> str | None:
    """Why there can be no hosts on this machine, or None."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (packages iproute2 and util-linux)"
    tried = subprocess.run(
        [*UNSHARE, "--user", "--map-root-user", "ip", "link", "set", "lo", "up"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return f"no namespaces for this user: {tried.stderr.strip()}" if tried.returncode else None


class Host:
    """A host.

    Args:
        name: its name.
        address: its address on the cable.
        keeper: a process that does nothing, in its namespaces.
    """

    def __init__(self, name: str, address: str, keeper: "subprocess.Popen[str]") -> None:
        self.name, self.address, self._keeper = name, address, keeper

    def on(self, *words: str) -> tuple[str, ...]:
        """The command that runs these words on the host."""
        within = ("nsenter", f"--target={self._keeper.pid}", "--user", "--preserve-credentials")
        return (*within, "--net", "--uts", "--mount", "env", f"--chdir={os.getcwd()}", *words)

    def call(self, *words: str) -> None:
        """Run these words on the host, to their end."""
        subprocess.run(self.on(*words), check=True, timeout=LIMIT_S, capture_output=True)

    def unshare(self, folder: Path) -> None:
        """Give the host an empty folder of its own at this path."""
        self.call("mount", "-t", "tmpfs", "none", str(folder))

    def pull_cable(self) -> None:
        """Cut the connection to the other host, which does not notice."""
        self.call("ip", "link", "set", "cable", "down")


@contextmanager
def two_hosts(folder: Path) -> Iterator[Sequence[Host]]:
    """Two hosts, `north` and `south`, with the same files but for /etc/hosts, which is put in this folder."""
    addresses = {"north": "10.99.0.1", "south": "10.99.0.2"}
    names = folder / "hosts"
    names.write_text("127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in addresses.items()))
    with ExitStack() as stack:
        north = Host("north", addresses["north"], _keeper(stack, *UNSHARE, "--user", "--map-root-user"))
        south = Host("south", addresses["south"], _keeper(stack, *north.on(*UNSHARE)))
        ends = ("peer", "name", "cable", "netns", str(south._keeper.pid))
        north.call("ip", "link", "add", "cable", "type", "veth", *ends)
        for host in (north, south):
            host.call("hostname", host.name)
            host.call("mount", "--bind", str(names), "/etc/hosts")
            host.call("ip", "address", "add", f"{host.address}/24", "dev", "cable")
            for link in ("lo", "cable"):
                host.call("ip", "link", "set", link, "up")
        yield north, south


def _keeper(stack: ExitStack, *words: str) -> "subprocess.Popen[str]":
    """Start a process that keeps namespaces until the stack is left."""
    keeper = stack.enter_context(
        subprocess.Popen(
            [*words, "sh", "-c", "echo ready; exec sleep 3600"], stdout=subprocess.PIPE, text=True
        )
    )
    stack.callback(keeper.kill)
    assert keeper.stdout is not None
    assert keeper.stdout.readline() == "ready\n"
    return keeper


def tree_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """A command and all processes below it."""
    started = psutil.Process(process.pid)
    return [started, *started.children(recursive=True)]
