"""The seeds of migration and snapshots, for make_seeds.py: what a peer says that means well."""

import struct
import zlib

MIGRATION_ID = bytes.fromhex("00112233445566778899aabbccddeeff")
NO_SECRET = bytes(16)
(MANIFEST, ACCEPT, REFUSE, ROUND_END, ROUND_ACK, REHEARSE, REHEARSED, STATE, VERIFY, DIGEST,
 PREPARED, COMMIT, STARTED, DISCARDED, DONE, CANCEL, HEARTBEAT, OUTCOME, ASK_TIME, TIME
 ) = range(1, 21)
PAGES, ZERO, HOLE, DATA_END = 1, 2, 3, 4
HELLO = b"VMMMIGR1" + struct.pack("<I", 1)
YES = HELLO + b"\0" + bytes(4)


def blob(data: bytes) -> bytes:
    """A length and the bytes, as a manifest has them."""
    return struct.pack("<I", len(data)) + data


def text(value: str) -> bytes:
    """A string with its length."""
    return blob(value.encode())


def manifest_bytes() -> bytes:
    """A guest with one of everything; tests/unit/migration_manifest_support.h has the same."""
    disk = text("root") + struct.pack("<Q??", 1 << 30, False, True) + text("root") + text("root.img")
    net = text("lan") + bytes.fromhex("525400123456")
    return (MIGRATION_ID + text("web1") + struct.pack("<IIQ", 1, 2, 512 << 20)
            + bytes([0, 0, 1, 0, 0, 1, 0]) + struct.pack("<I", 1) + disk + struct.pack("<I", 1) + net
            + text("Image") + text("initrd.gz") + text("console=ttyAMA0")
            + struct.pack("<I", 4096) + text("0.1.0") + text("6.12.0") + text("Z" * 40)
            + struct.pack("<HB", 4, 0))


def payloads() -> dict[int, bytes]:
    """One payload of each type of message."""
    return {
        MANIFEST: manifest_bytes(), ACCEPT: bytes(16) + b"\2\0", REFUSE: b"\4" + text("no"),
        ROUND_END: struct.pack("<I", 1), ROUND_ACK: struct.pack("<I", 1), REHEARSE: b"state",
        REHEARSED: struct.pack("<Q", 9), STATE: b"state", VERIFY: b"", DIGEST: bytes(32),
        PREPARED: struct.pack("<Q", 9), COMMIT: struct.pack("<Q", 9),
        STARTED: struct.pack("<QQQ", 1, 2, 3), DISCARDED: text("no disk"), DONE: b"",
        CANCEL: text("enough"), HEARTBEAT: b"", OUTCOME: b"\1", ASK_TIME: b"",
        TIME: struct.pack("<Q", 5),
    }


def preamble() -> dict[str, bytes]:
    """Each kind of connection, and both answers."""
    def hello(kind: int, secret: bytes = NO_SECRET, channel: int = 0) -> bytes:
        return HELLO + bytes([kind, 0]) + MIGRATION_ID + secret + struct.pack("<H", channel)
    return {
        "control": hello(1) + YES,
        "data": hello(2, bytes(range(16)), 15) + YES,
        "query": hello(3) + HELLO + b"\1" + text("it is taken by another migration"),
        "version": HELLO[:8] + struct.pack("<I", 2) + bytes(36) + HELLO[:8] + struct.pack("<I", 2),
    }


def messages() -> dict[str, bytes]:
    """Each message by itself, and all in frames."""
    seeds = {f"type_{kind}": bytes([kind]) + payload for kind, payload in payloads().items()}
    seeds["frames"] = b"\0" + b"".join(
        struct.pack("<II", kind, len(payload)) + payload for kind, payload in payloads().items())
    return seeds


def manifest() -> dict[str, bytes]:
    """One that is for this host, and one whose folders are elsewhere."""
    good = manifest_bytes()
    return {"good": b"\1" + good, "elsewhere": b"\0" + good,
            "folder": b"\1" + good.replace(text("root.img"), text("../a.img"))}


def machine_state() -> dict[str, bytes]:
    """An identity, states of one and two vCPUs, devices."""
    x0, midr = 0x6030_0000_0010_0000, 0x6030_0000_0013_c000
    vcpu = struct.pack("<IIQQ", 1, 1, x0, 7) + struct.pack("<B??Q", 0, False, False, 0)

    def gic(affinities: int) -> bytes:
        cpus = b"".join(struct.pack("<Q", n) + bytes(4 * 17) + struct.pack("<IQ", 0, 4 << 8)
                        + bytes(8 * 8) for n in range(affinities))
        return struct.pack("<III", 1, 0x4b00243b, 0) + bytes(4 * 2) + struct.pack(
            "<I", affinities) + cpus
    counter = struct.pack("<IQQQ", 1, 62_500_000, 1, 2)
    identity = struct.pack("<IIQQQIQQBIQQI", 1, 1, 62_500_000, 4096, 4, 1, midr, 0x410fd0f0, 0, 2,
                           midr, x0, 0x4b00243b)
    twice = struct.pack("<IIQQQIQQQQBII", 1, 1, 62_500_000, 4096, 4, 2, midr, 1, midr, 2, 0, 0, 0)
    pl061_state = struct.pack("<I", 1) + bytes(range(9))
    return {
        "identity": b"\0" + identity,
        "register_twice": b"\0" + twice,
        "one": b"\1" + struct.pack("<II", 1, 1) + vcpu + gic(1) + counter,
        "two": b"\2" + struct.pack("<II", 1, 2) + vcpu * 2 + gic(2) + counter,
        "devices": b"\3" + struct.pack("<I", 2)
                   + (text("pl061") + struct.pack("<I", len(pl061_state)) + pl061_state) * 2,
    }


def ram_receiver() -> dict[str, bytes]:
    """Pages, zeros, holes and the ends of rounds on one channel and on two."""
    def record(channel: int, kind: int, first: int, count: int, value: int = 1) -> bytes:
        return struct.pack("<BHHB", channel | (kind + 1) * 2, first, count, value)

    def end(channel: int, number: int) -> bytes:
        return bytes([channel | 2, number])

    def raw(channel: int, content: bytes) -> bytes:
        return bytes([channel, len(content)]) + content
    round_1 = record(0, PAGES, 0, 4) + record(0, PAGES, 10, 2) + end(0, 1)
    return {
        "one": b"\0" + round_1 + record(0, ZERO, 0, 600) + record(0, HOLE, 10, 1) + end(0, 2),
        "two": b"\1" + record(1, PAGES, 500, 1) + end(1, 1) + round_1 + end(0, 2) + end(1, 2),
        "beyond": b"\0" + record(0, PAGES, 599, 2) + end(0, 1),
        "raw": b"\0" + raw(0, struct.pack("<IIQQ", ZERO, 0, 1, 2**64 - 1)),
    }


def decision_record() -> dict[str, bytes]:
    """Records of both sides."""
    name = MIGRATION_ID.hex()
    return {
        "started": f"\1id={name}\noutcome=started\ntime=1800000000\n".encode(),
        "discarded": f"\1id={name}\noutcome=discarded\ntime=0\n".encode(),
        "source": (f"\0id={name}\nguest=web1\ndestination=host2:4444\noutcome=in-doubt\n"
                   "time=1800000000\n").encode(),
        "damaged": f"\1id={name}\noutcome=st".encode(),
    }


def said(kind: int, payload: bytes | None = None) -> bytes:
    """A step that says a message on a control connection."""
    content = payloads()[kind] if payload is None else payload
    return bytes([1, kind, len(content)]) + content


def destination() -> dict[str, bytes]:
    """A whole migration as its destination hears it, and some that do not end well."""
    def number(value: int) -> bytes:
        return struct.pack("<I", value)

    def record(channel: int, kind: int, first: int, count: int) -> bytes:
        return struct.pack("<BBBBHH", 6, channel, kind, 0, first, count)

    def end(channel: int, value: int) -> bytes:
        return bytes([7, channel, DATA_END, value])
    begin = bytes([3])
    data = record(0, PAGES, 0, 2) + record(1, PAGES, 7, 1) + end(0, 1) + end(1, 1)
    more = record(0, ZERO, 0, 512) + record(1, HOLE, 9, 1) + end(0, 2) + end(1, 2)
    rounds = (said(ROUND_END) + said(ASK_TIME) * 8 + said(REHEARSE) + said(ROUND_END, number(2))
              + said(STATE))
    return {
        "whole": b"\1" + begin + data + more + rounds + said(VERIFY) + said(COMMIT) + said(DONE),
        "cancelled": b"\0" + begin + data + said(ROUND_END) + said(CANCEL),
        "early_commit": b"\0" + begin + data + said(ROUND_END) + said(COMMIT),
        "no_state": b"\0" + begin + data + said(ROUND_END) + said(REHEARSE, b"\xff"),
        "wrong_secret": b"\4" + struct.pack("<BB", 40, 1) + begin + data,
        "wrong_version": b"\2" + struct.pack("<BB", 8, 1) + begin,
        "refused": b"\0" + said(MANIFEST, manifest_bytes()[:200]),
    }


def source() -> dict[str, bytes]:
    """A whole migration as its source hears it, and some that do not end well."""
    def answer(kind: int, value: int) -> bytes:
        return bytes([3, kind + value * 5])
    accept, ack, rehearsed, times, prepared = 0, 1, 2, 3, 4

    def timed(kind: int, ns: int) -> bytes:
        return answer(kind, 0) + struct.pack("<Q", ns)
    begin = answer(accept, 1) + answer(ack, 1) + timed(times, 5) + timed(rehearsed, 9)
    rounds = answer(ack, 2) + timed(prepared, 9)
    outcome = YES + struct.pack("<IIB", OUTCOME, 1, 1)
    discarded = YES + struct.pack("<IIB", OUTCOME, 1, 2)

    def with_query(shape: int, query: bytes) -> bytes:
        return bytes([shape, len(query)]) + query
    return {
        "whole": with_query(0, b"") + begin + rounds + said(STARTED),
        "three_rounds": with_query(4, b"") + begin + answer(ack, 2) + answer(ack, 3)
                        + timed(prepared, 9) + said(STARTED),
        "verify": with_query(1, b"") + begin + rounds + said(DIGEST) + said(STARTED),
        "doubt_started": with_query(0, outcome) + begin + rounds,
        "doubt_discarded": with_query(0, discarded) + begin + rounds,
        "doubt_resolved": with_query(2, YES) + begin + rounds,
        "not_started": with_query(0, b"") + begin + rounds + said(DISCARDED),
        "refused": with_query(0, b"") + said(REFUSE),
        "slow": with_query(0, b"") + answer(accept, 1) + answer(ack, 1) + timed(times, 5)
                + timed(rehearsed, 2**63),
        "late": with_query(0, b"") + answer(accept, 1) + answer(ack, 1) + timed(times, 2**63),
        "control_run": bytes([32]) + struct.pack("<HB", 0x4000, 0) + answer(accept, 0)
                       + answer(ack, 1),
        "no_data": with_query(16, b"") + answer(accept, 1),
    }


def small_manifest(disks: bytes = struct.pack("<I", 0)) -> bytes:
    """A guest with 2 MiB of memory."""
    return (bytes(16) + blob(b"web1") + struct.pack("<IIQ", 1, 1, 2 << 20) + bytes(7) + disks
            + struct.pack("<I", 0) + blob(b"Image") + blob(b"") + blob(b"console=ttyAMA0")
            + struct.pack("<I", 4096) + blob(b"0.1.0") + blob(b"Linux 6.12.0") + blob(b"identity")
            + struct.pack("<HB", 1, 0))


def snapshot_file(pages: dict[int, int], *parts: bytes, checksums: bool = True) -> bytes:
    """A file whose chunk n of eight has the pages of the mask pages[n], and these parts before the
    index."""
    masks = [pages.get(chunk, 0) for chunk in range(8)]
    index = b"".join(struct.pack("<QI", mask, zlib.crc32(bytes([7]) * 4096 * mask.bit_count()))
                     for mask in masks)
    sizes = [len(part) for part in (*parts, index)]
    return (struct.pack("<BQ4Q", checksums, sum(mask.bit_count() for mask in masks), *sizes)
            + b"".join(parts) + index)


def snapshot() -> dict[str, bytes]:
    """Files that are whole, and one with a wrong checksum."""
    disk = (struct.pack("<I", 1) + blob(b"root") + struct.pack("<QBB", 4096, 0, 1) + blob(b"root")
            + blob(b"root.img"))
    stamp = struct.pack("<I", 1) + blob(b"root") + struct.pack("<QBq", 4096, 1, 1700000000000000001)
    none = struct.pack("<I", 0)
    return {
        "empty": snapshot_file({}, small_manifest(), none, b"state"),
        "pages": snapshot_file({0: 0x8000000000000005, 7: 0xff}, small_manifest(), none, b"state"),
        "disk": snapshot_file({3: 1}, small_manifest(disk), stamp, b""),
        "damaged": snapshot_file({3: 1}, small_manifest(), none, b"state", checksums=False),
    }
