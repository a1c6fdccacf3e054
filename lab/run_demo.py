"""./demo: builds what it needs, boots a guest with vmm in one emulated host, and says how it went."""

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from lab import packages
from lab.artifacts import guest_image, guest_programs, kernel, kernel_headers
from lab.background import Background
from lab.build import build_arm64
from lab.errors import LabError
from lab.host import Host
from lab.progress import elapsed_text, note, step

INIT_REACHED = "vmm-guest: init reached"
READY = "vmm-guest: ready"
GUEST_COMMAND = "uname -srm; grep -c processor /proc/cpuinfo; free | head -n 2"
DONE_MARK = "demo-42"
GUEST_TIMEOUT_S = 60.0


class Console:
    """Shows a guest's console line by line and lets others wait for what it prints."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[bytes]) -> None:
        for raw in stream:
            line = raw.decode(errors="replace").rstrip()
            print(f"  guest | {line}", flush=True)
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, text: str) -> None:
        """Wait for a line with `text`. Raises LabError when the guest ends or takes too long."""
        deadline = time.monotonic() + GUEST_TIMEOUT_S
        with self._changed:
            while not any(text in line for line in self._lines):
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "the guest ended" if self._ended else f"not within {GUEST_TIMEOUT_S:.0f} s"
                    raise LabError(f"the guest's console never showed '{text}': {why}")
                self._changed.wait(left)


def prepare() -> Path:
    """Build vmm, the kernel and the guest image, side by side; returns the arm64 build."""

    def kernels() -> None:
        kernel_headers()
        kernel("lab")

    lab = Background(kernels)
    build = build_arm64(["vmm", *guest_programs()])
    lab.result()
    return build


def run_guest(host: Host, figures: list[tuple[str, str]]) -> None:
    """Boot the tiny guest in `host`, run a command in it, and shut it down by its power key."""
    started = time.monotonic()
    guest = host.popen(
        ["vmm", "run", "/images/tiny/guest.cfg"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    assert guest.stdin is not None and guest.stdout is not None
    console = Console(guest.stdout)
    try:
        console.wait_for(INIT_REACHED)
        figures.append(("guest: vmm run to its init, boot messages on the UART", seconds_since(started)))
        console.wait_for(READY)
        note(f"running in the guest: {GUEST_COMMAND}")
        asked = time.monotonic()
        # The mark is computed by the guest's shell, so that the echo of the input is not taken for it.
        guest.stdin.write(f"{GUEST_COMMAND}; echo demo-$((40+2))\n".encode())
        guest.stdin.flush()
        console.wait_for(DONE_MARK)
        figures.append(("guest: a command on its console", seconds_since(asked)))
        print(host.run("vmm list").stdout, end="")
        asked = time.monotonic()
        host.run("vmm stop", timeout=GUEST_TIMEOUT_S)
        status = guest.wait(GUEST_TIMEOUT_S)
        figures.append(("guest: clean shutdown by its power key", seconds_since(asked)))
        if status != 0:
            raise LabError(f"vmm run ended with status {status} instead of 0")
    finally:
        guest.kill()
        guest.wait()


def seconds_since(start: float) -> str:
    """Time since a point of the monotonic clock, for the summary."""
    return f"{time.monotonic() - start:.2f} s"


def show(begun: float, prepared: float, release: str, figures: list[tuple[str, str]]) -> None:
    """Print the summary table."""
    rows = [
        ("install and build (cached parts are not built again)", elapsed_text(prepared - begun)),
        *figures,
        ("all of ./demo", elapsed_text(time.monotonic() - begun)),
    ]
    width = max(len(label) for label, _ in rows)
    print(f"\nvmm booted, used and stopped an arm64 guest (host and guest kernel {release}).")
    for label, value in rows:
        print(f"  {label:<{width}}  {value:>12}")
    print("Host and guest run under QEMU's software emulation here: times say nothing of real hardware.")
    print("Live migration is not part of vmm yet.")


def demo() -> None:
    """All of ./demo."""
    begun = time.monotonic()
    packages.ensure("build", "lab")
    build = prepare()
    image = guest_image("tiny", build)
    prepared = time.monotonic()
    figures: list[tuple[str, str]] = []
    with step("start an emulated arm64 host"):
        host = Host.start(
            shares={"/images/tiny": image}, extra_files={"/usr/bin/vmm": build / "src/vmm/vmm"}
        )
    with host:
        figures.append(("host: QEMU start to first command", f"{host.boot_seconds:.2f} s"))
        print(host.run("vmm check", check=False).stdout)
        run_guest(host, figures)
    show(begun, prepared, kernel("lab").release, figures)


def main() -> int:
    """Run ./demo; errors are one line on stderr and exit status 1."""
    argparse.ArgumentParser(prog="./demo", description=__doc__).parse_args()
    try:
        demo()
    except (LabError, subprocess.TimeoutExpired) as error:
        print(f"./demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("./demo: interrupted; what was built stays and the next run goes on from there",
              file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
