"""Configuration space and its capabilities, through ctypes."""

import struct
import unittest

from base import *  # noqa: F403

PM = struct.pack("=BBHHBB", 1, 0, 0, 0, 0, 0)
VENDOR = b"\x09\0\x08\x01\x02\x03\x04\x05"
MSIX_CAP = struct.pack("=BBHII", 0x11, 0, 7, 0, 0x800)
MSI_CAP = struct.pack("=BBHIIHHII", 5, 0, 1 << 7 | 3 << 1 | 1 << 8, 0, 0, 0, 0, 0, 0)
DSN = struct.pack("=HHII", 3, 1, 1, 2)
EXT_VENDOR = struct.pack("=HHII", 0xB, 1, 0x77 | 12 << 20, 0xABCD)


def px(flr):
    return struct.pack("=BBHI", 0x10, 0, 2, flr << 28) + bytes(0x3C - 8)


class Header(Case):
    def test_ids_are_read_by_the_client(self):
        self.assertEqual(self.config(0), 0x22221111)
        self.assertEqual(self.config(0x2C), 0x44443333)

    def test_class_is_read_by_the_client(self):
        lib.vfu_pci_set_class(self.ctx, 0x01, 0x06, 0x02)
        self.assertEqual(self.config(8) >> 8, 0x010602)

    def test_pointer_shows_what_the_client_writes(self):
        config = lib.vfu_pci_get_config_space(self.ctx)
        self.assertEqual(self.set_config(0x0C, 0x10, 1), "")
        self.assertEqual(self.set_config(4, 7, 2), "")
        self.assertEqual((config[4], config[5]), (7, 0))

    def test_pointer_shows_the_client_what_the_program_writes(self):
        config = lib.vfu_pci_get_config_space(self.ctx)
        config[0x3D] = 4
        config[0x80] = 0x99
        self.assertEqual(self.config(0x3D, 1), 4)
        self.assertEqual(self.config(0x80, 1), 0x99)

    def test_whole_space_in_one_read(self):
        data = self.read(CFG, 0, 256)
        self.assertEqual(data[:4], b"\x11\x11\x22\x22")
        self.assertEqual(len(data), 256)

    def test_interrupt_line_is_the_client_s(self):
        self.assertEqual(self.set_config(0x3C, 10, 1), "")
        self.assertEqual(self.config(0x3C, 1), 10)

    def test_command_bits_that_a_guest_sets(self):
        for bits in (0x1, 0x2, 0x4, 0x7, 0x407, 0x0):
            self.assertEqual(self.set_config(4, bits, 2), "")
            self.assertEqual(self.config(4, 2), bits)

    def test_write_beyond_the_end(self):
        self.assertEqual(self.set_config(254, 0, 4), "EINVAL")

    def test_rom_that_is_not_there(self):
        self.assertEqual(self.set_config(0x30, 0xFFFFF800), "")
        self.assertEqual(self.config(0x30), 0)


class Bars(Case):
    """A BAR answers with its size when all ones are written."""

    attach = False

    def bar(self, size, flags):
        self.ok(lib.vfu_setup_region(self.ctx, BAR2, size, Access(), flags, None, 0, -1, 0))
        self.connect()
        self.assertEqual(self.set_config(0x18, 0xFFFFFFFF), "")
        self.assertEqual(self.set_config(0x1C, 0xFFFFFFFF), "")
        return self.config(0x18) | (self.config(0x1C) << 32 if flags & BITS64 else 0)

    def test_memory_of_16_bytes(self):
        self.assertEqual(self.bar(16, RW | MEM), 0xFFFFFFF0)

    def test_memory_of_a_page(self):
        self.assertEqual(self.bar(4096, RW | MEM), 0xFFFFF000)

    def test_memory_of_a_gibibyte(self):
        self.assertEqual(self.bar(1 << 30, RW | MEM), 0xC0000000)

    def test_prefetchable_memory(self):
        self.assertEqual(self.bar(1 << 20, RW | MEM | PREFETCH), 0xFFF00008)

    def test_64_bit_memory_of_a_tebibyte(self):
        self.assertEqual(self.bar(1 << 40, RW | MEM | BITS64 | PREFETCH), 0xFFFFFF000000000C)

    def test_io_of_8_bytes(self):
        self.assertEqual(self.bar(8, RW), 0xFFFFFFF9)

    def test_io_of_256_bytes(self):
        self.assertEqual(self.bar(256, RW), 0xFFFFFF01)


class Regions(Case):
    """What vfu_setup_region() refuses."""

    attach = False

    def region(self, index, size, flags, areas=None, count=0, fd=-1):
        return lib.vfu_setup_region(self.ctx, index, size, Access(), flags, areas, count, fd, 0)

    def refused(self, *args, **more):
        c.set_errno(0)
        self.assertEqual((self.region(*args, **more), last_errno()), (-1, "EINVAL"))

    def test_of_no_power_of_two(self):
        self.refused(BAR1, 4095, RW | MEM)

    def test_of_an_index_that_does_not_exist(self):
        self.refused(9, 4096, RW | MEM)

    def test_64_bits_in_the_last_bar(self):
        self.refused(BAR5, 4096, RW | MEM | BITS64)

    def test_io_of_64_bits(self):
        self.refused(BAR1, 4096, RW | BITS64)

    def test_always_called_back_without_a_callback(self):
        self.refused(CFG, 256, RW | ALWAYS_CB)

    def test_areas_without_a_descriptor(self):
        areas = (IoVec * 1)(IoVec(0, 4096))
        self.refused(BAR1, 8192, RW | MEM, areas=c.cast(areas, c.c_void_p), count=1)

    def test_areas_without_an_array(self):
        self.refused(BAR1, 8192, RW | MEM, count=2, fd=self.memfd(8192))

    def test_two_neighbours_of_32_bits(self):
        self.ok(self.region(BAR1, 4096, RW | MEM))
        self.ok(self.region(BAR2, 4096, RW | MEM))


class Capabilities(Case):
    pci_type = PCI_EXPRESS
    attach = False

    def add(self, data, position=0, flags=0):
        return lib.vfu_pci_add_capability(self.ctx, position, flags, data)

    def test_first_place(self):
        self.assertEqual(self.add(PM), 0x40)

    def test_next_place_is_aligned(self):
        self.assertEqual(self.add(b"\x09\0\x05abcd"), 0x40)
        self.assertEqual(self.add(PM), 0x48)

    def test_place_of_choice(self):
        self.assertEqual(self.add(PM, 0x90), 0x90)

    def test_order_is_that_of_adding(self):
        self.add(VENDOR, 0x90)
        self.add(PM, 0x50)
        self.connect()
        self.assertEqual(self.config(0x34, 1), 0x90)
        self.assertEqual(self.config(0x91, 1), 0x50)
        self.assertEqual(self.config(0x51, 1), 0)

    def test_in_the_header(self):
        self.fails("EINVAL", self.add, PM, 0x3C)

    def test_over_another(self):
        self.assertEqual(self.add(VENDOR, 0x50), 0x50)
        self.fails("EINVAL", self.add, VENDOR, 0x54)
        self.fails("EINVAL", self.add, VENDOR, 0x4C)

    def test_unknown_kind(self):
        self.fails("ENOTSUP", self.add, b"\x13\0\0\0")

    def test_unknown_flags(self):
        self.fails("EINVAL", self.add, PM, 0, 0x10)

    def test_callback_without_one(self):
        self.fails("EINVAL", self.add, PM, 0, CAP_CALLBACK)

    def test_extended_places(self):
        self.assertEqual(self.add(DSN, 0, CAP_EXTENDED), 0x100)
        self.assertEqual(self.add(EXT_VENDOR, 0, CAP_EXTENDED), 0x10C)
        self.connect()
        self.assertEqual(self.config(0x100), 0x10C10003)
        self.assertEqual(self.config(0x114), 0xABCD)

    def test_extended_first_place_is_0x100(self):
        self.fails("EINVAL", self.add, DSN, 0x200, CAP_EXTENDED)

    def test_find(self):
        self.add(PM)
        self.add(VENDOR)
        self.add(VENDOR)
        self.assertEqual(lib.vfu_pci_find_capability(self.ctx, False, 9), 0x48)
        self.assertEqual(lib.vfu_pci_find_next_capability(self.ctx, False, 0x48, 9), 0x50)
        self.assertEqual(lib.vfu_pci_find_next_capability(self.ctx, False, 0x40, 1), 0)
        self.assertEqual(last_errno(), "ENOENT")

    def test_find_behind_a_place_where_nothing_is(self):
        self.add(PM)
        self.assertEqual(lib.vfu_pci_find_next_capability(self.ctx, False, 0x41, 1), 0)
        self.assertEqual(last_errno(), "ENOENT")

    def test_find_behind_the_end(self):
        self.assertEqual(lib.vfu_pci_find_next_capability(self.ctx, False, 4096, 1), 0)
        self.assertEqual(last_errno(), "EINVAL")

    def test_find_extended(self):
        self.add(DSN, 0, CAP_EXTENDED)
        self.assertEqual(lib.vfu_pci_find_capability(self.ctx, True, 3), 0x100)
        self.assertEqual(lib.vfu_pci_find_capability(self.ctx, True, 0xB), 0)

    def test_vendor_s_bytes_are_written(self):
        self.add(VENDOR)
        self.connect()
        self.assertEqual(self.set_config(0x43, 0xEE, 1), "")
        self.assertEqual(self.config(0x43, 1), 0xEE)

    def test_vendor_s_head_is_not(self):
        self.add(VENDOR)
        self.connect()
        for at in (0x40, 0x41):
            self.assertEqual(self.set_config(at, 0xEE, 1), "EPERM")

    def test_read_only(self):
        self.add(VENDOR, 0, CAP_READONLY)
        self.connect()
        self.assertEqual(self.set_config(0x44, 0, 4), "EPERM")

    def test_power_state(self):
        self.add(PM)
        self.connect()
        self.assertEqual(self.set_config(0x44, 3, 2), "")
        self.assertEqual(self.config(0x44, 2), 3)

    def test_power_capabilities_are_fixed(self):
        self.add(PM)
        self.connect()
        self.assertEqual(self.set_config(0x42, 1, 2), "ENOTSUP")

    def test_power_state_in_half(self):
        self.add(PM)
        self.connect()
        self.assertEqual(self.set_config(0x44, 3, 1), "EINVAL")

    def test_msix_is_enabled(self):
        self.add(MSIX_CAP)
        self.connect()
        self.assertEqual(self.set_config(0x42, 0x8000, 2), "")
        self.assertEqual(self.config(0x42, 2), 0x8007)
        self.assertEqual(self.set_config(0x42, 0x4000, 2), "")
        self.assertEqual(self.config(0x42, 2), 0x4007)

    def test_msix_places_are_fixed(self):
        self.add(MSIX_CAP)
        self.connect()
        self.set_config(0x44, 0xFFFFFFFF, 4)
        self.assertEqual(self.config(0x44), 0)

    def test_msi_is_enabled(self):
        self.add(MSI_CAP)
        self.connect()
        self.assertEqual(self.set_config(0x42, 1, 2), "")
        self.assertEqual(self.config(0x42, 2), 1 << 7 | 3 << 1 | 1 << 8 | 1)

    def test_msi_address_and_data(self):
        self.add(MSI_CAP)
        self.connect()
        self.assertEqual(self.set_config(0x44, 0xFEE00000, 4), "")
        self.assertEqual(self.set_config(0x4C, 0x4021, 2), "")
        self.assertEqual(self.config(0x44), 0xFEE00000)
        self.assertEqual(self.config(0x4C, 2), 0x4021)

    def test_serial_number_is_fixed(self):
        self.add(DSN, 0, CAP_EXTENDED)
        self.connect()
        self.assertEqual(self.set_config(0x104, 5, 4), "EPERM")

    def test_function_level_reset(self):
        self.add(px(flr=1))
        self.connect()
        self.assertEqual(self.set_config(0x48, 0x8000, 2), "")
        self.assertEqual(self.resets, [RESET_FLR])

    def test_function_level_reset_that_is_not_offered(self):
        self.add(px(flr=0))
        self.connect()
        self.assertEqual(self.set_config(0x48, 0x8000, 2), "EINVAL")
        self.assertEqual(self.resets, [])

    def test_max_payload_is_the_client_s(self):
        self.add(px(flr=1))
        self.connect()
        self.assertEqual(self.set_config(0x48, 2 << 12, 2), "")
        self.assertEqual(self.config(0x48, 2) >> 12, 2)


if __name__ == "__main__":
    unittest.main()
