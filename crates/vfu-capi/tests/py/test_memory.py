"""The client's memory, through ctypes: look-ups, pointers, messages, dirty pages."""

import ctypes
import os
import struct
import unittest

import wire
from base import *  # noqa: F403

AT, SIZE, PAGE = 0x100000, 0x10000, 4096


class Maps(Case):
    def test_entry_is_40_bytes(self):
        self.assertEqual((lib.dma_sg_size(), c.sizeof(Sg)), (40, 40))

    def test_info_of_shared_memory(self):
        self.assertEqual(self.map(AT, SIZE, self.memfd(SIZE)), "")
        info = self.maps[0]
        self.assertEqual((info.iova.base, info.iova.len, info.prot), (AT, SIZE, 3))
        self.assertEqual((info.vaddr, SIZE), (info.mapping.base, info.mapping.len))
        self.assertEqual(info.page_size, PAGE)

    def test_info_of_memory_by_messages(self):
        self.assertEqual(self.map(AT, SIZE), "")
        info = self.maps[0]
        self.assertEqual((info.iova.base, info.iova.len, info.prot, info.page_size), (AT, SIZE, 3, PAGE))
        self.assertIsNone(info.vaddr)
        self.assertEqual((info.mapping.base, info.mapping.len), (None, 0))

    def test_info_of_memory_to_read(self):
        self.assertEqual(self.map(AT, SIZE, self.memfd(SIZE), flags=1), "")
        self.assertEqual(self.maps[0].prot, PROT_READ)

    def test_unmap_gives_the_same_info(self):
        self.assertEqual(self.map(AT, SIZE, self.memfd(SIZE)), "")
        self.assertEqual(self.unmap(AT, SIZE), "")
        told, retold = self.maps[0], self.unmaps[0]
        for field in ("vaddr", "page_size", "prot"):
            self.assertEqual(getattr(retold, field), getattr(told, field))
        self.assertEqual((retold.iova.base, retold.mapping.len), (told.iova.base, told.mapping.len))

    def test_more_than_the_limit(self):
        for i in range(16):
            self.assertEqual(self.map(i * SIZE, SIZE), "")
        self.assertEqual(self.map(16 * SIZE, SIZE), "EINVAL")

    def test_overlap(self):
        self.assertEqual(self.map(AT, SIZE), "")
        self.assertNotEqual(self.map(AT + PAGE, PAGE), "")
        self.assertEqual(len(self.maps), 1)

    def test_unmap_of_a_part(self):
        self.assertEqual(self.map(AT, SIZE), "")
        self.assertEqual(self.unmap(AT, PAGE), "ENOENT")

    def test_unmap_of_all(self):
        for i in range(4):
            self.assertEqual(self.map(i * SIZE, SIZE), "")
        self.assertEqual(self.error(wire.DMA_UNMAP, struct.pack("=IIQQ", 24, 2, 0, 0)), "")
        self.assertEqual(len(self.unmaps), 4)

    def test_unmap_of_all_with_an_address(self):
        self.assertEqual(self.error(wire.DMA_UNMAP, struct.pack("=IIQQ", 24, 2, AT, 0)), "EINVAL")

    def test_unmap_with_unknown_flags(self):
        self.assertEqual(self.error(wire.DMA_UNMAP, struct.pack("=IIQQ", 24, 8, AT, SIZE)), "EINVAL")

    def test_unmap_with_a_bitmap_that_nobody_keeps(self):
        self.assertEqual(self.map(AT, SIZE, self.memfd(SIZE)), "")
        data = struct.pack("=IIQQQQ", 48, 1, AT, SIZE, PAGE, 8)
        self.assertEqual(self.error(wire.DMA_UNMAP, data), "EINVAL")

    def test_unmap_with_a_bitmap_of_no_size(self):
        data = struct.pack("=IIQQQQ", 48, 1, AT, SIZE, PAGE, 2**64 - 8)
        self.assertEqual(self.error(wire.DMA_UNMAP, data), "EINVAL")

    def test_a_failing_quiesce_fails_the_map(self):
        self.fail_quiesce = errno.EREMOTEIO
        self.assertEqual(self.map(AT, SIZE), "EREMOTEIO")
        self.assertEqual(self.maps, [])

    def test_a_callback_that_gives_1_has_quiesced(self):
        self.result = 1
        self.assertEqual(self.map(AT, SIZE), "")
        self.assertEqual(self.quiesces, 1)


class LookUps(Case):
    def test_of_a_part(self):
        self.assertEqual(self.map(AT, SIZE, self.memfd(SIZE)), "")
        entries, count = self.look_up(AT + 100, 50, PROT_WRITE)
        entry = entries[0]
        self.assertEqual((count, entry.dma_addr, entry.offset, entry.length), (1, AT, 100, 50))
        self.assertTrue(entry.writeable)
        self.assertNotEqual(entry.region, 0)

    def test_to_read_is_not_writeable(self):
        self.assertEqual(self.map(AT, SIZE), "")
        self.assertFalse(self.look_up(AT, 8)[0][0].writeable)

    def test_of_nothing(self):
        self.assertEqual(self.look_up(AT, 8)[1], -1)
        self.assertEqual(last_errno(), "ENOENT")

    def test_over_the_end(self):
        self.assertEqual(self.map(AT, SIZE), "")
        self.assertEqual(self.look_up(AT + SIZE - 4, 8)[1], -1)
        self.assertEqual(last_errno(), "ENOENT")

    def test_over_a_gap(self):
        self.assertEqual(self.map(AT, PAGE), "")
        self.assertEqual(self.map(AT + 2 * PAGE, PAGE), "")
        self.assertEqual(self.look_up(AT, 3 * PAGE, room=4)[1], -1)

    def test_over_three(self):
        for i in range(3):
            self.assertEqual(self.map(AT + i * PAGE, PAGE), "")
        entries, count = self.look_up(AT + 10, 3 * PAGE - 20, room=3)
        self.assertEqual((count, [e.length for e in entries]), (3, [PAGE - 10, PAGE, PAGE - 10]))

    def test_over_three_without_room(self):
        for i in range(3):
            self.assertEqual(self.map(AT + i * PAGE, PAGE), "")
        self.assertEqual((self.look_up(AT, 3 * PAGE, room=2)[1], c.get_errno()), (-4, 0))

    def test_to_write_what_may_only_be_read(self):
        self.assertEqual(self.map(AT, SIZE, flags=1), "")
        self.assertEqual(self.look_up(AT, 8, PROT_WRITE)[1], -1)
        self.assertEqual(last_errno(), "EACCES")

    def test_after_an_unmap(self):
        self.assertEqual(self.map(AT, SIZE), "")
        self.assertEqual(self.look_up(AT, 8)[1], 1)
        self.assertEqual(self.unmap(AT, SIZE), "")
        self.assertEqual(self.look_up(AT, 8)[1], -1)


class Pointers(Case):
    def get(self, entries, count=1):
        iovs = (IoVec * count)()
        return iovs, lib.vfu_sgl_get(self.ctx, entries, iovs, count, 0)

    def test_reach_the_client_s_memory(self):
        fd = self.memfd(SIZE)
        os.pwrite(fd, b"from the client", 0x200)
        self.assertEqual(self.map(AT, SIZE, fd), "")
        entries, _ = self.look_up(AT + 0x200, 15, PROT_READ | PROT_WRITE)
        iovs, result = self.get(entries)
        self.ok(result)
        self.assertEqual(ctypes.string_at(iovs[0].base, iovs[0].len), b"from the client")
        ctypes.memmove(iovs[0].base, b"from the device", 15)
        lib.vfu_sgl_put(self.ctx, entries, iovs, 1)
        self.assertEqual(os.pread(fd, 15, 0x200), b"from the device")

    def test_of_memory_by_messages(self):
        self.assertEqual(self.map(AT, SIZE), "")
        entries, _ = self.look_up(AT, 8)
        self.assertFalse(lib.vfu_sg_is_mappable(self.ctx, entries))
        self.assertEqual(self.get(entries)[1], -1)
        self.assertEqual(last_errno(), "EFAULT")

    def test_of_shared_memory_are_possible(self):
        self.assertEqual(self.map(AT, SIZE, self.memfd(SIZE)), "")
        self.assertTrue(lib.vfu_sg_is_mappable(self.ctx, self.look_up(AT, 8)[0]))

    def test_of_an_empty_entry(self):
        self.assertEqual(self.map(AT, SIZE, self.memfd(SIZE)), "")
        self.assertEqual(self.get((Sg * 1)())[1], -1)
        self.assertEqual(last_errno(), "EINVAL")

    def test_of_several(self):
        for i in range(3):
            self.assertEqual(self.map(AT + i * PAGE, PAGE, self.memfd(PAGE)), "")
        entries, count = self.look_up(AT, 3 * PAGE, room=3)
        iovs, result = self.get(entries, count)
        self.ok(result)
        self.assertEqual([iov.len for iov in iovs], [PAGE] * 3)
        lib.vfu_sgl_put(self.ctx, entries, iovs, 3)

    def test_work_in_the_callback_that_tells_of_memory(self):
        def use():
            entries, count = self.look_up(AT, 8)
            seen.append((count, self.get(entries)[1]))

        seen = []
        self.on_map = use
        self.assertEqual(self.map(AT, SIZE, self.memfd(SIZE)), "")
        self.assertEqual(seen, [(1, 0)])


class Messages(Case):
    def setUp(self):
        super().setUp()
        self.ram = bytearray(range(256)) * (SIZE // 256)
        self.asked = []
        self.assertEqual(self.map(AT, SIZE), "")

    def serve(self, count, error=0, data=None):
        """The client answers so many commands of the device."""

        def body():
            for _ in range(count):
                command = self.client.receive()
                address, size = struct.unpack_from("=QQ", command.data)
                self.asked.append((command.cmd, address - AT, size))
                head, at = command.data[:16], address - AT
                if error or data is not None:
                    self.client.answer(command, data or b"", error)
                elif command.cmd == wire.DMA_READ:
                    self.client.answer(command, head + bytes(self.ram[at : at + size]))
                else:
                    self.ram[at : at + size] = command.data[16:]
                    self.client.answer(command, head)

        return self.client_serves(body)

    def transfer(self, function, at, data, prot, flags=0, count=1):
        entries, found = self.look_up(AT + at, len(data), prot)
        self.assertEqual(found, 1)
        return function(self.ctx, entries, count, data, flags)

    def test_read(self):
        thread, data = self.serve(1), ctypes.create_string_buffer(64)
        self.ok(self.transfer(lib.vfu_sgl_read, 0x80, data, PROT_READ))
        thread.join()
        self.assertEqual(data.raw, bytes(range(0x80, 0xC0)))
        self.assertEqual(self.asked, [(wire.DMA_READ, 0x80, 64)])

    def test_write(self):
        thread, data = self.serve(1), ctypes.create_string_buffer(b"x" * 64, 64)
        self.ok(self.transfer(lib.vfu_sgl_write, 0x80, data, PROT_WRITE))
        thread.join()
        self.assertEqual(bytes(self.ram[0x7F:0xC1]), b"\x7f" + b"x" * 64 + b"\xc0")

    def test_that_are_refused(self):
        thread, data = self.serve(1, error=errno.EIO), ctypes.create_string_buffer(8)
        c.set_errno(0)
        self.assertEqual(self.transfer(lib.vfu_sgl_read, 0, data, PROT_READ), -1)
        self.assertEqual(last_errno(), "EIO")
        thread.join()

    def test_writing_what_was_looked_up_to_be_read(self):
        data = ctypes.create_string_buffer(8)
        self.assertEqual(self.transfer(lib.vfu_sgl_write, 0, data, PROT_READ), -1)
        self.assertEqual(last_errno(), "EPERM")

    def test_of_two_entries(self):
        data = ctypes.create_string_buffer(8)
        for function in (lib.vfu_sgl_read, lib.vfu_sgl_write):
            self.assertEqual(self.transfer(function, 0, data, PROT_WRITE, count=2), -1)
            self.assertEqual(last_errno(), "ENOTSUP")

    def test_with_unknown_flags(self):
        data = ctypes.create_string_buffer(8)
        for function in (lib.vfu_sgl_read, lib.vfu_sgl_write):
            self.assertEqual(self.transfer(function, 0, data, PROT_WRITE, flags=4), -1)
            self.assertEqual(last_errno(), "EINVAL")

    def test_are_not_needed_for_shared_memory(self):
        fd = self.memfd(SIZE)
        os.pwrite(fd, b"shared", 0)
        self.assertEqual(self.map(AT + SIZE, SIZE, fd), "")
        data = ctypes.create_string_buffer(6)
        self.ok(self.transfer(lib.vfu_sgl_read, SIZE, data, PROT_READ, flags=1))
        self.assertEqual(data.raw, b"shared")
        self.assertFalse(self.client.readable())


class SmallMessages(Messages):
    """A client that takes 1000 bytes a message."""

    capabilities = {"max_data_xfer_size": 1000}

    def test_are_split(self):
        thread, data = self.serve(3), ctypes.create_string_buffer(2500)
        self.ok(self.transfer(lib.vfu_sgl_read, 0, data, PROT_READ))
        thread.join()
        self.assertEqual(data.raw, bytes(self.ram[:2500]))
        self.assertEqual([size for _, _, size in self.asked], [1000, 1000, 500])


if __name__ == "__main__":
    unittest.main()
