"""Guests of both images boot, see their processors, and end and start again in an orderly way."""

import re

import pytest

from guests import INIT_REACHED, READY, Guest, VmmHost, run_command

IMAGES = ["tiny", "debian"]
VCPUS = [1, 2, 4]


@pytest.fixture(scope="module")
def fleet(vmm_host: VmmHost) -> dict[tuple[str, int], Guest]:
    """A guest of each image with 1, 2 and 4 vCPUs, all at once; those with 2 have all features."""
    return {
        (image, vcpus): vmm_host.start(f"{image}{vcpus}", image=image, vcpus=vcpus,
                                       features=["sve", "pauth"] if vcpus == 2 else [])
        for image in IMAGES for vcpus in VCPUS
    }


@pytest.mark.parametrize("vcpus", VCPUS)
@pytest.mark.parametrize("image", IMAGES)
def test_guest_reaches_userspace_and_stops_cleanly(
    vmm_host: VmmHost, fleet: dict[tuple[str, int], Guest], image: str, vcpus: int
) -> None:
    guest = fleet[image, vcpus]
    console = guest.wait(READY)
    assert re.search(rf"{READY} .*cpus={vcpus}$", console, re.MULTILINE)
    assert "vmm-guest: error" not in console
    stopped = vmm_host("stop", guest.name)
    assert stopped.returncode == 0, stopped.stderr
    assert guest.exit_status() == 0
    console = guest.console()
    assert "vmm-guest: power key pressed" in console
    assert "vmm-guest: power off" in console
    assert guest.stderr() == ""


def test_a_guest_that_reboots_boots_again(vmm: VmmHost) -> None:
    guest = vmm.start(vcpus=2, cmdline=run_command("reboot"))
    console = guest.wait(INIT_REACHED, count=2)
    assert "vmm-guest: reboot" in console
    assert guest.is_running()


def test_processors_go_off_and_on(vmm: VmmHost) -> None:
    command = (
        "cd /sys/devices/system/cpu && for c in 1 2 3; do echo 0 >cpu$c/online; done && "
        "echo off=$(cat online) && for c in 3 1 2; do echo 1 >cpu$c/online; done && "
        "echo on=$(cat online)"
    )
    guest = vmm.start(vcpus=4, cmdline=run_command(command))
    console = guest.wait("vmm-guest: run status=0")
    assert "off=0\n" in console
    assert "on=0-3\n" in console


def test_the_workload_keeps_its_memory_and_clock_right(vmm: VmmHost) -> None:
    command = run_command("workload --size 24M --threads 2 --pin --duration 1.5 --fill pattern "
                          "--verify-every 300")
    guest = vmm.start(vcpus=2, cmdline=command)
    assert guest.exit_status() == 0
    assert "workload: done result=ok" in guest.console()
    assert "vmm-guest: run status=0" in guest.console()


FEATURES = "grep -m1 Features /proc/cpuinfo"


def features_in(console: str) -> set[str]:
    """The features that a guest's /proc/cpuinfo listed on its console."""
    line = re.search(r"^Features\s*:(.*)$", console, re.MULTILINE)
    assert line is not None, console
    return set(line.group(1).split())


@pytest.mark.parametrize("features, sve, pauth", [
    (["sve"], True, False), (["pauth"], False, True), (["sve", "pauth"], True, True)],
    ids=["sve", "pauth", "both"])
def test_a_guest_has_just_the_optional_features_it_asks_for(
    vmm: VmmHost, features: list[str], sve: bool, pauth: bool
) -> None:
    guest = vmm.start(features=features, cmdline=run_command(FEATURES))
    assert guest.exit_status() == 0, guest.stderr()
    found = features_in(guest.console())
    assert ("sve" in found, "paca" in found) == (sve, pauth)


@pytest.fixture(scope="module")
def zipped(vmm_host: VmmHost) -> Guest:
    """A guest without optional features, with a compressed kernel and a console file, that has run
    a command and powered off."""
    vmm_host.host.run("gzip -1 -c /images/tiny/Image >/tmp/Image.gz")
    guest = vmm_host.start("zipped", kernel="/tmp/Image.gz", console_file="/tmp/console.txt",
                           cmdline=run_command(f"{FEATURES}; echo out=$((6*7))"))
    guest.exit_status()
    return guest


def test_power_off_from_inside_ends_vmm_run_with_0(zipped: Guest) -> None:
    assert zipped.exit_status() == 0
    assert zipped.stderr() == ""
    assert "vmm-guest: run status=0" in zipped.console()


def test_gzip_kernels_boot_too(zipped: Guest) -> None:
    assert "out=42" in zipped.console()


def test_optional_features_are_off_by_default(zipped: Guest) -> None:
    assert not {"sve", "paca"} & features_in(zipped.console())


def test_the_console_goes_to_a_file_as_well(vmm_host: VmmHost, zipped: Guest) -> None:
    assert vmm_host.read("/tmp/console.txt") == zipped.console()
    assert vmm_host.host.run("stat -c %a /tmp/console.txt").stdout.strip() == "600"
