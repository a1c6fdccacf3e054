"""Guests of both images boot, see their processors, and end and start again in an orderly way."""

import re

import pytest

from guests import INIT_REACHED, READY, Guest, VmmHost, run_command

IMAGES = ["tiny", "debian"]
VCPUS = [1, 2, 4]


@pytest.fixture(scope="module")
def fleet(vmm_host: VmmHost) -> dict[tuple[str, int], Guest]:
    """A guest of each image with 1, 2 and 4 vCPUs, all at once."""
    return {
        (image, vcpus): vmm_host.start(f"{image}{vcpus}", image=image, vcpus=vcpus)
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
    console = guest.wait(INIT_REACHED, count=3)
    assert console.count("vmm-guest: reboot") >= 2
    assert guest.is_running()


def test_power_off_from_inside_ends_vmm_run_with_0(vmm: VmmHost) -> None:
    guest = vmm.start(cmdline=run_command("echo out=$((6*7))"))
    assert guest.exit_status() == 0
    assert "out=42" in guest.console()
    assert "vmm-guest: run status=0" in guest.console()


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


@pytest.fixture(scope="module")
def cpu_features(vmm_host: VmmHost) -> dict[str, str]:
    """The Features line of /proc/cpuinfo for each choice of optional features."""
    choices = {"none": [], "sve": ["sve"], "pauth": ["pauth"], "both": ["sve", "pauth"]}
    command = run_command("grep -m1 Features /proc/cpuinfo")
    guests = {
        key: vmm_host.start(f"cpu-{key}", features=features, cmdline=command, vcpus=2)
        for key, features in choices.items()
    }
    lines = {}
    for key, guest in guests.items():
        assert guest.exit_status() == 0, guest.stderr()
        lines[key] = re.search(r"^Features.*$", guest.console(), re.MULTILINE).group(0) + " "
    return lines


@pytest.mark.parametrize("choice, sve, pauth", [
    ("none", False, False), ("sve", True, False), ("pauth", False, True), ("both", True, True)])
def test_a_guest_has_just_the_optional_features_it_asks_for(
    cpu_features: dict[str, str], choice: str, sve: bool, pauth: bool
) -> None:
    assert (" sve " in cpu_features[choice]) == sve
    assert (" paca " in cpu_features[choice]) == pauth


def test_debian_boots_with_every_optional_feature(vmm: VmmHost) -> None:
    guest = vmm.start(image="debian", vcpus=2, features=["sve", "pauth"],
                      cmdline=run_command("grep -m1 Features /proc/cpuinfo"))
    assert guest.exit_status() == 0, guest.stderr()
    features = re.search(r"^Features.*$", guest.console(), re.MULTILINE).group(0) + " "
    assert " sve " in features and " paca " in features


def test_the_workload_keeps_its_memory_and_clock_right(vmm: VmmHost) -> None:
    command = run_command("workload --size 24M --threads 2 --pin --duration 1.5 --fill pattern "
                          "--verify-every 300")
    guest = vmm.start(vcpus=2, cmdline=command)
    assert guest.exit_status() == 0
    assert "workload: done result=ok" in guest.console()
    assert "vmm-guest: run status=0" in guest.console()


def test_gzip_kernels_boot_too(vmm: VmmHost) -> None:
    vmm.host.run("gzip -1 -c /images/tiny/Image >/tmp/Image.gz")
    text = (
        'name = "zipped"\nmemory = "96M"\n[boot]\nkernel = "/tmp/Image.gz"\n'
        'initrd = "/images/tiny/initrd.gz"\n'
        "cmdline = 'console=ttyAMA0 quiet vmm.run=\"echo from-gzip\"'\n"
    )
    done = vmm("run", vmm.write("zipped.cfg", text))
    assert done.returncode == 0, done.stderr
    assert "from-gzip" in done.stdout


def test_the_console_goes_to_a_file_as_well(vmm: VmmHost) -> None:
    guest = vmm.start(console_file="/tmp/console.txt", cmdline=run_command("echo to-the-file"))
    assert guest.exit_status() == 0
    assert "to-the-file" in guest.console()
    assert vmm.read("/tmp/console.txt") == guest.console()
    assert vmm.host.run("stat -c %a /tmp/console.txt").stdout.strip() == "600"
