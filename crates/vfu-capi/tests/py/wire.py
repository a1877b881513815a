"""A client that says what it is told to."""

import array
import json
import select
import socket
import struct

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO, GET_IO_FDS, GET_IRQ_INFO, SET_IRQS = range(1, 9)
REGION_READ, REGION_WRITE, DMA_READ, DMA_WRITE, RESET = range(9, 14)
FEATURE, MIG_READ, MIG_WRITE = 16, 17, 18
REPLY, NO_REPLY, ERROR = 1, 0x10, 0x20
LONG = 30  # seconds: never

CAPABILITIES = {"max_msg_fds": 8, "max_data_xfer_size": 1 << 20, "migration": {"pgsize": 4096}}


class Message:
    def __init__(self, header, data, fds):
        self.id, self.cmd, self.size, self.flags, self.error = struct.unpack("=HHIII", header)
        self.data, self.fds = data, fds

    @property
    def errno(self):
        return self.error if self.flags & ERROR else 0


class Client:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(path)
        self.sock.settimeout(LONG)
        self.next = 0

    def send(self, cmd, data=b"", flags=0, fds=(), id=None):
        if id is None:
            self.next += 1
            id = self.next
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        message = struct.pack("=HHIII", id, cmd, 16 + len(data), flags, 0) + data
        assert self.sock.sendmsg([message], ancillary) == len(message)
        return id

    def say_version(self, capabilities=CAPABILITIES, major=0, minor=1):
        text = json.dumps({"capabilities": capabilities}).encode() + b"\0"
        self.send(VERSION, struct.pack("=HH", major, minor) + text)

    def answer(self, command, data=b"", error=0):
        flags = REPLY | (ERROR if error else 0)
        self.sock.sendall(struct.pack("=HHIII", command.id, command.cmd, 16 + len(data), flags, error) + data)

    def readable(self):
        return bool(select.select([self.sock], [], [], 0)[0])

    def receive(self):
        fds = []
        header = self._exactly(16, fds)
        size = struct.unpack_from("=I", header, 4)[0]
        return Message(header, self._exactly(size - 16, fds), fds)

    def _exactly(self, size, fds):
        data = b""
        while len(data) < size:
            piece, ancillary, _, _ = self.sock.recvmsg(size - len(data), socket.CMSG_SPACE(4 * 32))
            if not piece:
                raise EOFError("the device has gone")
            for _, _, numbers in ancillary:
                fds.extend(array.array("i", numbers))
            data += piece
        return data

    def close(self):
        self.sock.close()
