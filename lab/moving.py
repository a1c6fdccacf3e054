"""Two emulated hosts, and a guest that vmm moves between them: for demo, tests and benchmarks.

Each host has a bridge that joins the private network and the taps of its guests, so that a guest
keeps its address wherever it runs. Shared disks are /dev/vda and so on in both hosts.
"""

import dataclasses
import json
from collections.abc import Sequence

from lab.errors import LabError
from lab.guest_shell import ADDRESS, ANSWERS, ECHO_PORT, GuestShell
from lab.host import Host
from lab.job import FOLDER, Job
from lab.load_lines import fields

IP = "/bin/ip"  # by its path: the shell prefers busybox's own, which knows no taps
BRIDGE = "br0"
LINK = "eth1"
PORT = 4444


def make_bridge(host: Host, address: str, taps: Sequence[str], link: str | None = None) -> None:
    """A bridge with an address, taps that are free for guests, and a link to the outside."""
    host.run(f"ip link add {BRIDGE} type bridge && {IP} link set {BRIDGE} mtu 65000")
    if link is not None:
        # Its own address would change with the ports; the last byte tells the hosts apart.
        last = address.rpartition(".")[2]
        host.run(f"{IP} link set {BRIDGE} address 52:54:00:77:02:{int(last):02x} && "
                 f"{IP} addr flush dev {link} && {IP} link set {link} master {BRIDGE} up")
    host.run(f"{IP} addr add {address}/24 dev {BRIDGE} && {IP} link set {BRIDGE} up")
    for tap in taps:
        host.run(f"{IP} tuntap add {tap} mode tap vnet_hdr && "
                 f"{IP} link set {tap} master {BRIDGE} up")


def host_address(number: int) -> str:
    """Address of host 0 or 1 in the private network."""
    return f"10.77.0.{number + 1}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a `vmm migrate --json` ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict:
        """The object that it ends with. Raises LabError where there is none."""
        start = self.stdout.find("{")
        if start < 0:
            raise LabError(f"vmm migrate printed no result (status {self.status}): {self.stderr}")
        return json.loads(self.stdout[start:])


class EchoClient:
    """A TCP connection from a host into the guest that counts lost replies."""

    def __init__(self, host: Host, interval_ms: int = 20) -> None:
        self.job = Job(host, "echo", ["echo_client", ADDRESS, str(ECHO_PORT), str(interval_ms)])
        self.job.until(f"grep -q connected {self.job.folder}/stdout", 30)

    def stop(self) -> dict[str, float]:
        """End it and return its counts: sent, received, lost and longest_ms."""
        self.job.signal("TERM")
        self.job.wait(150)  # as long as TCP may wait between two attempts, and some
        text = self.job.read("stdout")
        if "connection=ok" not in text:
            raise LabError(f"the TCP connection into the guest broke: {text} {self.job.read('stderr')}")
        return fields(text)


class MovingGuest(GuestShell):
    """A guest of vmm with a network, which goes from one host to the other and back.

    The hosts may be one and the same; the guest then goes from one process to another.
    """

    def __init__(
        self, hosts: Sequence[Host], name: str, configs: Sequence[str],
        addresses: Sequence[str] = (host_address(0), host_address(1)),
    ) -> None:
        """`configs` are the texts of the guest's configuration at either end."""
        super().__init__(hosts)
        self.name = name
        self.addresses = addresses
        self.jobs: list[Job] = []
        self._receivers = 0
        # How its connections are made: options of `vmm receive` and of `vmm migrate`.
        self.receive_options: Sequence[str] = ("--plaintext",)
        self.migrate_options: Sequence[str] = ("--plaintext",)
        for end, (host, config) in enumerate(zip(hosts, configs)):
            host.run(f"mkdir -p {FOLDER} && cat >{self.config(end)}", input=config)

    def config(self, end: int) -> str:
        """Path of its configuration at an end."""
        return f"{FOLDER}/{self.name}.{end}.cfg"

    @property
    def job(self) -> Job:
        """The process that runs it."""
        return self.jobs[-1]

    def start(self, at: int = 0) -> None:
        """Boot it in a host and wait until its shell answers."""
        self.at = at
        self.jobs.append(Job(self.host, "run", ["vmm", "run", self.config(at)]))
        self.job.until(ANSWERS, 90)

    def listen(self, *options: str, to: int | None = None) -> Job:
        """Start `vmm receive` at the other end (or `to`) and wait until it listens."""
        to = 1 - self.at if to is None else to
        self._receivers += 1
        job = Job(self.hosts[to], f"receive{self._receivers}",
                  ["vmm", "receive", "--listen", f"{self.addresses[to]}:{PORT}", "--config",
                   self.config(to), *self.receive_options, *options])
        job.until(f"grep -q ':{PORT:04X} 00000000:0000 0A' /proc/net/tcp", 30)
        return job

    def migrate_command(self, *options: str, via: str | None = None) -> list[str]:
        """The command that moves it to the other end, by another way with `via`."""
        to = via or f"{self.addresses[1 - self.at]}:{PORT}"
        return ["vmm", "migrate", self.name, "--to", to, *self.migrate_options, "--json", *options]

    def migrate(self, *options: str, via: str | None = None, timeout: float = 120) -> Outcome:
        """Run `vmm migrate` to the other end, where somebody should listen."""
        done = self.host.run(self.migrate_command(*options, via=via), timeout, False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    def arrived(self, job: Job) -> None:
        """Note that the process of `listen` runs it now."""
        self.at = 1 - self.at
        self.jobs.append(job)

    def move(self, *options: str, timeout: float = 120) -> dict:
        """Move it to the other end; the report. Raises LabError where that fails."""
        job = self.listen()
        outcome = self.migrate(*options, timeout=timeout)
        if outcome.status != 0:
            raise LabError(f"vmm migrate ended with status {outcome.status}: {outcome.stderr}\n"
                           f"--- receiver\n{job.read('stderr')}")
        self.arrived(job)
        return outcome.report


def devices(disks: Sequence[str], tap: str) -> str:
    """Tables of a guest's configuration for disks, opened past the page cache, and a tap."""
    text = "".join(f'[[disk]]\nid = "disk{number}"\npath = "{path}"\ndirect = true\n'
                   for number, path in enumerate(disks))
    return text + f'[[net]]\nid = "lan"\ntap = "{tap}"\n'


def end_all(hosts: Sequence[Host], *others: str) -> None:
    """Kill all that vmm runs in the hosts, and programs called `others`; remove what they left."""
    names = " ".join(("vmm", "echo_client", *others))
    for host in hosts:
        host.run(f"killall -9 {names} 2>/dev/null; while pidof {names} >/dev/null; do usleep 20000; "
                 "done; rm -rf /run/vmm", check=False)
