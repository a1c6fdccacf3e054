"""Two emulated hosts for the tests of live migration: guests that move between them, something that
happens in between, and what must not be left behind."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.guest_shell import CMDLINE, Clocks
from lab.host import Host, Pair
from lab.job import Job
from lab.moving import (
    LINK, PORT, MovingGuest, devices, end_all, host_address, make_bridge,
)

from guests import VmmHost, guest_config

# Exit statuses.
FAILED, USAGE, NO_SUCH_GUEST, HOST, MIGRATION_FAILED, IN_DOUBT, INTERRUPTED = 1, 2, 3, 4, 5, 6, 130
DISK = "/dev/vda"
DISK_MIB = 64
TAP = "tap0"
HOST_MEMORY_MIB = 2560
RELAY_PORT = 4500
# Numbers of the messages of the protocol (docs/migration-protocol.md).
MESSAGES = {"manifest": 1, "accept": 2, "round end": 4, "state": 8, "digest": 10, "prepared": 11,
            "commit": 12, "started": 13}
# One pass of so much memory a round takes long enough for what happens in the midst of it.
SLOW = ("--bandwidth", "8")
# A load that leaves both emulated processors some time, but keeps rounds from being empty.
LOAD = "--size 32M --rate 16M --tick 2 --interval 100"
MAX_LOAD = "--size 32M --tick 2 --interval 100"
# Of the wall clock, by moving.
CLOCK_LIMIT_S = 0.1
LEFT_BEHIND = f"""
for pid in $(pidof vmm); do echo "process $pid: $(tr '\\0' ' ' </proc/$pid/cmdline)"; done
for file in /run/vmm/*; do [ -e "$file" ] && echo "file $file"; done
for vm in /sys/kernel/debug/kvm/*-*; do [ -e "$vm" ] && echo "VM $vm"; done
sed 's/^[0-9]*:/lock/' /proc/locks
grep ':{PORT:04X} 00000000:0000 0A' /proc/net/tcp | sed 's/^/socket /'
true
"""


class TwoHosts:
    """Two hosts with `vmm`, joined by a network, with disks that both have as DISK and so on."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.hosts = pair.hosts
        self.ends = [VmmHost(host) for host in pair.hosts]
        for number, host in enumerate(self.hosts):
            make_bridge(host, host_address(number), [TAP], LINK)
        self.clocks = Clocks(self.hosts)
        self._quiet = [self._leftovers(number) for number in (0, 1)]
        self._memory = [self.free_mib(number) for number in (0, 1)]

    def guest(
        self, name: str = "mover", disks: Sequence[str] = (DISK,),
        taps: Sequence[str] = (TAP, TAP), **settings: object,
    ) -> MovingGuest:
        """A guest that has not been started; `settings` are those of guest_config."""
        options = {"memory": "96M", "cmdline": CMDLINE, **settings}
        configs = [guest_config(name, devices=devices(disks, tap), **options)  # type: ignore[arg-type]
                   for tap in taps]
        return MovingGuest(self.hosts, name, configs)

    def started(self, load: str = LOAD, **settings: object) -> MovingGuest:
        """A guest that runs in the first host under load."""
        guest = self.guest(**settings)  # type: ignore[arg-type]
        guest.start()
        guest.start_workload(load)
        return guest

    def relay(self, end: int, message: str, when: str, command: str) -> Job:
        """A relay in the host `end` that passes a migration to the second host on, and runs a
        command "before" or "after" the first message of a kind is passed. Migrate via `through`."""
        job = Job(self.hosts[end], "relay", [
            "migration_relay", str(RELAY_PORT), host_address(1), str(PORT), str(MESSAGES[message]),
            when, command])
        job.until(f"grep -q listening {job.folder}/stdout", 30)
        return job

    @staticmethod
    def through(end: int) -> str:
        """Where the relay in a host is found."""
        return f"{host_address(end)}:{RELAY_PORT}"

    def states(self, end: int) -> dict[str, str]:
        """State of each guest that a host has."""
        found = self.ends[end].json("list")
        return {item["name"]: item["state"] for item in found}  # type: ignore[attr-defined]

    def running(self) -> list[int]:
        """The hosts in which a guest's vCPUs may run, once for each."""
        return [end for end in (0, 1)
                for state in self.states(end).values() if state == "running"]

    def free_mib(self, end: int) -> int:
        """Memory that a host has available."""
        text = self.hosts[end].run("echo 1 >/proc/sys/vm/drop_caches; "
                                   "awk '/MemAvailable/ { print $2 }' /proc/meminfo").stdout
        return int(text) // 1024

    def _leftovers(self, end: int) -> set[str]:
        return set(self.hosts[end].run(LEFT_BEHIND).stdout.splitlines())

    def assert_nothing_left(self, end: int) -> None:
        """No process, file, lock, VM, socket or memory of a migration is left in a host."""
        left = self._leftovers(end) - self._quiet[end]
        assert not left, left
        assert self.free_mib(end) > self._memory[end] - 40

    def log_mode(self, guest: MovingGuest) -> str:
        """The dirty log mode that the kernel says is in force for a running guest: 0 is none."""
        return guest.host.run(
            f"cat /sys/kernel/debug/kvm/{guest.job.pid()}-*/hw_dirty_log_mode").stdout.strip()

    def assert_runs_on(self, guest: MovingGuest) -> None:
        """A guest runs on after a failed migration as if nothing had happened: its load writes, its
        memory is right, its disk is locked and its writes are not logged."""
        end = guest.at
        assert self.states(end)[guest.name] == "running"
        before = guest.workload_lines()[-1]
        after = guest.check_memory()
        assert after["pages"] > before["pages"]
        assert after["mismatches"] == after["clock_back"] == 0
        guest.run("dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null")
        assert self.log_mode(guest) == "0"
        locks = self._leftovers(end) - self._quiet[end]
        assert any("OFDLCK" in line for line in locks), locks

    def end_of_receiver(self, end: int) -> None:
        """End whatever vmm runs in a host, and remove what it left."""
        end_all([self.hosts[end]])

    def end_all(self) -> None:
        """End everything and undo what a test did to the network."""
        for end in (0, 1):
            self.pair[end].set_link(True)
            self.hosts[end].run("killall -9 migration_relay 2>/dev/null; /bin/ip link set eth1 up",
                                check=False)
        end_all(self.hosts)
        for host in self.hosts:
            host.run("rm -rf /var/lib/vmm")


def one_line(text: str, *words: str) -> None:
    """The error is the last line, and has all the words; what comes before is progress."""
    lines = text.strip().splitlines()
    errors = [line for line in lines if line.startswith("vmm: error: ")]
    assert len(errors) == 1 and errors[0] == lines[-1], text
    for word in words:
        assert word.lower() in errors[0].lower(), text


def assert_arrived_whole(guest: MovingGuest, report: dict) -> None:
    """The digests of a verified migration agree, and the load finds its memory and clock right."""
    assert report["result"] == "migrated"
    verify = report["verify"]
    assert len(verify["source"]) == 64 and verify["source"] == verify["destination"]
    line = guest.check_memory()
    assert line["mismatches"] == line["clock_back"] == 0


@contextmanager
def start_two_hosts(
    folder: Path, build: Path, shares: dict[str, Path], disks: int = 1,
    each: Sequence[dict[str, object]] = ({}, {}), **options: object,
) -> Iterator[TwoHosts]:
    """Both hosts with empty shared disks of DISK_MIB each, made in `folder`."""
    images = [folder / f"shared{number}.img" for number in range(disks)]
    for image in images:
        with image.open("wb") as stream:
            stream.truncate(DISK_MIB << 20)
    files = {"/usr/bin/vmm": build / "src/vmm/vmm",
             "/usr/bin/echo_client": build / "guest-images/echo/echo_client",
             "/usr/bin/migration_relay": build / "tests/relay/migration_relay"}
    with Pair.start(extra_files=files, shares=shares, disks=images, each=each,
                    **{"memory_mib": HOST_MEMORY_MIB, **options}) as pair:
        yield TwoHosts(pair)
