#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets: what a driver, or a peer, does that means well.

The encodings are those of tests/fuzz/*.cc: integers are little-endian, and a byte that selects
something counts modulo the number of choices. Run it after changing a target's encoding.
"""

import struct
from pathlib import Path

from migration_seeds import (
    decision_record, destination, machine_state, manifest, messages, preamble, ram_receiver, snapshot, source,
)

CORPUS = Path(__file__).parent / "corpus"

# Steps of device_fuzzer.cc.
REGISTER, ACCESS, START, ADD, BUFFER, ANYWHERE, KICK, TURN, TIME, ACK, MOVE, EVENT, RESET = (
    0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13)
ALL_FEATURES = 2**64 - 1
EVENT_INDEX = 1 << 29
NO_EVENT_INDEX = ALL_FEATURES & ~EVENT_INDEX
WRITABLE, LONG = 1, 4  # of a segment
INDIRECT, KICKS = 8, 16  # of a request
STATUS, QUEUE_SELECT, QUEUE_SIZE, QUEUE_READY = 0, 1, 2, 3  # registers


def start(features: int = ALL_FEATURES, size_log2: int = 4, left_out: int = 0) -> bytes:
    """A driver's way to DRIVER_OK."""
    return struct.pack("<BQBB", START, features, size_log2, left_out)


def segment(at: int, size: int, writable: bool = False) -> bytes:
    """A part of a request, `at` bytes into the buffers."""
    kind = (WRITABLE if writable else 0) | (LONG if size > 255 else 0)
    return struct.pack("<BHH" if size > 255 else "<BHB", kind, at, size)


def request(queue: int, *segments: bytes, indirect: bool = False, kick: bool = True) -> bytes:
    """A request of these parts."""
    shape = len(segments) - 1 | (INDIRECT if indirect else 0) | (KICKS if kick else 0)
    return bytes([ADD, queue, shape]) + b"".join(segments)


def buffer(at: int, data: bytes) -> bytes:
    """Bytes that the driver writes to a buffer."""
    return struct.pack("<BHB", BUFFER, at, len(data)) + data


def register(which: int, value: int) -> bytes:
    """A write of a small value to a register."""
    return bytes([REGISTER, which, 1, value])


def config_write(offset: int, value: int) -> bytes:
    """A 32-bit write to the device's configuration space."""
    return struct.pack("<BBBHI", ACCESS, 2, 1, 0x100 + offset, value)


def config_read(offset: int, size_log2: int = 2) -> bytes:
    """A read of the device's configuration space."""
    return struct.pack("<BBBH", ACCESS, size_log2, 0, 0x100 + offset)


def wait(milliseconds: int) -> bytes:
    """Time that passes."""
    return struct.pack("<BH", TIME, milliseconds)


def event(*data: int) -> bytes:
    """Something that the device's surroundings do."""
    return bytes([EVENT, *data])


TURN_LOOP = bytes([TURN])
MOVE_ON = bytes([MOVE, 0])  # to another device
STOP_AND_GO = bytes([MOVE, 3])
ACKNOWLEDGE = bytes([ACK, 3])


def transport() -> dict[str, bytes]:
    """Requests of all shapes, the machine's doings, and a driver that comes back."""
    requests = request(0, segment(0, 16), segment(0x100, 512, True)) + request(
        1, segment(0, 300, True), indirect=True)
    config = config_write(0, 0x1234) + config_read(0, 3)
    slow = b"".join(register(STATUS, value) for value in (1, 3))
    half = bytes([REGISTER, 10, 1, 1, REGISTER, 11, 1, 1])  # VIRTIO_F_VERSION_1
    queue = b"".join(register(which, value) for which, value in (
        (QUEUE_SELECT, 1), (QUEUE_SIZE, 8), (QUEUE_READY, 1)))
    return {
        "requests": start(NO_EVENT_INDEX) + requests + TURN_LOOP + ACKNOWLEDGE + config,
        "event_index": start() + requests * 4 + TURN_LOOP + requests,
        "moves": start() + requests + MOVE_ON + requests + STOP_AND_GO + TURN_LOOP + MOVE_ON,
        "moves_tampered": start() + requests + bytes([MOVE, 1, 67, 9, MOVE, 2, 4, 0x4f, 28, 3]),
        "resets": start() + requests + bytes([RESET]) + start(0, 0, 1) + requests + TURN_LOOP,
        "needs_reset": start() + event(0) + requests + TURN_LOOP + MOVE_ON + start() + requests,
        "by_hand": slow + half + register(STATUS, 11) + queue + register(STATUS, 15) + event(1, 1),
        "config_changes": start() + event(2) + MOVE_ON + ACKNOWLEDGE + config,
    }


def blk() -> dict[str, bytes]:
    """Each kind of request, errors and slow calls. The first byte is 0 for a read-only disk."""
    def one(kind: int, sector: int, *data: bytes, at: int = 0, **shape: bool) -> bytes:
        return buffer(at, struct.pack("<IIQ", kind, 0, sector)) + request(
            0, segment(at, 16), *data, segment(at + 0x40, 1, True), **shape)
    read = one(0, 8, segment(0x1000, 4096, True))
    write = one(1, 16, segment(0x2000, 1024), segment(0x2800, 512), at=0x80, indirect=True)
    flush = one(4, 0, at=0x100)
    serial = one(8, 0, segment(0x3000, 20, True), at=0x180)
    span = struct.pack("<QII", 32, 16, 0)
    discard = buffer(0x220, span) + one(11, 0, segment(0x220, 16), at=0x200)
    zeroes = buffer(0x2a0, span[:12] + b"\1\0\0\0") + one(13, 0, segment(0x2a0, 16), at=0x280)
    beyond = one(0, 1 << 40, segment(0x1000, 512, True), at=0x300)
    everything = read + write + flush + serial + discard + zeroes + beyond
    holds, end, fails, short = event(1), event(4, 0), event(0, 1), event(2)
    return {
        "everything": b"\1" + start() + everything + TURN_LOOP,
        "without_flush": b"\1" + start(0) + everything + TURN_LOOP,
        "read_only": b"\0" + start() + everything + TURN_LOOP,
        "slow": b"\1" + start() + holds + everything + TURN_LOOP + (end + TURN_LOOP) * 8,
        "moves_under_way": b"\1" + start() + holds + everything + MOVE_ON + read + TURN_LOOP,
        "reset_under_way": b"\1" + start() + holds + read + write + TURN_LOOP + bytes([RESET])
                           + start() + read + end + TURN_LOOP,
        "errors": b"\1" + start() + fails + read + TURN_LOOP + fails + write + short + write
                  + TURN_LOOP,
        "starved": b"\1" + start(size_log2=3) + holds + flush * 3 + TURN_LOOP + holds + TURN_LOOP,
    }


def net() -> dict[str, bytes]:
    """Frames both ways, the control queue, announcements, a port that goes away."""
    receive, send, control = 0, 1, 2
    header = bytes(12)
    frame = header + bytes([0xff] * 6 + [2, 0, 0, 0, 0, 1, 8, 0]) + bytes(64)
    buffers = b"".join(request(receive, segment(0x1000 * i, 2048, True)) for i in range(4))
    small = b"".join(request(receive, segment(0x100 * i, 128, True), kick=False) for i in range(12))
    arrives = event(3, len(frame)) + frame + struct.pack("<BH", 0, 200)
    large = event(3, len(frame)) + frame + struct.pack("<BH", 1, 64)
    sends = buffer(0x8000, frame) + request(send, segment(0x8000, 12), segment(0x800c, 78))
    drain = event(0)
    command = buffer(0x9000, b"\5\0" + struct.pack("<Q", 3)) + request(
        control, segment(0x9000, 10), segment(0x9010, 1, True))
    acknowledge = buffer(0x9000, b"\3\0") + request(
        control, segment(0x9000, 2), segment(0x9010, 1, True))
    return {
        "both_ways": start() + buffers + arrives + TURN_LOOP + sends + TURN_LOOP + drain,
        "merged": start() + small + arrives + large + TURN_LOOP + small + TURN_LOOP,
        "not_merged": start(ALL_FEATURES & ~(1 << 15)) + buffers + arrives + large + TURN_LOOP,
        "offloads": start() + command + TURN_LOOP,
        "announces": start() + event(1) + config_read(6) + acknowledge + TURN_LOOP,
        "moves": start() + buffers + arrives + MOVE_ON + arrives + TURN_LOOP + MOVE_ON + sends,
        "too_few_buffers": start() + large + small + TURN_LOOP + MOVE_ON + buffers + TURN_LOOP,
        "port_lost": start() + buffers + event(2, 0) + TURN_LOOP + sends + MOVE_ON + TURN_LOOP,
    }


def rng() -> dict[str, bytes]:
    """Requests, and more of them than the allowance lets through."""
    one = request(0, segment(0, 64, True))
    large = request(0, segment(0, 16384, True), segment(0x4000, 16384, True))
    return {
        "requests": start() + one * 6 + TURN_LOOP,
        "allowance": start() + large + one + TURN_LOOP + wait(300) + one + TURN_LOOP,
        "moves": start() + large + one + MOVE_ON + wait(300) + TURN_LOOP,
        "readable": start() + request(0, segment(0, 16)) + TURN_LOOP,
    }


def console() -> dict[str, bytes]:
    """Output, input with and without buffers, and a size."""
    receive, send = 0, 1
    buffers = b"".join(request(receive, segment(0x1000 * i, 64, True)) for i in range(6))
    output = buffer(0x8000, b"hello\n") + request(send, segment(0x8000, 6))
    typed = event(1, 3) + b"ls\n" + struct.pack("<H", 3)
    much = event(1, 3) + b"abc" + struct.pack("<H", 500)
    size = event(0) + struct.pack("<HH", 80, 25)
    return {
        "output": start() + output * 3 + TURN_LOOP,
        "input": start() + buffers + TURN_LOOP + typed + much + buffers + TURN_LOOP,
        "before_start": typed + size + start() + typed + TURN_LOOP,
        "size": start() + size + config_read(0) + MOVE_ON + size,
        "moves": start() + buffers + much + MOVE_ON + output + typed + TURN_LOOP,
    }


def balloon() -> dict[str, bytes]:
    """Inflating, deflating, statistics and reports; RAM starts at page 0x40000."""
    inflate, deflate, statistics, reporting = 0, 1, 2, 3
    pages = struct.pack("<4I", 0x40018, 0x40019, 0x4001b, 0x40018)
    target = event(0) + struct.pack("<I", 0x4000)
    tell = buffer(0, pages)
    stats = buffer(0x100, struct.pack("<HQHQ", 0, 7, 4, 1 << 20))
    inflates = tell + request(inflate, segment(0, 16))
    told = stats + request(statistics, segment(0x100, 20))
    asks = event(1)
    return {
        "inflate": start() + target + config_read(0) + inflates + TURN_LOOP + config_write(4, 4),
        "deflate": start() + inflates + TURN_LOOP + request(deflate, segment(0, 16)) + TURN_LOOP,
        "statistics": start() + told + TURN_LOOP + asks + told + event(2, 1) + wait(2500),
        "reporting": start() + request(
            reporting, segment(0x8000, 8192, True), segment(0xb000, 4096, True)) + TURN_LOOP,
        "moves": start() + target + inflates + told + MOVE_ON + asks + TURN_LOOP,
        "not_in_ram": start() + buffer(0, bytes(4)) + request(inflate, segment(0, 4)) + TURN_LOOP,
    }


def queue() -> dict[str, bytes]:
    """Taking, putting back, giving back, in and out of order."""
    table, available, used, data, indirect = 0, 0x400, 0x800, 0x1000, 0x2000
    write, offer, take, undo, push, publish, disable, enable = 0, 2, 3, 4, 5, 6, 7, 8

    def setup(size_log2: int, event_index: int, index: int) -> bytes:
        return struct.pack("<BHHHBH", size_log2, table, available, used, event_index, index)

    def poke(at: int, content: bytes) -> bytes:
        return struct.pack("<BHB", write, at, len(content)) + content

    def descriptor(at: int, address: int, size: int, flags: int, following: int = 0) -> bytes:
        return poke(at, struct.pack("<QIHH", 0x40000000 + address, size, flags, following))

    chain = (descriptor(table, data, 64, 1, 1) + descriptor(table + 16, data + 64, 64, 3, 2)
             + descriptor(table + 32, data + 128, 128, 2))
    tables = descriptor(table, indirect, 32, 4) + descriptor(indirect, data, 16, 1, 1) + descriptor(
        indirect + 16, data + 16, 16, 2)
    give = bytes([push, 0]) + struct.pack("<I", 64)
    turn = bytes([offer, 1, take]) + give + bytes([publish, enable])
    return {
        "chain": setup(3, 0, 0) + chain + turn * 3,
        "indirect": setup(2, 1, 0xfffe) + tables + turn * 6,
        "undo": setup(3, 1, 0) + chain + bytes([offer, 3, disable, take, take, undo, take]) + give
                + bytes([publish, enable, take]),
        "too_many": setup(1, 0, 0) + chain + bytes([offer, 2, take, take, offer, 1, take]) + give
                    + bytes([take, publish, take]),
        "overlapping": struct.pack("<BHHHBH", 3, 0, 0, 0, 1, 0) + poke(2, b"\1\0") + turn * 3,
    }


def transport_state() -> dict[str, bytes]:
    """A state in full, and requests afterwards."""
    def state(status: int, features: int, done: int, ready: bool = True) -> bytes:
        rings = b"".join(
            struct.pack("<HBQQQHHH", 16, ready, base, base + 0x400, base + 0x800, done, done, done)
            for base in (0x40000000, 0x40001000))
        device = struct.pack("<IQ", 1, 0x1122334455667788)
        saved = (struct.pack("<IIQIIIIII", 1, status, features, 0, 1, 0, 1 if done else 0, 5, 2)
                 + rings + struct.pack("<I", len(device)) + device)
        return bytes([len(saved)]) + saved
    version_1 = 1 << 32
    requests = request(0, segment(0, 16), segment(0x100, 512, True)) + TURN_LOOP
    return {
        "running": state(0xf, version_1, 0) + requests,
        "far": state(0xf, version_1 | EVENT_INDEX, 0x8000) + requests + MOVE_ON,
        "negotiated": state(0xb, version_1, 0) + register(STATUS, 15) + TURN_LOOP,
        "fresh": state(0, 0, 0, False) + start() + requests,
        "needs_reset": state(0x4f, version_1, 7) + requests + start() + requests,
    }


def registers(*accesses: tuple[int, int]) -> bytes:
    """Writes (offset, value), each followed by a read, of register_fuzzer.h."""
    return b"".join(
        struct.pack("<BBBHI", 0, 2 | 4 | 8, 0, offset, value)
        + struct.pack("<BBBH", 0, 2 | 4, 0, offset)
        for offset, value in accesses)


def pl011() -> dict[str, bytes]:
    """Output, input, and a move."""
    on = registers((0x24, 13), (0x28, 6), (0x2c, 0x70), (0x30, 0x301), (0x38, 0x50))
    typed = bytes([3, 5]) + b"hello"
    reads = bytes([0, 2, 0]) * 6
    return {
        "io": on + registers((0, 0x41)) + typed + reads,
        "moves": on + typed + bytes([4, 0]) + reads,
        "tampered": on + typed + bytes([4, 2, 8, 1, 16, 255]) + reads,
        "resets": on + typed + bytes([5, 0]) + reads,
    }


def pl031() -> dict[str, bytes]:
    """Time that is set, an alarm, and a move."""
    alarm = registers((0x10, 1), (0x04, 1_700_000_005))
    return {
        "alarm": alarm + bytes([3, 0, 6, 3, 2]) + registers((0x1c, 1)),
        "set": registers((0x08, 1000)) + alarm + bytes([4, 0, 3, 0, 200]),
        "clock_goes_back": alarm + bytes([3, 1]) + struct.pack("<I", 5) + registers((0x14, 0)),
        "tampered": alarm + bytes([4, 2, 16, 255, 23, 255, 3, 2]),
    }


def pl061() -> dict[str, bytes]:
    """Edges and levels of an input."""
    edge = registers((0x404, 0), (0x408, 8), (0x410, 8))
    key = bytes([3, 0x83, 3, 0x03])
    return {
        "edge": edge + key + registers((0x41c, 8)),
        "level": edge + registers((0x404, 8)) + key + bytes([4, 0]) + key,
        "tampered": edge + bytes([4, 1, 5, 255]) + key,
    }


def guest_config() -> dict[str, bytes]:
    """Files, good and bad."""
    good = """name = "web1"
vcpus = 2
memory = "512M"
backing = "hugetlb"

[boot]
kernel = "Image"
initrd = "initrd.gz"
cmdline = "console=ttyAMA0"

[cpu]
features = ["sve", "pauth", "pmu"]

[console]
file = "console.log"
virtio = true

[rng]
enabled = false

[balloon]
enabled = true
"""
    devices = """memory = "64M"
[boot]
kernel = "/Image"

[[disk]]
id = "root"
path = "root.img"
direct = true
readonly = true
serial = "0001"

[[net]]
id = "lan"
tap = "tap0"
mac = "52:54:00:12:34:56"

[[net]]
id = "dmz"
fd = 3
"""
    return {
        "good": good.encode(),
        "devices": devices.encode(),
        "unknown_key": b'name = "a"\nmemory = "1G"\ncolour = 3\n[boot]\nkernel = "Image"\n',
        "wrong_type": b'name = 7\nvcpus = "two"\nmemory = 1.5\nboot = []\n',
        "not_toml": b'name = "a\n[boot\nkernel == ?\n',
    }


def main() -> None:
    """Write the seeds; others in the corpus stay."""
    for target in (balloon, blk, console, decision_record, destination, guest_config, machine_state,
                   manifest, messages, net, pl011, pl031, pl061, preamble, queue, ram_receiver, rng,
                   snapshot, source, transport, transport_state):
        folder = CORPUS / target.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in target().items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
