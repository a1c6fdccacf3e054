"""The arm64 programs that go into the images: ours from the cross build, busybox from Debian."""

import os
import subprocess
import tempfile
from pathlib import Path

from lab.artifacts import debian_packages
from lab.errors import LabError

REPOSITORY = Path(__file__).resolve().parent.parent.parent
OURS = {"workload": "guest-images/workload/workload", "guest_init": "guest-images/init/guest_init",
        "recorder": "guest-images/recorder/recorder"}

# Links made for busybox; each must be an applet that Debian's busybox-static has.
APPLETS = """
[ ash awk basename cat chmod chown chroot clear cmp cp cut date dd df dirname dmesg du echo egrep
env expr false find free fsync getty grep gunzip gzip halt head hexdump hostname httpd id ifconfig
insmod ip kill killall less ln ls lsmod md5sum mkdir mkfifo mknod mktemp modprobe more mount mv nc nproc od
ping poweroff printf ps pwd reboot reset rm rmdir rmmod route sed seq setsid sh sha256sum sleep sort
stat stty sync sysctl tail tar tee test time timeout top touch tr true tty udhcpc umount uname uniq
uptime usleep vi watch wc wget which xargs yes zcat
""".split()


def build_folder(chosen: Path | None) -> Path:
    """Folder of the arm64 build: `chosen`, or VMM_BUILD_ARM64, taken as it is; else build/arm64 of
    the repository, brought up to date first."""
    named = chosen or (Path(value) if (value := os.environ.get("VMM_BUILD_ARM64")) else None)
    if named is not None:
        return named
    folder = REPOSITORY / "build" / "arm64"
    if not (folder / "CMakeCache.txt").exists():
        raise LabError(f"no arm64 build in {folder}: run ./demo, or configure the arm64 preset")
    command = ["cmake", "--build", str(folder), "--target", *OURS]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        output = (result.stdout + result.stderr)[-3000:]
        raise LabError(f"{' '.join(command)} failed:\n{output}")
    return folder


def our_programs(folder: Path) -> dict[str, bytes]:
    """Our programs by name, without their symbols. Raises LabError if one has not been built."""
    programs = {}
    with tempfile.TemporaryDirectory(prefix="vmm-strip-") as scratch:
        for name, place in OURS.items():
            source = folder / place
            if not source.is_file():
                raise LabError(f"{source} is missing: build the arm64 preset first")
            stripped = Path(scratch) / name
            subprocess.run(["aarch64-linux-gnu-strip", "-o", stripped, source], check=True)
            programs[name] = stripped.read_bytes()
    return programs


def busybox() -> bytes:
    """Debian's static busybox for arm64. Raises LabError if it lacks an applet of the list."""
    program = (debian_packages(["busybox-static"]) / "bin/busybox").read_bytes()
    missing = [name for name in APPLETS if b"\0" + name.encode() + b"\0" not in program]
    if missing:
        raise LabError(f"Debian's busybox-static has no {' '.join(missing)}")
    return program
