"""./demo: builds what it needs, starts two emulated hosts and moves a running guest between them."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import packages
from lab.artifacts import guest_image, guest_programs, kernel, kernel_headers
from lab.background import Background
from lab.build import build_arm64
from lab.cache import cache_root
from lab.demo_moves import LOAD, MEMORY_MIB, TAP, DemoGuest, make_disk
from lab.demo_tables import Move, comparison, digest_lines, downtime_line, rounds_table
from lab.errors import LabError
from lab.host import Host, Pair
from lab.moving import LINK, host_address, make_bridge
from lab.progress import elapsed_text, step

HOST_MEMORY_MIB = 1024
MODES = ("hw", "hw", "wp", "wp")  # there and back by hardware, there and back by write protection
NAMES = {"hw": "hardware dirty logging", "wp": "write-protect logging"}


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def prepare() -> Path:
    """Build programs, kernel and guest image, side by side; returns the arm64 build."""

    def kernels() -> None:
        kernel_headers()
        kernel("lab")

    lab = Background(kernels)
    build = build_arm64(["vmm", "echo_client", *guest_programs()])
    lab.result()
    return build


def start_hosts(build: Path, image: Path, disk: Path) -> Pair:
    """Two hosts with vmm, a network between them that guests are on, too, and a shared disk."""
    files = {"/usr/bin/vmm": build / "src/vmm/vmm",
             "/usr/bin/echo_client": build / "guest-images/echo/echo_client"}
    with step("start two emulated arm64 hosts"):
        pair = Pair.start(extra_files=files, shares={"/images/tiny": image}, disks=[disk],
                          memory_mib=HOST_MEMORY_MIB)
    try:
        for number, host in enumerate(pair.hosts):
            make_bridge(host, host_address(number), [TAP], LINK)
    except BaseException:
        pair.stop()
        raise
    return pair


def show_host(host: Host) -> None:
    """What matters here of what a host can do."""
    for line in host.run("vmm check", check=False).stdout.splitlines():
        if any(word in line for word in ("KVM", "dirty log", "page split")):
            print(f"  {line}")


def show_move(move: Move) -> None:
    """One migration in full."""
    print(rounds_table(move.report))
    print(downtime_line(move.report))
    print(digest_lines(move.report), flush=True)


def run_moves(pair: Pair) -> list[Move]:
    """The guest's life."""
    heading(f"boot a guest in host1: {MEMORY_MIB} MiB, disk, network, and a load (workload {LOAD})")
    guest = DemoGuest(pair.hosts)
    print(f"  up and reached over the network after {guest.start():.1f} s")
    moves = []
    for mode in MODES:
        at = guest.guest.at
        heading(f"migrate from host{at + 1} to host{2 - at}, {NAMES[mode]}")
        moves.append(guest.move(mode))
        show_move(moves[-1])
    heading("the guest at the end")
    verdict = guest.finish()
    print(f"  its own check of memory and clock: {verdict}; shut down by its power key")
    if not verdict.endswith("ok"):
        raise LabError("the guest found its memory or clock wrong")
    return moves


def check(moves: list[Move]) -> None:
    """Raises LabError where a digest differs or a reply was lost."""
    for move in moves:
        verify = move.report["verify"]
        if verify["source"] != verify["destination"]:
            raise LabError(f"{move.way} ({move.mode}): the digests of guest memory differ")
        if move.lost:
            raise LabError(f"{move.way} ({move.mode}): {move.lost} TCP replies were lost")


def demo() -> None:
    """All of ./demo."""
    begun = time.monotonic()
    packages.ensure("build", "lab")
    build = prepare()
    image = guest_image("tiny", build)
    prepared = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="demo-", dir=cache_root()) as folder:
        with start_hosts(build, image, make_disk(Path(folder))) as pair:
            heading("what either host offers")
            show_host(pair[0])
            moves = run_moves(pair)
    heading(f"side by side (host and guest kernel {kernel('lab').release})")
    print(comparison(moves))
    check(moves)
    print("\nThe hosts run under QEMU's software emulation: compare the columns, times say nothing of "
          "hardware.")
    print(f"Preparing took {elapsed_text(prepared - begun)}, all of ./demo "
          f"{elapsed_text(time.monotonic() - begun)}.")


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
