"""A device whose callbacks write down what they saw, and the client that drives it."""

import ctypes as c
import errno
import os
import struct
import tempfile
import threading
import unittest

import wire
from interface import *  # noqa: F403
from wire import Client


class Case(unittest.TestCase):
    """Each test has a device, made by setUp() as the class attributes say."""

    pci_type = PCI_CONVENTIONAL
    migratable = False
    attach = True
    capabilities = wire.CAPABILITIES

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="vfu-py-")
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, "s")
        self.accesses, self.resets, self.quiesces, self.maps, self.unmaps, self.states = [], [], 0, [], [], []
        self.transitions, self.memory, self.written = [], bytearray(4096), b""
        self.fail_access = self.fail_quiesce = self.fail_transition = self.fail_data = 0
        self.result = 0  # of reset and quiesce, if they do not fail
        self.saved = b""
        self.on_map = self.on_unmap = self.on_reset = lambda: None
        self.client = None
        self.ctx = lib.vfu_create_ctx(0, self.path.encode(), ATTACH_NB, None, 0)
        self.assertIsNotNone(self.ctx)
        self.addCleanup(self.destroy)
        self.setup_device()
        if self.attach:
            self.connect()

    def setup_device(self):
        self.keep = [
            Access(self.access), Reset(self.reset), Quiesce(self.quiesce), Dma(self.dma_map), Dma(self.dma_unmap),
            IrqState(lambda ctx, start, count, mask: self.states.append((start, count, mask))),
            Log(lambda ctx, level, text: text.decode()),
        ]
        access, reset, quiesce, dma_map, dma_unmap, irq_state, log = self.keep
        self.ok(lib.vfu_setup_log(self.ctx, log, 7))
        self.ok(lib.vfu_pci_init(self.ctx, self.pci_type, 0, 0))
        lib.vfu_pci_set_id(self.ctx, 0x1111, 0x2222, 0x3333, 0x4444)
        self.ok(lib.vfu_setup_region(self.ctx, BAR0, 4096, access, RW | MEM, None, 0, -1, 0))
        self.ok(lib.vfu_setup_device_reset_cb(self.ctx, reset))
        lib.vfu_setup_device_quiesce_cb(self.ctx, quiesce)
        self.ok(lib.vfu_setup_device_dma(self.ctx, 16, dma_map, dma_unmap))
        self.ok(lib.vfu_setup_device_nr_irqs(self.ctx, INTX, 1))
        self.ok(lib.vfu_setup_device_nr_irqs(self.ctx, MSIX, 8))
        self.ok(lib.vfu_setup_irq_state_callback(self.ctx, MSIX, irq_state))
        if self.migratable:
            self.set_migratable()

    def set_migratable(self):
        self.keep += [Transition(self.transition), MigData(self.read_data), MigData(self.write_data)]
        self.migration = Migration(2, *self.keep[-3:])
        self.ok(lib.vfu_setup_device_migration_callbacks(self.ctx, self.migration))

    def connect(self):
        self.ok(lib.vfu_realize_ctx(self.ctx))
        self.client = Client(self.path)
        self.client.say_version(self.capabilities)
        while lib.vfu_attach_ctx(self.ctx) != 0:
            self.assertEqual(last_errno(), "EAGAIN")
        self.version = self.client.receive()
        self.assertEqual(self.version.errno, 0)

    def destroy(self):
        if self.client:
            self.client.close()
        if self.ctx:
            lib.vfu_destroy_ctx(self.ctx)
        self.ctx = None

    # ---- callbacks ----

    def access(self, ctx, buf, count, offset, is_write):
        self.accesses.append((offset, count, is_write))
        if self.fail_access:
            c.set_errno(self.fail_access)
            return -1
        if is_write:
            self.memory[offset : offset + count] = buf[:count]
        else:
            c.memmove(buf, bytes(self.memory[offset : offset + count]), count)
        return count

    def reset(self, ctx, kind):
        self.resets.append(kind)
        self.on_reset()
        return self.result

    def quiesce(self, ctx):
        self.quiesces += 1
        if self.fail_quiesce:
            c.set_errno(self.fail_quiesce)
            return -1
        return self.result

    def dma_map(self, ctx, info):
        self.maps.append(DmaInfo.from_buffer_copy(info.contents))
        self.on_map()

    def dma_unmap(self, ctx, info):
        self.unmaps.append(DmaInfo.from_buffer_copy(info.contents))
        self.on_unmap()

    def transition(self, ctx, state):
        if self.fail_transition:
            c.set_errno(self.fail_transition)
            return -1
        self.transitions.append(state)
        return 0

    def read_data(self, ctx, buf, count):
        if self.fail_data:
            c.set_errno(self.fail_data)
            return -1
        piece, self.saved = self.saved[:count], self.saved[count:]
        c.memmove(buf, piece, len(piece))
        return len(piece)

    def write_data(self, ctx, buf, count):
        if self.fail_data:
            c.set_errno(self.fail_data)
            return -1
        self.written += c.string_at(buf, count)
        return count

    # ---- checks ----

    def ok(self, result):
        self.assertEqual(result, 0, last_errno())

    def fails(self, name, function, *args):
        """The function gives -1 with this errno."""
        c.set_errno(0)
        self.assertEqual((function(*args), last_errno()), (-1, name))

    # ---- what the client does ----

    def call(self, cmd, data=b"", fds=()):
        """The reply to a command; the device runs meanwhile."""
        id = self.client.send(cmd, data, fds=fds)
        while not self.client.readable():
            self.assertGreaterEqual(lib.vfu_run_ctx(self.ctx), 0, last_errno())
        reply = self.client.receive()
        self.assertEqual((reply.id, reply.cmd, reply.flags & 0xF), (id, cmd, 1))
        return reply

    def error(self, cmd, data=b"", fds=()):
        """The name of the errno of the reply; "" if there is none."""
        reply = self.call(cmd, data, fds)
        return errno.errorcode.get(reply.errno, reply.errno) if reply.errno else ""

    def read(self, region, offset, count):
        reply = self.call(wire.REGION_READ, struct.pack("=QII", offset, region, count))
        self.assertEqual(reply.errno, 0)
        return reply.data[16:]

    def write_error(self, region, offset, data):
        return self.error(wire.REGION_WRITE, struct.pack("=QII", offset, region, len(data)) + data)

    def config(self, offset, count=4):
        return int.from_bytes(self.read(CFG, offset, count), "little")

    def set_config(self, offset, value, count=4):
        return self.write_error(CFG, offset, value.to_bytes(count, "little"))

    def map(self, address, size, fd=None, offset=0, flags=3):
        data = struct.pack("=IIQQQ", 32, flags, offset, address, size)
        return self.error(wire.DMA_MAP, data, [fd] if fd is not None else [])

    def unmap(self, address, size):
        return self.error(wire.DMA_UNMAP, struct.pack("=IIQQ", 24, 0, address, size))

    def set_irqs(self, index, flags, start, count, fds=(), data=b"", argsz=20):
        return self.error(wire.SET_IRQS, struct.pack("=IIIII", argsz, flags, index, start, count) + data, fds)

    def feature(self, flags, data=b"", argsz=4096):
        return self.call(wire.FEATURE, struct.pack("=II", argsz, flags) + data)

    def memfd(self, size):
        fd = os.memfd_create("ram")
        self.addCleanup(os.close, fd)
        os.ftruncate(fd, size)
        return fd

    def look_up(self, address, length, prot=PROT_READ, room=1):
        """Entries, and what vfu_addr_to_sgl() said."""
        entries = (Sg * room)()
        c.set_errno(0)
        return entries, lib.vfu_addr_to_sgl(self.ctx, address, length, entries, room, prot)

    def client_serves(self, serve):
        """Lets the client do something on a thread of its own while the device waits."""
        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)
        return thread
