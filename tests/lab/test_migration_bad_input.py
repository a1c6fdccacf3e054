"""A migration that cannot be is refused with one clear line on both sides, and the guest is untouched."""

import re
import shlex

import pytest

from lab.guest_shell import CMDLINE
from lab.job import Job
from lab.moving import PORT, MovingGuest, devices, host_address
from guests import guest_config
from migration import (
    DISK, FAILED, MIGRATION_FAILED, NO_SUCH_GUEST, SLOW, TAP, USAGE, TwoHosts, one_line,
)

OTHER = "127.0.0.1:4600"  # where something listens that is no vmm
MAGIC = "VMMMIGR1"
# The beginning of an answer and of a preamble with a version of the far future.
FUTURE_ANSWER = MAGIC + r"\377\0\0\0\0\0\0\0\0"
FUTURE_PREAMBLE = MAGIC + r"\377\0\0\0\1\0" + r"\0" * 34


@pytest.fixture(scope="module")
def mover(two_hosts: TwoHosts) -> MovingGuest:
    """One guest for all tests: none of them moves it."""
    two_hosts.end_all()
    return two_hosts.started()


@pytest.fixture
def guest(two_hosts: TwoHosts, mover: MovingGuest) -> MovingGuest:
    """The same, with nothing at the destination; it is checked that it runs on."""
    yield mover
    two_hosts.end_of_receiver(1)
    two_hosts.hosts[0].run("killall -9 nc 2>/dev/null", check=False)
    two_hosts.assert_runs_on(mover)


def refused(guest: MovingGuest, *words: str, via: str | None = None,
            status: int = MIGRATION_FAILED) -> None:
    """Moving the guest fails with a status and one line."""
    outcome = guest.migrate("--peer-timeout", "3", via=via)
    assert outcome.status == status, outcome
    one_line(outcome.stderr, *words)


def serve(guest: MovingGuest, command: str) -> None:
    """Let a command answer whoever connects to OTHER in the guest's host."""
    port = OTHER.rpartition(":")[2]
    job = Job(guest.host, "other", ["sh", "-c", f"nc -ll -p {port} -e {command}"])
    job.until(f"grep -qE ':{int(port):04X} 0+:0000 0A' /proc/net/tcp /proc/net/tcp6", 10)


def test_destination_that_does_not_exist(guest: MovingGuest) -> None:
    refused(guest, "10.77.0.9:4444", via="10.77.0.9:4444")


def test_destination_where_nobody_listens(guest: MovingGuest) -> None:
    refused(guest, "10.77.0.2:4444", "refused")


def test_destination_that_is_no_address(guest: MovingGuest) -> None:
    outcome = guest.migrate(via="nowhere")
    assert outcome.status == USAGE, outcome
    one_line(outcome.stderr, "nowhere")


def test_something_else_answers(guest: MovingGuest) -> None:
    serve(guest, shlex.quote("/usr/bin/id"))
    refused(guest, OTHER, via=OTHER)


def test_an_ssh_server_answers(guest: MovingGuest) -> None:
    refused(guest, "127.0.0.1:22", via="127.0.0.1:22")


def test_nothing_answers_though_it_listens(guest: MovingGuest) -> None:
    serve(guest, "sleep 60")
    refused(guest, OTHER, via=OTHER)


def test_destination_of_another_version(guest: MovingGuest) -> None:
    guest.host.run(f"printf '#!/bin/sh\\nprintf \"{FUTURE_ANSWER}\"; sleep 5\\n' >/tmp/future; "
                   "chmod +x /tmp/future".replace("\\0", "\\\\0").replace("\\3", "\\\\3"))
    serve(guest, "/tmp/future")
    refused(guest, "version", "255", via=OTHER)


def test_source_of_another_version(two_hosts: TwoHosts, guest: MovingGuest) -> None:
    receiver = guest.listen()
    answer = two_hosts.hosts[0].run(  # a range: busybox's tr knows no classes
        f"printf '{FUTURE_PREAMBLE}' | nc -w 3 {host_address(1)} {PORT} | tr -cd ' -~'")
    assert "version" in answer.stdout and "255" in answer.stdout
    assert receiver.running() and "version" in receiver.read("stderr")


def test_nonsense_does_not_end_a_receiver(two_hosts: TwoHosts, guest: MovingGuest) -> None:
    receiver = guest.listen()
    two_hosts.hosts[0].run(f"head -c 4096 /dev/urandom | nc -w 3 {host_address(1)} {PORT}", check=False)
    two_hosts.hosts[0].run(f"echo | nc -w 3 {host_address(1)} {PORT}", check=False)
    assert receiver.running()


def test_destination_lacks_memory(two_hosts: TwoHosts, guest: MovingGuest) -> None:
    far = two_hosts.hosts[1]
    # All but 40 MiB is taken, while the guest has 96.
    far.run("kib=$(awk '/MemAvailable/ { print $2 }' /proc/meminfo); mkdir -p /fill; "
            "mount -t tmpfs -o size=100% tmpfs /fill; "
            "dd if=/dev/zero of=/fill/zero bs=1M count=$((kib / 1024 - 40)) 2>/dev/null")
    try:
        guest.listen()
        refused(guest, "memory")
    finally:
        far.run("umount /fill")


def receive_with(two: TwoHosts, guest: MovingGuest, **changed: object) -> Job:
    """A receiver whose configuration differs from the guest's."""
    settings: dict[str, object] = {
        "memory": "96M", "cmdline": CMDLINE, "devices": devices([DISK], TAP), **changed}
    two.hosts[1].run("cat >/tmp/other.cfg",
                     input=guest_config("mover", **settings))  # type: ignore[arg-type]
    job = Job(two.hosts[1], "receive", [
        "vmm", "receive", "--listen", f"{host_address(1)}:{PORT}", "--config", "/tmp/other.cfg",
        "--plaintext"])
    job.until(f"grep -q ':{PORT:04X} 00000000:0000 0A' /proc/net/tcp", 20)
    return job


DEVICES = [
    pytest.param(devices(["/dev/nothing"], TAP), ["/dev/nothing"], id="disk is missing"),
    pytest.param(devices([DISK], "eth1"), ["eth1"], id="tap is none"),
    pytest.param(devices([], TAP), ["disk0"], id="disk is not mapped"),
    pytest.param(devices([DISK], TAP).split("[[net]]")[0], ["lan"], id="net is not mapped"),
]


@pytest.mark.parametrize("tables, words", DEVICES)
def test_destination_lacks_a_device(
    two_hosts: TwoHosts, guest: MovingGuest, tables: str, words: list[str]
) -> None:
    receiver = receive_with(two_hosts, guest, devices=tables)
    refused(guest, *words)
    # The receiver says the same, and waits for a guest that it can take.
    for word in words:
        assert word in receiver.read("stderr")
    assert receiver.running()


def test_disk_of_another_size(two_hosts: TwoHosts, guest: MovingGuest) -> None:
    two_hosts.hosts[1].run("truncate -s 8M /tmp/small.img")
    receive_with(two_hosts, guest, devices=devices(["/tmp/small.img"], TAP))
    refused(guest, "disk0")


def test_receiver_without_a_configuration_maps_nothing(
    two_hosts: TwoHosts, guest: MovingGuest
) -> None:
    job = Job(two_hosts.hosts[1], "receive", [
        "vmm", "receive", "--listen", f"{host_address(1)}:{PORT}", "--plaintext"])
    job.until(f"grep -q ':{PORT:04X} 00000000:0000 0A' /proc/net/tcp", 20)
    refused(guest, "disk0")


def test_guest_that_is_migrating_already(two_hosts: TwoHosts, guest: MovingGuest) -> None:
    guest.listen()
    migration = Job(guest.host, "migrate", guest.migrate_command(*SLOW))
    guest.job.until("vmm stats dirty-rate --json | grep -q migration", 20)
    outcome = guest.migrate()
    assert outcome.status == FAILED, outcome
    one_line(outcome.stderr, "already")
    assert two_hosts.ends[0]("cancel").returncode == 0
    assert migration.wait(20) == MIGRATION_FAILED


COMMANDS = [
    ("migrate nobody --to 10.77.0.2:4444 --plaintext", NO_SUCH_GUEST, ["nobody"]),
    ("migrate mover --to 10.77.0.2:4444", USAGE, ["plaintext"]),
    ("migrate mover --to 10.77.0.2:99999 --plaintext", USAGE, ["99999"]),
    ("migrate mover --to 10.77.0.2:4444 --plaintext --channels 17", USAGE, ["channels"]),
    ("migrate mover --to 10.77.0.2:4444 --plaintext --channels 0", USAGE, ["channels"]),
    ("migrate mover --to 10.77.0.2:4444 --plaintext --dirty-log fast", USAGE, ["dirty-log"]),
    ("receive --listen 10.77.0.1:4444", USAGE, ["plaintext"]),
    ("receive --listen nowhere --plaintext", USAGE, ["nowhere"]),
    ("receive --listen 10.77.0.99:4444 --plaintext", FAILED, ["10.77.0.99:4444"]),
    ("receive --listen 10.77.0.1:4444 --plaintext --config /nothing.cfg", USAGE, ["/nothing.cfg"]),
    ("cancel nobody", NO_SUCH_GUEST, ["nobody"]),
    ("cancel mover", FAILED, ["not migrating"]),
    ("migration status 12", USAGE, ["migration id"]),
    ("migration resolve " + "0" * 32 + " --resume", NO_SUCH_GUEST, ["0" * 32]),
    ("stats dirty-rate nobody", NO_SUCH_GUEST, ["nobody"]),
    ("stats dirty-rate mover --period 0", USAGE, ["period"]),
    ("stats dirty-rate mover --period 3600001", USAGE, ["period"]),
    ("stats dirty-rate mover --period 100 --interval 200", USAGE, ["interval"]),
    ("stats dirty-rate mover --interval 0", USAGE, ["interval"]),
]


@pytest.mark.parametrize("command, status, words", COMMANDS, ids=[item[0] for item in COMMANDS])
def test_wrong_commands(
    two_hosts: TwoHosts, mover: MovingGuest, command: str, status: int, words: list[str]
) -> None:
    done = two_hosts.ends[0].shell(f"timeout -s KILL 20 vmm {command}")
    assert done.returncode == status, f"status {done.returncode}: {done.stderr}"
    assert re.fullmatch(r"vmm: error: [^\n]+\n", done.stderr), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_status_of_a_migration_that_never_was(two_hosts: TwoHosts) -> None:
    done = two_hosts.ends[0]("migration", "status", "0" * 32)
    assert done.returncode == 1 and "no record" in done.stderr
