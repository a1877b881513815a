"""Clients that come and go, commands that are right and wrong, quiescing, migration."""

import os
import select
import struct
import unittest

import wire
from base import *  # noqa: F403

AT, SIZE, PAGE = 0x100000, 0x10000, 4096
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
STATE_ERROR, STOP, RUNNING, STOP_COPY, RESUMING, P2P, PRE_COPY = range(7)


class Contexts(Case):
    attach = False

    def create(self, transport=0, path=b"/tmp/none", flags=0, kind=0):
        c.set_errno(0)
        ctx = lib.vfu_create_ctx(transport, path, flags, None, kind)
        self.assertIsNone(ctx)
        return last_errno()

    def test_of_another_transport(self):
        self.assertEqual(self.create(transport=7), "ENOTSUP")

    def test_of_another_kind(self):
        self.assertEqual(self.create(kind=7), "ENOTSUP")

    def test_with_unknown_flags(self):
        self.assertEqual(self.create(flags=1 << 20), "EINVAL")

    def test_where_one_is(self):
        self.assertEqual(self.create(path=self.path.encode()), "EADDRINUSE")

    def test_without_an_address(self):
        ctx = lib.vfu_create_ctx(0, b"", 0, None, 0)
        self.assertIsNotNone(ctx)
        lib.vfu_destroy_ctx(ctx)

    def test_private_data(self):
        ctx = lib.vfu_create_ctx(0, (self.path + "2").encode(), 0, 0x1234, 0)
        self.assertEqual(lib.vfu_get_private(ctx), 0x1234)
        lib.vfu_destroy_ctx(ctx)

    def test_log_levels(self):
        for level, result in ((-1, -1), (0, 0), (7, 0), (8, -1)):
            self.assertEqual(lib.vfu_setup_log(self.ctx, self.keep[-1], level), result)

    def test_log_of_a_format(self):
        seen = []
        log = Log(lambda ctx, level, text: seen.append((level, text)))
        self.keep.append(log)
        self.ok(lib.vfu_setup_log(self.ctx, log, 6))
        lib.vfu_log(c.c_void_p(self.ctx), 4, b"%s %d", b"is", c.c_int(7))
        lib.vfu_log(c.c_void_p(self.ctx), 7, b"not this")
        self.assertEqual(seen, [(4, b"is 7")])

    def test_run_before_realize(self):
        self.fails("EINVAL", lib.vfu_run_ctx, self.ctx)

    def test_attach_to_nobody(self):
        self.ok(lib.vfu_realize_ctx(self.ctx))
        self.fails("EAGAIN", lib.vfu_attach_ctx, self.ctx)

    def test_destroy_resets(self):
        self.destroy()
        self.assertEqual(self.resets, [RESET_LOST_CONN])
        self.assertFalse(os.path.exists(self.path))


class Sessions(Case):
    def gone(self):
        self.client.close()
        while lib.vfu_run_ctx(self.ctx) >= 0:
            pass
        return last_errno()

    def test_attach_again(self):
        self.fails("EINVAL", lib.vfu_attach_ctx, self.ctx)

    def test_nothing_to_do(self):
        self.assertEqual(lib.vfu_run_ctx(self.ctx), 0)

    def test_one_request_is_one(self):
        self.client.send(wire.RESET)
        select.select([lib.vfu_get_poll_fd(self.ctx)], [], [], wire.LONG)
        self.assertEqual(lib.vfu_run_ctx(self.ctx), 1)
        self.assertEqual(self.client.receive().errno, 0)

    def test_the_end_is_told_each_time(self):
        self.assertEqual(self.gone(), "ENOTCONN")
        self.fails("ENOTCONN", lib.vfu_run_ctx, self.ctx)

    def test_the_end_takes_memory_away(self):
        self.assertEqual(self.map(AT, SIZE), "")
        self.gone()
        self.assertEqual((len(self.unmaps), self.resets), (1, [RESET_LOST_CONN]))

    def test_another_client_comes(self):
        for _ in range(3):
            self.assertEqual(self.config(0), 0x22221111)
            self.gone()
            self.connect()

    def test_poll_fd_changes_back(self):
        connected = lib.vfu_get_poll_fd(self.ctx)
        self.gone()
        self.assertNotEqual(lib.vfu_get_poll_fd(self.ctx), connected)

    def test_info(self):
        reply = self.call(wire.GET_INFO, struct.pack("=IIII", 16, 0, 0, 0))
        self.assertEqual(struct.unpack("=IIII", reply.data), (16, 3, 9, 5))

    def test_info_without_room(self):
        self.assertEqual(self.error(wire.GET_INFO, struct.pack("=IIII", 8, 0, 0, 0)), "EINVAL")

    def test_more_than_was_needed_is_fine(self):
        self.assertEqual(self.error(wire.GET_INFO, struct.pack("=IIII", 16, 0, 0, 0) + bytes(100)), "")

    def test_an_access_reaches_the_program(self):
        self.assertEqual(self.write_error(BAR0, 0x123, b"hello"), "")
        self.assertEqual(self.read(BAR0, 0x124, 3), b"ell")
        self.assertEqual(self.accesses, [(0x123, 5, True), (0x124, 3, False)])

    def test_an_access_that_fails(self):
        self.fail_access = errno.ENOSPC
        self.assertEqual(self.write_error(BAR0, 0, b"x"), "ENOSPC")

    def test_an_access_over_the_end(self):
        self.assertEqual(self.write_error(BAR0, 4095, b"xy"), "EINVAL")
        self.assertEqual(self.accesses, [])

    def test_a_reset_reaches_the_program(self):
        self.assertEqual(self.error(wire.RESET), "")
        self.assertEqual(self.resets, [RESET_DEVICE])

    def test_commands_that_nobody_knows(self):
        for cmd in (0, 11, 12, 14, 15, 19, 255, 65535):
            self.assertEqual(self.error(cmd, bytes(16)), "EINVAL")
        self.assertEqual(self.config(0), 0x22221111)

    def test_commands_without_payload(self):
        for cmd in (2, 3, 4, 5, 6, 7, 8, 9, 10, 16):
            self.assertEqual(self.error(cmd), "EINVAL")

    def test_the_answer_to_version(self):
        self.assertEqual(struct.unpack_from("=HH", self.version.data), (0, 1))
        self.assertEqual(self.version.data[-1:], b"\0")


class Quiescing(Case):
    def pending(self):
        self.fail_quiesce = errno.EBUSY
        self.client.send(wire.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, AT, SIZE))
        select.select([lib.vfu_get_poll_fd(self.ctx)], [], [], wire.LONG)
        self.fails("EBUSY", lib.vfu_run_ctx, self.ctx)
        self.fail_quiesce = 0

    def test_later(self):
        self.pending()
        self.fails("EBUSY", lib.vfu_run_ctx, self.ctx)
        self.assertEqual(self.maps, [])
        self.ok(lib.vfu_device_quiesced(self.ctx, 0))
        self.assertEqual(len(self.maps), 1)
        self.assertEqual(self.client.receive().errno, 0)

    def test_that_fails_later(self):
        self.pending()
        self.ok(lib.vfu_device_quiesced(self.ctx, errno.ENOTTY))
        self.assertEqual(self.maps, [])

    def test_that_nobody_asked_for(self):
        self.fails("EINVAL", lib.vfu_device_quiesced, self.ctx, 0)

    def test_twice(self):
        self.pending()
        self.ok(lib.vfu_device_quiesced(self.ctx, 0))
        self.fails("EINVAL", lib.vfu_device_quiesced, self.ctx, 0)

    def test_memory_works_meanwhile(self):
        self.assertEqual(self.map(0, PAGE, self.memfd(PAGE)), "")
        self.pending()
        entries, count = self.look_up(0, 8)
        self.assertEqual(count, 1)
        self.ok(lib.vfu_device_quiesced(self.ctx, 0))


class Migrations(Case):
    migratable = True

    def set_state(self, state):
        reply = self.feature(SET | 2, struct.pack("=II", state, 0), 16)
        return errno.errorcode.get(reply.errno, reply.errno) if reply.errno else ""

    def state(self):
        return struct.unpack_from("=I", self.feature(GET | 2).data, 8)[0]

    def read_state(self, size, argsz=None):
        reply = self.call(wire.MIG_READ, struct.pack("=II", argsz or 8 + size, size))
        if reply.errno:
            return errno.errorcode.get(reply.errno, reply.errno)
        return reply.data[8 : 8 + struct.unpack_from("=I", reply.data, 4)[0]]

    def test_one_by_one(self):
        for state in (STOP, STOP_COPY, STOP, RESUMING, STOP, RUNNING, PRE_COPY, RUNNING):
            self.assertEqual(self.set_state(state), "")
            self.assertEqual(self.state(), state)
        self.assertEqual(self.transitions, [0, 2, 0, 4, 0, 1, 3, 1])

    def test_through_stop(self):
        self.assertEqual(self.set_state(RESUMING), "")
        self.assertEqual(self.transitions, [0, 4])

    def test_to_where_it_is(self):
        self.assertEqual(self.set_state(RUNNING), "")
        self.assertEqual(self.transitions, [])

    def test_to_states_that_can_not_be_asked_for(self):
        for state in (STATE_ERROR, P2P, 7, 8, 100):
            self.assertEqual(self.set_state(state), "EINVAL")

    def test_that_the_program_refuses(self):
        self.fail_transition = errno.ENODEV
        self.assertEqual(self.set_state(STOP), "ENODEV")
        self.assertEqual(self.state(), RUNNING)

    def test_data_out(self):
        self.saved = b"all of the state"
        self.set_state(STOP_COPY)
        self.assertEqual(self.read_state(6), b"all of")
        self.assertEqual(self.read_state(100), b" the state")
        self.assertEqual(self.read_state(100), b"")

    def test_data_out_that_fails(self):
        self.set_state(STOP_COPY)
        self.fail_data = errno.ENODATA
        self.assertEqual(self.read_state(6), "ENODATA")

    def test_data_out_while_it_runs(self):
        self.assertEqual(self.read_state(6), "EINVAL")

    def test_data_out_without_room(self):
        self.set_state(STOP_COPY)
        self.assertEqual(self.read_state(6, argsz=10), "EINVAL")

    def test_data_in(self):
        self.set_state(RESUMING)
        for piece in (b"one ", b"two"):
            self.assertEqual(self.error(wire.MIG_WRITE, struct.pack("=II", 8 + len(piece), len(piece)) + piece), "")
        self.assertEqual(self.written, b"one two")

    def test_data_in_that_is_cut_off(self):
        self.set_state(RESUMING)
        self.assertEqual(self.error(wire.MIG_WRITE, struct.pack("=II", 12, 4) + b"abc"), "EINVAL")

    def test_data_in_while_it_runs(self):
        self.assertEqual(self.error(wire.MIG_WRITE, struct.pack("=II", 9, 1) + b"a"), "EINVAL")

    def test_probe(self):
        self.assertEqual(self.feature(PROBE | GET | SET | 2).errno, 0)
        self.assertEqual(self.feature(PROBE | SET | 1).errno, errno.EINVAL)

    def test_get_and_set_at_once(self):
        self.assertEqual(self.feature(GET | SET | 2, bytes(8)).errno, errno.EINVAL)

    def test_of_another_version(self):
        self.migration.version = 1
        self.fails("EINVAL", lib.vfu_setup_device_migration_callbacks, self.ctx, self.migration)


class DirtyPages(Case):
    migratable = True

    def setUp(self):
        super().setUp()
        self.assertEqual(self.map(AT, SIZE, self.memfd(SIZE)), "")

    def start(self, page=PAGE):
        return self.feature(SET | 6, struct.pack("=QII", page, 0, 0), 24).errno

    def report(self, at=AT, size=SIZE, page=PAGE):
        reply = self.feature(GET | 8, struct.pack("=QQQ", at, size, page))
        if reply.errno:
            return errno.errorcode[reply.errno]
        return int.from_bytes(reply.data[32:], "little")

    def dirty(self, page):
        entries, _ = self.look_up(AT + page * PAGE, 1, PROT_WRITE)
        iovs = (IoVec * 1)()
        self.ok(lib.vfu_sgl_get(self.ctx, entries, iovs, 1, 0))
        lib.vfu_sgl_put(self.ctx, entries, iovs, 1)

    def test_are_told_once(self):
        self.assertEqual(self.start(), 0)
        self.dirty(2)
        self.dirty(15)
        self.assertEqual(self.report(), 1 << 2 | 1 << 15)
        self.assertEqual(self.report(), 0)

    def test_in_larger_pages(self):
        self.assertEqual(self.start(), 0)
        self.dirty(3)
        self.assertEqual(self.report(page=2 * PAGE), 1 << 1)

    def test_in_smaller_pages(self):
        self.assertEqual(self.start(2 * PAGE), 0)
        self.dirty(3)
        self.assertEqual(self.report(), 1 << 2 | 1 << 3)

    def test_marked_while_they_are_kept(self):
        self.assertEqual(self.start(), 0)
        entries, _ = self.look_up(AT + 4 * PAGE, PAGE, PROT_WRITE)
        lib.vfu_sgl_mark_dirty(self.ctx, entries, 1)
        self.assertEqual(self.report(), 1 << 4)

    def test_of_memory_that_is_not_there(self):
        self.assertEqual(self.start(), 0)
        self.assertEqual(self.report(at=AT + 64 * SIZE), "ENOENT")

    def test_of_the_middle(self):
        self.assertEqual(self.start(), 0)
        self.assertEqual(self.report(at=AT + PAGE, size=PAGE), "ENOTSUP")

    def test_of_no_page_size(self):
        self.assertEqual(self.start(0), errno.EINVAL)
        self.assertEqual(self.start(), 0)
        self.assertEqual(self.report(page=0), "EINVAL")

    def test_logged_twice(self):
        self.assertEqual(self.start(), 0)
        self.assertEqual(self.start(), 0)
        self.assertEqual(self.start(2 * PAGE), errno.EINVAL)

    def test_end(self):
        self.assertEqual(self.start(), 0)
        self.assertEqual(self.feature(SET | 7).errno, 0)
        self.assertEqual(self.start(4 * PAGE), 0)


class IoEventFds(Case):
    def ask(self, region, argsz=4096):
        reply = self.call(wire.GET_IO_FDS, struct.pack("=IIII", argsz, 0, region, 0))
        self.addCleanup(lambda: [os.close(fd) for fd in reply.fds])
        return reply

    def create(self, fd, at, size=4, region=BAR0):
        return lib.vfu_create_ioeventfd(self.ctx, region, fd, at, size, 0, 0, -1, 0)

    def test_newest_comes_first(self):
        fd = os.eventfd(0)
        self.addCleanup(os.close, fd)
        for at in (0, 8, 16):
            self.ok(self.create(fd, at))
        reply = self.ask(BAR0)
        self.assertEqual(struct.unpack_from("=IIII", reply.data), (16 + 3 * 48, 0, BAR0, 3))
        self.assertEqual([struct.unpack_from("=Q", reply.data, 16 + 48 * i)[0] for i in range(3)], [16, 8, 0])
        self.assertEqual(len(reply.fds), 1, "the same descriptor goes once")

    def test_of_a_region_that_is_not_there(self):
        self.assertEqual(self.ask(BAR3).errno, errno.EINVAL)

    def test_behind_the_end(self):
        self.fails("EINVAL", self.create, -1, 4096)

    def test_of_no_region(self):
        self.fails("EINVAL", self.create, -1, 0, 4, 9)

    def test_with_flags(self):
        reply = self.call(wire.GET_IO_FDS, struct.pack("=IIII", 4096, 1, BAR0, 0))
        self.assertEqual(reply.errno, errno.EINVAL)


class RegionInfo(Case):
    attach = False

    def info(self, region, argsz):
        reply = self.call(wire.GET_REGION_INFO, struct.pack("=IIIIQQ", argsz, 0, region, 0, 0, 0))
        self.addCleanup(lambda: [os.close(fd) for fd in reply.fds])
        return reply

    def setup_device(self):
        super().setup_device()
        self.fd = self.memfd(4 * PAGE)
        areas = (IoVec * 2)(IoVec(0, PAGE), IoVec(2 * PAGE, PAGE))
        self.ok(
            lib.vfu_setup_region(self.ctx, BAR1, 4 * PAGE, Access(), RW | MEM, c.cast(areas, c.c_void_p), 2, self.fd, 0)
        )
        self.connect()

    def test_with_areas(self):
        reply = self.info(BAR1, 4096)
        self.assertEqual(struct.unpack_from("=IIIIQQ", reply.data), (80, 15, BAR1, 32, 4 * PAGE, 0))
        self.assertEqual(struct.unpack_from("=HHIII4Q", reply.data, 32), (1, 1, 0, 2, 0, 0, PAGE, 2 * PAGE, PAGE))
        self.assertEqual(len(reply.fds), 1)

    def test_with_areas_but_no_room(self):
        reply = self.info(BAR1, 32)
        self.assertEqual(struct.unpack_from("=II", reply.data), (80, 7))
        self.assertEqual((len(reply.data), reply.fds), (32, []))

    def test_with_too_little_room(self):
        self.assertEqual(self.info(BAR1, 31).errno, errno.EINVAL)

    def test_of_nothing(self):
        self.assertEqual(struct.unpack("=IIIIQQ", self.info(BAR5, 32).data), (32, 0, BAR5, 0, 0, 0))

    def test_of_configuration_space(self):
        self.assertEqual(struct.unpack("=IIIIQQ", self.info(CFG, 32).data), (32, 3, CFG, 0, 256, 0))

    def test_of_no_region(self):
        self.assertEqual(self.info(9, 32).errno, errno.EINVAL)


if __name__ == "__main__":
    unittest.main()
