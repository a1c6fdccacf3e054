"""A minimal client of QEMU's machine protocol."""

import json
import re
import socket
from pathlib import Path

from lab.errors import LabError


class Qmp:
    """One connection to a QEMU monitor socket; QEMU serves one client at a time."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rw", encoding="utf-8")
        self._stream.readline()
        self.command("qmp_capabilities")

    def command(self, name: str, /, **arguments: object) -> object:
        """Run a command and return its result. Raises LabError with QEMU's reason if it fails."""
        request = {"execute": name, "arguments": arguments}
        self._stream.write(json.dumps(request) + "\n")
        self._stream.flush()
        while line := self._stream.readline():
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"QEMU refused {name}: {answer['error']['desc']}")
        raise LabError(f"QEMU closed its monitor during {name}")

    def forwarded_port(self) -> int:
        """The TCP port of this machine that leads to the host's SSH server."""
        text = str(self.command("human-monitor-command", **{"command-line": "info usernet"}))
        match = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", text)
        if not match:
            raise LabError("QEMU did not forward a port to the host")
        return int(match.group(1))

    def close(self) -> None:
        """End the connection."""
        self._stream.close()
        self._socket.close()

    def __enter__(self) -> "Qmp":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
