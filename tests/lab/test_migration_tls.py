"""Guests move over TLS between hosts that know each other, and no others."""

import json

import pytest

from lab.host import Host
from lab.job import Job
from lab.moving import MovingGuest
from migration import FAILED, MIGRATION_FAILED, USAGE, TwoHosts, assert_arrived_whole, one_line

FOLDER = "/etc/vmm/tls"
PLAINTEXT = ("--plaintext",)
ALLOW = ("--allow-peer", "host1")
NAMED = ("--peer-name", "host2")
# Encryption is slow under emulation: the load may write faster.
IN_TIME = ("--max-rounds", "3", "--on-timeout", "stop-and-copy")


def copy_folder(source: Host, folder: str, target: Host) -> None:
    """Bring a bundle that `vmm tls issue` has made to its host."""
    target.run(f"mkdir -p {FOLDER} && chmod 700 {FOLDER}")
    for name in source.run(f"ls {folder}").stdout.split():
        text = source.run(f"cat {folder}/{name}").stdout
        target.run(f"umask 077; cat >{FOLDER}/{name}", input=text)


@pytest.fixture(scope="module")
def certified(two_hosts: TwoHosts) -> TwoHosts:
    """Both hosts with certificates of one CA, which the commands make."""
    near, far = two_hosts.hosts
    two_hosts.end_all()
    for host in two_hosts.hosts:
        host.run("rm -rf /etc/vmm /tmp/host2")
    near.run("vmm tls init --name host1 && vmm tls issue host2 --out /tmp/host2")
    copy_folder(near, "/tmp/host2", far)
    yield two_hosts
    for host in two_hosts.hosts:
        host.run("rm -rf /etc/vmm /tmp/host2")


@pytest.fixture(scope="module")
def mover(certified: TwoHosts) -> MovingGuest:
    """One guest for all tests, which only the last one moves."""
    return certified.started()


@pytest.fixture
def guest(certified: TwoHosts, mover: MovingGuest) -> MovingGuest:
    """The same, with nothing at the destination."""
    yield mover
    certified.end_of_receiver(1 - mover.at)


def refused(guest: MovingGuest, receiver: Job, ours: str, theirs: str) -> None:
    """The guest cannot go there, and each side says why; the receiver goes on waiting."""
    outcome = guest.migrate("--peer-timeout", "3")
    assert outcome.status == MIGRATION_FAILED, outcome
    assert outcome.report["result"] == "failed"
    one_line(outcome.stderr, ours)
    assert theirs in receiver.read("stderr")
    assert receiver.running()


def use(guest: MovingGuest, receive: tuple[str, ...], migrate: tuple[str, ...]) -> Job:
    """Let the ends use these options; the receiver."""
    guest.receive_options, guest.migrate_options = receive, migrate
    return guest.listen()


def test_a_host_knows_who_it_is(certified: TwoHosts) -> None:
    near, far = certified.ends
    ours, theirs = near.json("tls", "show"), far.json("tls", "show")
    assert (ours["names"], ours["role"]) == (["host1"], "host and CA")
    assert (theirs["names"], theirs["role"]) == (["host2"], "host")
    assert len(theirs["fingerprint"]) == 64 and theirs["fingerprint"] != ours["fingerprint"]
    assert theirs["valid_from"] < theirs["valid_until"]
    again = near("tls", "init", "--name", "host1")
    assert again.returncode == FAILED
    one_line(again.stderr, "ca.pem is there already")


def test_a_host_that_is_not_allowed_is_refused_by_name(guest: MovingGuest) -> None:
    receiver = use(guest, ("--allow-peer", "host3"), NAMED)
    refused(guest, receiver, "certificate of host1: it is not among those of --allow-peer",
            "host1 (SHA-256 ")


def test_a_destination_of_another_name_is_refused(guest: MovingGuest) -> None:
    receiver = use(guest, ALLOW, ("--peer-name", "host3"))
    refused(guest, receiver, "and not host3", "certificate of host2: it was to be of another host")


def test_plaintext_to_a_receiver_of_tls_is_refused(guest: MovingGuest) -> None:
    receiver = use(guest, ALLOW, PLAINTEXT)
    refused(guest, receiver, "it wants TLS", "the source speaks plaintext")


def test_tls_to_a_receiver_of_plaintext_is_refused(guest: MovingGuest) -> None:
    receiver = use(guest, PLAINTEXT, NAMED)
    refused(guest, receiver, "speaks plaintext", "the peer speaks TLS")


def test_an_address_is_no_name(guest: MovingGuest) -> None:
    guest.migrate_options = ()
    outcome = guest.migrate()
    assert outcome.status == USAGE
    assert outcome.report["result"] == "failed" and outcome.report["migration_id"] is None
    one_line(outcome.stderr, "--peer-name")


def test_a_guest_moves_over_tls(certified: TwoHosts, guest: MovingGuest) -> None:
    guest.receive_options, guest.migrate_options = ALLOW, NAMED
    assert_arrived_whole(guest, guest.move(*IN_TIME, "--verify"))
    assert certified.running() == [1]
