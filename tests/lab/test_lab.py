"""The lab itself: commands, files, networks, and that nothing stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.host import Host, Pair
from lab.remote import CommandFailed, CommandTimeout
from lab.runtime import is_live, sweep

REPOSITORY = Path(__file__).resolve().parents[2]
LAB = REPOSITORY / "lab" / "lab"
OWNER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
sys.path.insert(0, sys.argv[1])
from lab.host import Host
host = Host.start(memory_mib=512)
print(host.directory, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def plain_host() -> Iterator[Host]:
    """A host with nothing of the project in it."""
    with Host.start(memory_mib=512, append="lab_test=1") as host:
        yield host


def processes_of(directory: Path) -> list[str]:
    """Command lines of the processes of this machine that name `directory`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(directory) in text:
            found.append(text)
    return found


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether the condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_command_output_and_status(plain_host: Host) -> None:
    done = plain_host.run("echo out; echo err >&2; exit 3", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)
    assert plain_host.run(["echo", "a  b", "$HOME"]).stdout == "a  b $HOME\n"


def test_failed_command_is_an_error_with_its_text(plain_host: Host) -> None:
    with pytest.raises(CommandFailed, match="status 4: bad thing") as caught:
        plain_host.run("echo bad thing >&2; exit 4")
    assert caught.value.result.returncode == 4
    # 255 is also ssh's own failure; from a command it is a status like any other.
    assert plain_host.run("exit 255", check=False).returncode == 255
    assert plain_host.run("timeout 60 sh -c 'kill -SEGV $$'", check=False).returncode == 128 + signal.SIGSEGV


def test_command_input(plain_host: Host) -> None:
    assert plain_host.run("cat", input="given\n").stdout == "given\n"


def test_command_timeout_ends_the_command(plain_host: Host) -> None:
    with pytest.raises(CommandTimeout, match="did not end within 1 s: begun"):
        plain_host.run("echo begun; while :; do sleep 30.5; done", timeout=1)
    assert plain_host.run("ps -o args | grep 'sleep 30[.]5'", check=False).stdout == ""


def test_host_has_kvm_and_its_command_line(plain_host: Host) -> None:
    plain_host.run("test -c /dev/kvm")
    assert "lab_test=1" in plain_host.run("cat /proc/cmdline").stdout
    assert "lab: ready" in plain_host.console_log()


def test_clock_is_right(plain_host: Host) -> None:
    assert abs(int(plain_host.run("date +%s").stdout) - time.time()) < 30


def test_put_and_get_file_with_mode(plain_host: Host, tmp_path: Path) -> None:
    data = os.urandom(3 * 1024 * 1024 + 7)
    source = tmp_path / "a file"
    source.write_bytes(data)
    source.chmod(0o750)
    plain_host.put(source, "/tmp/some where/a copy")
    assert plain_host.run("stat -c %a '/tmp/some where/a copy'").stdout == "750\n"
    plain_host.get("/tmp/some where/a copy", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_put_and_get_directory(plain_host: Host, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_text("text")
    (source / "link").symlink_to("sub/file")
    plain_host.put(source, "/tmp/tree")
    assert plain_host.run("cat /tmp/tree/link").stdout == "text"
    plain_host.get("/tmp/tree", tmp_path / "copy")
    assert (tmp_path / "copy/link").read_text() == "text"


def test_copy_errors_name_the_file(plain_host: Host, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="nothing-here"):
        plain_host.put(tmp_path / "nothing-here", "/tmp/x")
    with pytest.raises(LabError, match="/no/such/file"):
        plain_host.get("/no/such/file", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_extra_files_shares_and_one_cpu(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/file").write_text("from a share")
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho from RAM\n")
    script.chmod(0o755)
    with Host.start(
        cpus=1, memory_mib=512, extra_files={"/usr/bin/my-script": script},
        shares={"/mnt/share": tmp_path / "shared"},
    ) as host:
        assert host.run("my-script").stdout == "from RAM\n"
        assert host.run("cat /mnt/share/file").stdout == "from a share"
        assert host.run("touch /mnt/share/new", check=False).returncode != 0
        assert host.run("nproc").stdout == "1\n"


def test_pair_reaches_each_other_and_survives_a_cut() -> None:
    with Pair.start(memory_mib=512) as pair:
        pair[0].run("ping -c 1 -W 5 10.77.0.2")
        pair[1].run("ping -c 1 -W 5 10.77.0.1")
        # About as large as a frame of this network may be.
        pair[0].run("ping -c 1 -W 5 -s 60000 10.77.0.2")
        pair[0].set_link(False)
        assert pair[1].run("ping -c 1 -W 1 10.77.0.1", check=False).returncode != 0
        pair[0].set_link(True)
        pair[1].run("ping -c 3 -W 5 10.77.0.1")
        directories = [host.directory for host in pair.hosts]
    assert not any(directory.exists() for directory in directories)


def test_shared_disk_is_seen_by_both(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"\0" * (8 << 20))
    with Pair.start(memory_mib=512, disks=[disk]) as pair:
        pair[0].run("printf shared | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null")
        assert pair[1].run("head -c 6 /dev/vda").stdout == "shared"


def test_clock_that_counts_instructions_repeats_itself() -> None:
    with Host.start(memory_mib=512, icount=True) as host:
        assert host.run("nproc").stdout == "1\n"
        # Long, because starting and ending a program takes up to 4 ms more or less (20 000 turns: 286 ms).
        loop = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
        # Nanoseconds on the processor, from the scheduler's own account.
        command = f"lab-exact sh -c '{loop}; cut -d\" \" -f1 /proc/$$/schedstat'"
        figures = [int(host.run(command).stdout) for _ in range(4)][1:]
        assert max(figures) - min(figures) < 0.01 * min(figures)


def test_host_that_dies_is_reported() -> None:
    with Host.start(memory_mib=512) as host:
        os.kill(int((host.directory / "qemu.pid").read_text()), signal.SIGKILL)
        assert eventually(lambda: not host.is_running())
        with pytest.raises(LabError, match="lost the host"):
            host.run("true")
        # The log outlives QEMU until the owner is done with it.
        assert "lab: ready" in host.console_log()


def test_host_that_cannot_start_shows_why() -> None:
    with pytest.raises(LabError, match="no-such-device"):
        Host.start(memory_mib=512, qemu_args=["-device", "no-such-device"])
    with pytest.raises(LabError, match="(?s)ended while starting.*Kernel panic"):
        Host.start(memory_mib=512, append="rdinit=/nothing init=/nothing")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_stays_when_the_owner_is_killed(number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(REPOSITORY)], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as owner:
        assert owner.stdout is not None
        directory = Path(owner.stdout.readline().strip())
        assert directory.is_dir() and len(processes_of(directory)) >= 3  # keeper, QEMU, ssh
        owner.send_signal(number)
        owner.wait()
    assert eventually(lambda: not directory.exists() and not processes_of(directory))


def test_nothing_stays_when_the_keeper_is_killed() -> None:
    host = Host.start(memory_mib=512)
    os.kill(int((host.directory / "keeper.pid").read_text()), signal.SIGKILL)
    assert eventually(lambda: not is_live(host.directory))
    assert eventually(lambda: not processes_of(host.directory))
    assert host.directory.name in sweep()
    host.stop()
    assert not host.directory.exists()


def lab(*words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the lab's command."""
    return subprocess.run([LAB, *words], capture_output=True, text=True, timeout=timeout)


@pytest.fixture
def private_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory of the test's own, so that a developer's hosts are left alone."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "vmm-lab"


def test_command_line_from_up_to_down(private_runtime: Path, tmp_path: Path) -> None:
    assert lab("status").stdout == "no host is up\n"
    assert "host 1 is not up" in lab("run", "--", "true").stderr
    started = lab("up", "--memory", "512")
    assert started.returncode == 0, started.stderr
    directory = private_runtime / "up-1"
    try:
        assert lab("status").stdout == "host 1: up\n"
        done = lab("run", "--", "echo hello; exit 5")
        assert (done.stdout, done.returncode) == ("hello\n", 5)
        assert "already up" in lab("up").stderr
        (tmp_path / "file").write_text("copied")
        assert lab("put", str(tmp_path / "file"), "/tmp/file").returncode == 0
        assert lab("get", "/tmp/file", str(tmp_path / "back")).returncode == 0
        assert (tmp_path / "back").read_text() == "copied"
        assert "lab: ready" in lab("console").stdout
    finally:
        assert lab("down").returncode == 0
    assert not directory.exists() and not processes_of(directory)
    assert lab("status").stdout == "no host is up\n"


def test_command_line_cleans_up_after_a_dead_keeper(private_runtime: Path) -> None:
    assert lab("up", "--memory", "512").returncode == 0
    directory = private_runtime / "up-1"
    os.kill(int((directory / "keeper.pid").read_text()), signal.SIGKILL)
    assert eventually(lambda: not processes_of(directory))
    assert lab("status").stdout == "no host is up\n"
    assert not directory.exists()
