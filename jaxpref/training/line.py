"""One end of a connection between two processes of a job."""

import json
import socket
import threading
from collections.abc import Mapping
from typing import Any

__all__ = ["Line"]

_LONGEST = 1 << 22  # bytes of a message


class Line:
    """JSON objects, a line each."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._received = b""
        self._unread: list[dict[str, Any]] = []
        self._sending = threading.Lock()
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: Mapping[str, Any]) -> bool:
        """Whether it went out; where it did not, the other end is gone or does not read."""
        data = json.dumps(message).encode() + b"\n"
        try:
            with self._sending:
                self.socket.sendall(data)
        except OSError:
            return False
        return True

    def receive(self) -> list[dict[str, Any]] | None:
        """What has come, after waiting as long as the socket's timeout; None once the other end is gone.

        Raises:
          ValueError: what comes is no message of ours.
        """
        if self._unread:
            messages, self._unread = self._unread, []
            return messages
        try:
            data = self.socket.recv(1 << 16)
        except (TimeoutError, BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        if len(self._received) > _LONGEST:
            raise ValueError("a message without an end")
        try:
            messages = [json.loads(line) for line in lines]
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("not an object")
        return messages

    def unread(self, messages: list[dict[str, Any]]) -> None:
        """Gives back what somebody else will receive."""
        self._unread = messages + self._unread

    def close(self) -> None:
        self.socket.close()
