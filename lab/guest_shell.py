"""A guest that takes commands over the network, and the memory-dirtying load in it."""

import subprocess
import time
from collections.abc import Sequence

from lab.errors import LabError
from lab.host import Host
from lab.load_lines import Line, parse_lines

ADDRESS = "10.77.0.50"
SHELL_PORT = 5000
ECHO_PORT = 5001
# Kernel parameters of such a guest.
CMDLINE = f"quiet ip={ADDRESS}/24 vmm.listen={SHELL_PORT} vmm.echo={ECHO_PORT}"
ANSWERS = f"echo echo here | nc -w 3 {ADDRESS} {SHELL_PORT} 2>/dev/null | grep -q here"
NOW = "echo $EPOCHREALTIME"  # for bash: the wall clock to the microsecond, without a process
WORKLOAD_LOG = "/tmp/workload.log"


class Clocks:
    """How many seconds the hosts' wall clocks are ahead of this machine's, which they keep pace with."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.ahead = [self._measure(host) for host in hosts]

    @staticmethod
    def _measure(host: Host, tries: int = 20) -> float:
        """By the question that is answered most quickly."""
        answer = ["bash", "-c", f"while read -r _; do {NOW}; done"]
        with host.popen(answer, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clock:
            assert clock.stdin is not None and clock.stdout is not None
            found = []
            for _ in range(tries):
                before = time.time()
                clock.stdin.write(b"\n")
                clock.stdin.flush()
                then = float(clock.stdout.readline())
                after = time.time()
                found.append((after - before, then - (before + after) / 2))
            clock.stdin.close()
        return min(found)[1]


class GuestShell:
    """Commands in the guest at ADDRESS. `hosts` are those it may be in, `at` the one it is in."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = hosts
        self.at = 0

    @property
    def host(self) -> Host:
        """The host it runs in."""
        return self.hosts[self.at]

    def run(self, script: str, timeout: float = 60) -> str:
        """Run a shell script in the guest and return what it printed. Raises LabError on failure."""
        text = f"( set -e\n{script}\n) </dev/null 2>&1\nprintf '\\nstatus=%s\\n' $?\n"
        # An answer of the guest's nc may come before it has noticed the end of the connection before.
        done = self.host.run(["nc", ADDRESS, str(SHELL_PORT)], timeout, False, text)
        output, _, status = done.stdout.rpartition("\nstatus=")
        if status.strip() != "0":
            raise LabError(f"in the guest: {script}\n{done.stdout}\n{done.stderr}")
        return output

    def start_workload(self, options: str) -> None:
        """Start the memory-dirtying load in the guest; its lines go to a file there."""
        self.run(f"setsid workload {options} >{WORKLOAD_LOG} 2>&1 </dev/null &\n"
                 f"echo $! >/tmp/workload.pid\n"
                 f"until grep -q t_ms {WORKLOAD_LOG}; do usleep 20000; done")

    def workload_lines(self) -> list[Line]:
        """All that the load has printed so far."""
        return parse_lines(self.run(f"cat {WORKLOAD_LOG}"))

    def workload_lines_until(self, when: float, ahead: float) -> list[Line]:
        """The load's lines once it has printed one after `when`, by a clock that the guest's is `ahead`
        of."""
        deadline = time.monotonic() + 60
        while True:
            lines = self.workload_lines()
            for line in lines:
                line["wall"] -= ahead
            if lines[-1]["wall"] > when:
                return lines
            if time.monotonic() > deadline:
                raise LabError("the load in the guest does not go on")
            time.sleep(0.2)

    def check_memory(self) -> Line:
        """Let the load verify its memory now; its line after that."""
        done = int(self.workload_lines()[-1]["verified"])
        self.run("kill -USR1 $(cat /tmp/workload.pid)\n"
                 f"until tail -n 1 {WORKLOAD_LOG} | grep -q 'verified=[0-9]' && "
                 f"[ $(tail -n 1 {WORKLOAD_LOG} | sed 's/.*verified=\\([0-9]*\\).*/\\1/') -gt {done} ]\n"
                 "do usleep 50000; done", 90)
        return self.workload_lines()[-1]

    def stop_workload(self) -> str:
        """End the load, which verifies its memory once more; its last line."""
        self.run(f"kill $(cat /tmp/workload.pid)\nuntil grep -q done {WORKLOAD_LOG}\n"
                 "do usleep 50000; done", 90)
        return self.run(f"tail -n 1 {WORKLOAD_LOG}").strip()

    def clock_ahead(self, clocks: Clocks) -> float:
        """Seconds by which its wall clock is ahead of this machine's, to some ms.

        It sends its time again and again; that which takes the shortest way counts.
        """
        ask = "workload --size 4K --rate 1 --tick 5 --interval 20 --duration 1 --wall"
        script = (f"echo '{ask}' | nc {ADDRESS} {SHELL_PORT} | while read -r line\n"
                  "do echo $EPOCHREALTIME ${line##*wall=}; done")
        lines = self.host.run(["bash", "-c", script]).stdout.splitlines()
        pairs = [line.split() for line in lines if "done" not in line]
        return max(float(guest) - float(host) for host, guest in pairs) + clocks.ahead[self.at]
