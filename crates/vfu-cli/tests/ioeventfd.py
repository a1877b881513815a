"""Rings the doorbells of `vfu serve bartest` without any of our code: sockets, struct and mmap.

Usage: ioeventfd.py SOCKET. Exit status 0 if the device counted what it should.
"""
import array
import mmap
import os
import socket
import struct
import sys
import time

VERSION, REGION_INFO, IO_FDS, READ, WRITE = 1, 5, 6, 9, 10
EVENT, EVENTS, WAKE, SEEN, LAST = 0x20, 0x28, 0x30, 0x38, 0x40
PAGE, ASLEEP = 0x1_0000, 0x1_0800


class Peer:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(path)
        self.id = 0

    def receive(self, count, fds):
        data = b""
        while len(data) < count:
            size = array.array("i").itemsize
            piece, control, _, _ = self.socket.recvmsg(
                count - len(data), socket.CMSG_SPACE(16 * size)
            )
            assert piece, "the server has gone"
            for level, kind, content in control:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.extend(array.array("i", content[: len(content) // size * size]))
            data += piece
        return data

    def call(self, command, payload):
        self.id += 1
        header = struct.pack("<HHIII", self.id, command, 16 + len(payload), 0, 0)
        self.socket.sendall(header + payload)
        fds = []
        ident, answered, size, flags, error = struct.unpack("<HHIII", self.receive(16, fds))
        assert (ident, answered) == (self.id, command), (ident, answered)
        reply = self.receive(size - 16, fds)
        assert flags & 0xF == 1 and not flags & 0x20, f"command {command}: error {error}"
        return reply, fds

    def read64(self, offset):
        reply, _ = self.call(READ, struct.pack("<QII", offset, 0, 8))
        return struct.unpack("<Q", reply[16:])[0]

    def write32(self, offset, value):
        self.call(WRITE, struct.pack("<QIII", offset, 0, 4, value))


def wait_for(peer, register, value):
    end = time.monotonic() + 20
    while (now := peer.read64(register)) != value:
        assert time.monotonic() < end, f"register {register:#x}: {now} and not {value}"


peer = Peer(sys.argv[1])
peer.call(VERSION, struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_msg_fds":8}}\0')

# Too little room: the need, and no descriptor.
reply, fds = peer.call(IO_FDS, struct.pack("<IIII", 16, 0, 0, 0))
assert (reply, fds) == (struct.pack("<IIII", 16 + 2 * 40, 0, 0, 2), []), (reply, fds)
reply, fds = peer.call(IO_FDS, struct.pack("<IIII", 16 + 2 * 40, 0, 0, 0))
argsz, flags, index, count = struct.unpack_from("<IIII", reply)
assert (argsz, flags, index, count, len(fds)) == (96, 0, 0, 2, 2), (reply, fds)
bells = {}
for n in range(count):
    offset, size, fd_index, kind, flags, _, _ = struct.unpack_from("<QQIIIIQ", reply, 16 + 40 * n)
    assert (size, kind, flags) == (4, 0, 0), (size, kind, flags)
    bells[offset] = fds[fd_index]
assert set(bells) == {EVENT, WAKE}, bells

# By eventfd, by eventfd three at once, by message: one counter.
os.write(bells[EVENT], struct.pack("=Q", 1))
wait_for(peer, EVENTS, 1)
os.write(bells[EVENT], struct.pack("=Q", 3))
peer.write32(EVENT, 1)
wait_for(peer, EVENTS, 5)

# The doorbell page, mapped; the wake-up goes by eventfd.
reply, fds = peer.call(REGION_INFO, struct.pack("<IIIIQQ", 4096, 0, 0, 0, 0, 0))
_, flags, _, cap, size, offset = struct.unpack_from("<IIIIQQ", reply)
assert (flags, size, len(fds)) == (0b1111, 8 << 30, 1), (flags, size, fds)
kind, _, _, areas = struct.unpack_from("<HHII", reply, cap)
assert (kind, areas) == (1, 2), (kind, areas)
at, length = struct.unpack_from("<QQ", reply, cap + 16)
assert at == PAGE, at
page = mmap.mmap(fds[0], length, offset=offset + at)
words = memoryview(page).cast("I")
for n in range(1, 50):
    words[n % 16] = n
    # Between the store and the load a fence would be due, which Python has not: the device looks
    # by itself after 10 ms at the latest.
    if words[(ASLEEP - PAGE) // 4]:
        os.write(bells[WAKE], struct.pack("=Q", 1))
    wait_for(peer, SEEN, n)
    assert peer.read64(LAST) == (n % 16) << 32 | n
print("every ring was counted")
