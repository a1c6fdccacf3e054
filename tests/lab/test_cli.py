"""The commands about running guests, and how `vmm run` behaves in the foreground."""

import json
import re
import time

import pytest

from guests import READY, Guest, VmmHost, guest_config, run_command
from terminal import CTRL_RIGHT_BRACKET, Terminal

NO_SUCH_GUEST = 3
INTERRUPTED = 130


@pytest.fixture(scope="module")
def web(vmm_host: VmmHost) -> Guest:
    """A guest that the tests that change nothing share."""
    guest = vmm_host.start("web", vcpus=2)
    guest.wait(READY)
    return guest


def one_line_error(text: str) -> bool:
    return re.fullmatch(r"vmm: error: [^\n]+\n", text) is not None


def test_list_shows_the_guest(vmm_host: VmmHost, web: Guest) -> None:
    header, *rows = vmm_host("list").stdout.splitlines()
    assert header.split() == ["NAME", "STATE", "VCPUS", "MEMORY", "UPTIME", "PID"]
    row = next(row.split() for row in rows if row.startswith("web "))
    assert row[1:4] == ["running", "2", "96M"]
    assert int(row[-1]) == web.pid()


def test_list_as_json(vmm_host: VmmHost, web: Guest) -> None:
    info = next(item for item in vmm_host.json("list") if item["name"] == "web")
    assert (info["state"], info["vcpus"], info["memory"]) == ("running", 2, 96 << 20)
    assert info["pid"] == web.pid() and info["uptime_ms"] > 0


def test_stats_count_what_the_guest_does(vmm_host: VmmHost, web: Guest) -> None:
    stats = vmm_host.json("stats", "web")
    assert stats["name"] == "web" and stats["reboots"] == 0
    assert stats["console_bytes"] > 0 and stats["console_dropped_bytes"] == 0
    assert 8 << 20 < stats["resident"] < 120 << 20
    assert len(stats["vcpu"]) == 2
    assert sum(vcpu["mmio_writes"] for vcpu in stats["vcpu"]) > 0
    assert all(vcpu["cpu_ms"] > 0 for vcpu in stats["vcpu"])
    text = vmm_host("stats", "web").stdout
    assert text.startswith("web: running for ") and text.count("\n") == 8
    assert [item["name"] for item in stats["devices"]] == ["rng"]
    assert text.splitlines()[-1].startswith("rng ")


def test_the_name_may_be_left_out_where_one_guest_runs(vmm_host: VmmHost, web: Guest) -> None:
    assert vmm_host.json("stats")["name"] == "web"


def test_an_unknown_guest_is_status_3(vmm_host: VmmHost, web: Guest) -> None:
    for command in ("pause", "resume", "stop", "kill", "stats", "console"):
        done = vmm_host(command, "nobody")
        assert done.returncode == NO_SUCH_GUEST, command
        assert one_line_error(done.stderr), done.stderr


def test_a_paused_guest_stands_still_and_goes_on(vmm: VmmHost) -> None:
    guest = vmm.start("pausing", vcpus=2, cmdline=run_command(
        "while true; do workload --size 4M --rate 2000 --interval 100 --duration 60; done"))
    guest.wait("workload: t_ms", count=2)
    assert vmm("pause").returncode == 0
    assert vmm.json("list")[0]["state"] == "paused"
    assert {item["state"] for item in vmm.json("stats")["vcpu"]} == {"paused"}
    time.sleep(0.3)
    before = guest.console()
    time.sleep(0.7)
    assert guest.console() == before
    assert vmm("pause").returncode == 0  # once more changes nothing
    lines = before.count("workload: t_ms")
    assert vmm("resume").returncode == 0
    console = guest.wait("workload: t_ms", count=lines + 3)
    assert "clock_back=0" in console and not re.search(r"clock_back=[1-9]", console)
    assert vmm("resume").returncode == 0


def test_kill_ends_the_guest_at_once(vmm: VmmHost) -> None:
    guest = vmm.start()
    guest.wait(READY)
    assert vmm("kill").returncode == 0
    assert guest.exit_status(30) == 1
    assert one_line_error(guest.stderr()) and "killed" in guest.stderr()
    assert "power off" not in guest.console()
    assert vmm.json("list") == []


def test_stop_that_the_guest_does_not_follow_times_out_and_says_so(vmm: VmmHost) -> None:
    guest = vmm.start(cmdline="quiet rdinit=/bin/sh")  # a shell as init knows no power key
    guest.wait("#")
    done = vmm("stop", "--timeout", "1")
    assert done.returncode == 1
    assert one_line_error(done.stderr) and "1 s" in done.stderr
    assert guest.is_running()


def test_sigterm_shuts_the_guest_down(vmm: VmmHost) -> None:
    guest = vmm.start()
    guest.wait(READY)
    guest.signal("TERM")
    assert guest.exit_status() == 0
    assert "vmm-guest: power off" in guest.console()


def test_a_second_sigterm_ends_a_guest_that_does_not_listen(vmm: VmmHost) -> None:
    guest = vmm.start(cmdline="quiet rdinit=/bin/sh")
    guest.wait("#")
    guest.signal("TERM")
    time.sleep(0.5)
    assert guest.is_running()
    guest.signal("TERM")
    assert guest.exit_status(30) == INTERRUPTED
    assert guest.stderr().count("\n") == 2  # that it asked, and that it ended it


def test_console_takes_input_and_shows_output(vmm: VmmHost) -> None:
    guest = vmm.start()
    guest.wait(READY)
    done = vmm.shell("vmm console", text="echo sum=$((40+2)); poweroff\n")
    assert done.returncode == 0, done.stderr
    assert "sum=42" in done.stdout
    assert "vmm-guest: power off" in done.stdout
    assert guest.exit_status() == 0


def test_detached_guest_runs_on_and_leaves_no_files(vmm: VmmHost) -> None:
    path = vmm.write("apart.cfg", guest_config("apart"))
    done = vmm("run", "--detach", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [item["name"] for item in vmm.json("list")] == ["apart"]
    mode = vmm.host.run("stat -c %a /run/vmm/apart.sock").stdout.strip()
    assert mode == "600"
    deadline = time.monotonic() + 20
    while vmm.json("stats")["console_bytes"] < 20 and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    assert vmm("stop").returncode == 0
    assert vmm.host.run("ls -A /run/vmm").stdout == ""


def test_name_on_the_command_line_wins(vmm: VmmHost) -> None:
    path = vmm.write("named.cfg", guest_config("named"))
    assert vmm("run", "--detach", "--name", "other", path).returncode == 0
    assert [item["name"] for item in vmm.json("list")] == ["other"]


def test_check_shows_what_the_lab_host_offers(vmm_host: VmmHost) -> None:
    features = {item["name"]: item for item in vmm_host.json("check")}
    for name in ("KVM", "GICv3", "PSCI", "SVE", "pointer authentication", "PMU",
                 "dirty log, manual protect", "eager page split"):
        assert features[name]["available"], name
    text = vmm_host("check").stdout
    assert re.search(r"^ok +SVE +", text, re.MULTILINE)
    assert re.search(r"^ok +pointer authentication +", text, re.MULTILINE)
    assert "MISSING" not in text
    assert json.loads(vmm_host("check", "--json").stdout)


FOREGROUND = "stty -g; vmm run {config}; echo status=$?; stty -g"


def settings_around(text: str) -> tuple[str, str]:
    """The first and the last terminal settings that `stty -g` printed."""
    found = re.findall(r"^[0-9a-f]+(?::[0-9a-f]+){10,}$", text, re.MULTILINE)
    assert len(found) >= 2, text
    return found[0], found[-1]


def test_terminal_is_the_console_and_is_restored(vmm: VmmHost) -> None:
    path = vmm.write("tty.cfg", guest_config("tty"))
    with Terminal(vmm.host, FOREGROUND.format(config=path)) as terminal:
        terminal.wait(READY)
        terminal.wait("guest:/#")
        terminal.send(b"echo sum=$((40+2))\r")
        terminal.wait("sum=42")
        terminal.send(b"poweroff\r")
        text = terminal.end()
    assert "status=0" in text
    before, after = settings_around(text)
    assert before == after


def test_escape_key_shuts_the_guest_down_and_twice_ends_it(vmm: VmmHost) -> None:
    path = vmm.write("tty.cfg", guest_config("tty", cmdline="quiet rdinit=/bin/sh"))
    with Terminal(vmm.host, FOREGROUND.format(config=path)) as terminal:
        terminal.wait("#")
        terminal.send(CTRL_RIGHT_BRACKET)
        terminal.wait("once more ends it")
        terminal.send(CTRL_RIGHT_BRACKET)
        text = terminal.end()
    assert f"status={INTERRUPTED}" in text
    before, after = settings_around(text)
    assert before == after


def test_terminal_is_restored_when_vmm_is_terminated(vmm: VmmHost) -> None:
    path = vmm.write("tty.cfg", guest_config("tty", cmdline="quiet rdinit=/bin/sh"))
    with Terminal(vmm.host, FOREGROUND.format(config=path)) as terminal:
        terminal.wait("#")
        vmm.host.run("killall -TERM vmm; usleep 300000; killall -TERM vmm")
        text = terminal.end()
    before, after = settings_around(text)
    assert before == after


def test_leaving_an_attached_console_lets_the_guest_run_on(vmm: VmmHost) -> None:
    guest = vmm.start("seen")
    guest.wait(READY)
    with Terminal(vmm.host, "stty -g; vmm console seen; echo status=$?; stty -g") as terminal:
        terminal.send(b"echo sum=$((40+2))\r")
        terminal.wait("sum=42")
        terminal.send(CTRL_RIGHT_BRACKET)
        text = terminal.end()
    assert "status=0" in text
    before, after = settings_around(text)
    assert before == after
    assert guest.is_running()
