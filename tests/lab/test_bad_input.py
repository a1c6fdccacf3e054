"""What is wrong with configuration, files or host gives one clear line and a documented status."""

import re

import pytest

from guests import READY, VmmHost, guest_config

FAILED, USAGE, NO_SUCH_GUEST, HOST = 1, 2, 3, 4
BASE = guest_config("bad")


def refused(vmm: VmmHost, command: str, status: int, *words: str) -> str:
    """Run a command that must fail with `status` and one line on stderr that has all `words`."""
    # A vmm that runs a guest instead of refusing it is ended, so that it does not disturb others.
    done = vmm.shell(f"timeout -s KILL 40 {command}")
    assert done.returncode == status, f"status {done.returncode}: {done.stderr}"
    assert re.fullmatch(r"vmm: error: [^\n]+\n", done.stderr), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert done.stdout == ""
    return done.stderr


def refuse_config(vmm: VmmHost, text: str, status: int, *words: str) -> str:
    path = vmm.write("bad.cfg", text)
    return refused(vmm, f"vmm run {path}", status, *words)


def place_of(text: str, wanted: str) -> str:
    """FILE:LINE:COLUMN of the first occurrence of `wanted` in a configuration."""
    before = text[:text.index(wanted)]
    column = len(before) - (before.rfind("\n") + 1) + 1
    return f"bad.cfg:{before.count(chr(10)) + 1}:{column}:"


CONFIGS = [
    # (what is replaced, by what, where the error is, words of it)
    pytest.param("vcpus = 1", "vcpu = 1", "vcpu = 1", ["unknown key vcpu"], id="unknown key"),
    pytest.param("[cpu]", "[cpu]\nsveee = 1", "sveee", ["unknown key cpu.sveee"],
                 id="unknown key in a table"),
    pytest.param("[cpu]", "[gpu]\nx = 1\n[cpu]", "gpu", ["unknown key gpu"], id="unknown table"),
    pytest.param("vcpus = 1", 'vcpus = "one"', '"one"', ["vcpus is not an integer"],
                 id="string for a number"),
    pytest.param("vcpus = 1", "vcpus = 1.5", "1.5", ["vcpus is not an integer"],
                 id="fraction for an integer"),
    pytest.param('memory = "96M"', "memory = 96", "96", ["memory is not a string"],
                 id="number for a string"),
    pytest.param("features = []", 'features = "sve"', '"sve"', ["features is not a list"],
                 id="string for a list"),
    pytest.param("[boot]", "boot = 3\n[other]", "3", ["boot is not a table"], id="no table"),
    pytest.param("vcpus = 1", "vcpus = 0", "0\n", ["vcpus must be 1 to 16"], id="no vCPU"),
    pytest.param("vcpus = 1", "vcpus = 17", "17", ["vcpus must be 1 to 16"], id="17 vCPUs"),
    pytest.param("vcpus = 1", "vcpus = -1", "-1", ["vcpus must be 1 to 16"], id="-1 vCPU"),
    pytest.param('"96M"', '"1M"', '"1M"', ["memory must be"], id="too little memory"),
    pytest.param('"96M"', '"97M"', '"97M"', ["memory must be a multiple of 2M"], id="odd memory"),
    pytest.param('"96M"', '"9000T"', '"9000T"', ["memory must be"], id="impossible memory"),
    pytest.param('"96M"', '"99999999999999999999G"', '"999', ["not a size"], id="overflowing size"),
    pytest.param('"96M"', '"lots"', '"lots"', ["not a size"], id="no size"),
    pytest.param("features = []", 'features = ["sve", "sme"]', '"sme"', ["cpu.features"],
                 id="unknown feature"),
    pytest.param('name = "bad"', 'name = "../etc"', '"../etc"', ["name must be"], id="bad name"),
    pytest.param("vcpus = 1", "vcpus = ", "\nmemory", [], id="syntax error"),
    pytest.param("vcpus = 1", "vcpus = 1\nvcpus = 2", "vcpus = 2", [], id="key given twice"),
    pytest.param('kernel = "/images/tiny/Image"', 'kernel = ""', '""', ["boot.kernel is empty"],
                 id="empty path"),
]


@pytest.mark.parametrize("old, new, at, words", CONFIGS)
def test_wrong_configuration_names_file_line_and_column(
    vmm_host: VmmHost, old: str, new: str, at: str, words: list[str]
) -> None:
    assert old in BASE
    text = BASE.replace(old, new, 1)
    error = refuse_config(vmm_host, text, USAGE, *words)
    if at.startswith("\n") or not words:
        # Where a parser notices a syntax error is its own affair; the line must be right.
        line = text[:text.index(at)].count("\n") + 1
        assert re.search(rf"bad\.cfg:{line}:\d+: ", error), error
    else:
        assert place_of(text, at) in error


@pytest.mark.parametrize("key", ["memory", "kernel"])
def test_missing_key_is_named(vmm_host: VmmHost, key: str) -> None:
    text = re.sub(rf"^{key} = .*\n", "", BASE, count=1, flags=re.MULTILINE)
    refuse_config(vmm_host, text, USAGE, "bad.cfg", f"{key} is missing")


def test_missing_configuration_and_one_that_cannot_be_read(vmm_host: VmmHost) -> None:
    refused(vmm_host, "vmm run /tmp/nowhere.cfg", USAGE, "/tmp/nowhere.cfg", "No such file")
    refused(vmm_host, "vmm run /tmp", USAGE, "/tmp")


def kernel_is(path: str) -> str:
    return BASE.replace("/images/tiny/Image", path)


def test_missing_kernel(vmm_host: VmmHost) -> None:
    refuse_config(vmm_host, kernel_is("/tmp/none"), USAGE, "/tmp/none", "No such file")


def test_missing_initrd(vmm_host: VmmHost) -> None:
    text = BASE.replace("/images/tiny/initrd.gz", "/tmp/none.gz")
    refuse_config(vmm_host, text, USAGE, "/tmp/none.gz", "No such file")


def test_kernel_that_is_a_directory(vmm_host: VmmHost) -> None:
    refuse_config(vmm_host, kernel_is("/tmp"), USAGE, "/tmp")


@pytest.mark.parametrize("make, word", [
    ("head -c 40 /images/tiny/Image", "truncated"),
    ("head -c 20000000 /images/debian/vmlinuz", "truncated"),
    ("gzip -1 -c /images/tiny/Image | head -c 1000000", "truncated"),
    (": ", "truncated"),
], ids=["header cut off", "image cut off", "gzip cut off", "empty"])
def test_truncated_kernel(vmm_host: VmmHost, make: str, word: str) -> None:
    vmm_host.host.run(f"{make} >/tmp/kernel")
    text = kernel_is("/tmp/kernel").replace('"96M"', '"256M"')
    refuse_config(vmm_host, text, USAGE, "/tmp/kernel", word)


@pytest.mark.parametrize("make, word", [
    # An x86 bzImage has "HdrS" at 0x202.
    ("dd if=/dev/zero bs=514 count=1; printf HdrS; dd if=/dev/zero bs=4096 count=4", "x86"),
    ("cat /usr/bin/vmm", "ELF"),
    ("dd if=/dev/urandom bs=4096 count=4", "not an arm64 Linux Image"),
    ("dd if=/dev/urandom bs=4096 count=4 | gzip", "not an arm64 Linux Image"),
], ids=["x86 kernel", "ELF program", "noise", "zipped noise"])
def test_kernel_of_another_kind(vmm_host: VmmHost, make: str, word: str) -> None:
    vmm_host.host.run(f"{{ {make}; }} >/tmp/kernel 2>/dev/null")
    refuse_config(vmm_host, kernel_is("/tmp/kernel"), USAGE, "/tmp/kernel", word)


def test_guest_too_small_for_its_kernel(vmm_host: VmmHost) -> None:
    text = kernel_is("/images/debian/vmlinuz").replace('"96M"', '"32M"')
    refuse_config(vmm_host, text, USAGE, "/images/debian/vmlinuz", "memory")


def test_memory_larger_than_the_host(vmm_host: VmmHost) -> None:
    refuse_config(vmm_host, BASE.replace('"96M"', '"64G"'), HOST, "65536 MiB", "this host has")


def test_hugetlb_without_a_pool(vmm_host: VmmHost) -> None:
    refuse_config(vmm_host, BASE.replace("[boot]", 'backing = "hugetlb"\n[boot]'), HOST, "huge")


def test_host_without_kvm(vmm_host: VmmHost) -> None:
    path = vmm_host.write("good.cfg", BASE)
    vmm_host.host.run("mv /dev/kvm /dev/kvm.away")
    try:
        for command in (f"vmm run {path}", "vmm check"):
            refused(vmm_host, command, HOST, "/dev/kvm does not exist")
    finally:
        vmm_host.host.run("mv /dev/kvm.away /dev/kvm")


def test_user_without_permission_for_kvm(vmm_host: VmmHost) -> None:
    path = vmm_host.write("good.cfg", BASE)
    vmm_host.host.run("chmod 600 /dev/kvm; mkdir -p /tmp/nobody; chown nobody /tmp/nobody")
    inner = f"XDG_RUNTIME_DIR=/tmp/nobody vmm run {path}"
    refused(vmm_host, f"su -s /bin/sh nobody -c '{inner}'", HOST, "no permission to open /dev/kvm")


def test_name_in_use_by_a_live_guest(vmm: VmmHost) -> None:
    guest = vmm.start("twice")
    guest.wait_started()
    path = vmm.write("again.cfg", guest_config("twice"))
    refused(vmm, f"vmm run {path}", FAILED, "twice", "already running")
    refused(vmm, f"vmm run --detach {path}", FAILED, "twice", "already running")
    assert guest.is_running()
    assert vmm.json("list")[0]["name"] == "twice"


def test_stale_socket_is_replaced_and_does_not_count(vmm: VmmHost) -> None:
    guest = vmm.start("ghost")
    guest.wait_started()
    guest.signal("KILL")
    guest.exit_status()
    assert vmm.host.run("test -S /run/vmm/ghost.sock", check=False).returncode == 0
    assert vmm.json("list") == []
    refused(vmm, "vmm stats", NO_SUCH_GUEST, "no guest is running")
    refused(vmm, "vmm stop ghost", NO_SUCH_GUEST, "ghost")
    again = vmm.start("ghost")
    again.wait(READY)
    assert vmm("stop", "ghost").returncode == 0


def test_several_guests_and_no_name(vmm: VmmHost) -> None:
    for guest in [vmm.start("one"), vmm.start("two")]:
        guest.wait_started()
    refused(vmm, "vmm pause", NO_SUCH_GUEST, "one", "two")


def test_console_path_that_cannot_be_opened(vmm_host: VmmHost) -> None:
    text = guest_config("bad", console_file="/nowhere/console")
    refuse_config(vmm_host, text, USAGE, "/nowhere/console", "No such file")
    path = vmm_host.write("good.cfg", BASE)
    refused(vmm_host, f"vmm run --console /tmp {path}", USAGE, "/tmp", "Is a directory")


def test_runtime_directory_that_cannot_be_made(vmm_host: VmmHost) -> None:
    path = vmm_host.write("good.cfg", BASE)
    refused(vmm_host, f"env XDG_RUNTIME_DIR=/proc/none vmm run {path}", HOST, "/proc/none/vmm")


@pytest.mark.parametrize("arguments", [
    "", "fly", "run", "run a b", "run --name", "run --frequency 3 x", "stop --timeout soon",
    "stop --timeout 0", "list extra"])
def test_wrong_command_lines(vmm_host: VmmHost, arguments: str) -> None:
    refused(vmm_host, f"vmm {arguments}", USAGE)


def test_failure_of_a_detached_start_is_reported_by_the_command(vmm_host: VmmHost) -> None:
    path = vmm_host.write("bad.cfg", kernel_is("/tmp/none"))
    refused(vmm_host, f"vmm run --detach {path}", USAGE, "/tmp/none")
    assert vmm_host.json("list") == []
