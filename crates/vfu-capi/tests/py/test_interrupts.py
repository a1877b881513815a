"""Interrupts: what SET_IRQS takes and refuses, and what reaches the client."""

import os
import struct
import unittest

import wire
from base import *  # noqa: F403

NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 16, 32


class Interrupts(Case):
    def event(self):
        fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.addCleanup(os.close, fd)
        return fd

    def count(self, fd):
        try:
            return os.eventfd_read(fd)
        except BlockingIOError:
            return 0

    def listen(self, vectors, start=0):
        fds = [self.event() for _ in range(vectors)]
        self.assertEqual(self.set_irqs(MSIX, EVENTFD | TRIGGER, start, vectors, fds), "")
        return fds

    def trigger(self, vector):
        return lib.vfu_irq_trigger(self.ctx, vector)


class Delivery(Interrupts):
    def test_every_vector_has_its_own(self):
        fds = self.listen(8)
        for vector in (7, 0, 3):
            self.ok(self.trigger(vector))
            self.assertEqual([self.count(fd) for fd in fds], [int(i == vector) for i in range(8)])

    def test_vectors_in_the_middle(self):
        fds = self.listen(2, start=3)
        self.ok(self.trigger(4))
        self.assertEqual([self.count(fd) for fd in fds], [0, 1])
        self.fails("ENOENT", self.trigger, 2)

    def test_no_such_vector(self):
        self.fails("EINVAL", self.trigger, 8)
        self.fails("EINVAL", self.trigger, 0xFFFFFFFF)

    def test_nobody_listens(self):
        self.fails("ENOENT", self.trigger, 0)

    def test_the_type_is_turned_off(self):
        self.listen(8)
        self.assertEqual(self.set_irqs(MSIX, NONE | TRIGGER, 0, 0), "")
        self.fails("ENOENT", self.trigger, 0)

    def test_all_are_taken_away(self):
        self.listen(8)
        self.assertEqual(self.set_irqs(MSIX, EVENTFD | TRIGGER, 0, 8), "")
        for vector in range(8):
            self.fails("ENOENT", self.trigger, vector)

    def test_the_client_tries_one(self):
        fds = self.listen(4)
        self.assertEqual(self.set_irqs(MSIX, NONE | TRIGGER, 1, 2), "")
        self.assertEqual([self.count(fd) for fd in fds], [0, 1, 1, 0])

    def test_the_client_tries_some(self):
        fds = self.listen(4)
        self.assertEqual(self.set_irqs(MSIX, BOOL | TRIGGER, 0, 4, data=b"\1\0\0\1", argsz=24), "")
        self.assertEqual([self.count(fd) for fd in fds], [1, 0, 0, 1])

    def test_the_program_hears_of_masks(self):
        self.assertEqual(self.set_irqs(MSIX, NONE | MASK, 2, 3), "")
        self.assertEqual(self.set_irqs(MSIX, NONE | UNMASK, 2, 1), "")
        self.assertEqual(self.states, [(2, 3, True), (2, 1, False)])

    def test_a_type_without_a_callback_is_masked_silently(self):
        self.assertEqual(self.set_irqs(INTX, NONE | MASK, 0, 1), "")
        self.assertEqual(self.states, [])

    def test_the_next_client_starts_without(self):
        self.listen(8)
        self.client.close()
        while lib.vfu_run_ctx(self.ctx) >= 0:
            pass
        self.assertEqual(last_errno(), "ENOTCONN")
        self.fails("ENOENT", self.trigger, 0)
        self.connect()
        fds = self.listen(1)
        self.ok(self.trigger(0))
        self.assertEqual(self.count(fds[0]), 1)


class Counts(Interrupts):
    def info(self, index, argsz=16):
        reply = self.call(wire.GET_IRQ_INFO, struct.pack("=IIII", argsz, 0, index, 0))
        return errno.errorcode.get(reply.errno) or struct.unpack("=IIII", reply.data)

    def test_of_each_type(self):
        for index, count in enumerate((1, 0, 8, 1, 1)):
            self.assertEqual(self.info(index)[::3], (16, count))

    def test_of_no_type(self):
        self.assertEqual(self.info(5), "EINVAL")

    def test_without_room(self):
        self.assertEqual(self.info(0, 8), "EINVAL")

    def test_of_a_type_that_does_not_exist(self):
        self.fails("EINVAL", lib.vfu_setup_device_nr_irqs, self.ctx, 5, 1)

    def test_callback_of_a_type_that_does_not_exist(self):
        self.fails("EINVAL", lib.vfu_setup_irq_state_callback, self.ctx, 5, IrqState())


class Refused(Interrupts):
    """Each is EINVAL, and changes nothing."""

    def refuse(self, *args, **more):
        fds = self.listen(8)
        self.assertEqual(self.set_irqs(*args, **more), "EINVAL")
        self.assertEqual(self.states, [])
        self.ok(self.trigger(0))
        self.assertEqual(self.count(fds[0]), 1)


REFUSED = {
    "no_type": (5, NONE | TRIGGER, 0, 1),
    "no_data": (MSIX, TRIGGER, 0, 1),
    "all_data": (MSIX, NONE | BOOL | EVENTFD | TRIGGER, 0, 1),
    "no_action": (MSIX, EVENTFD, 0, 1),
    "all_actions": (MSIX, NONE | MASK | UNMASK | TRIGGER, 0, 1),
    "start_behind_the_end": (MSIX, NONE | TRIGGER, 8, 1),
    "count_over_the_end": (MSIX, NONE | TRIGGER, 0, 9),
    "end_over_the_end": (MSIX, NONE | TRIGGER, 7, 2),
    "end_that_wraps": (MSIX, NONE | TRIGGER, 1, 0xFFFFFFFF),
    "mask_of_none": (MSIX, NONE | MASK, 0, 0),
    "none_from_the_middle": (MSIX, NONE | TRIGGER, 1, 0),
    "none_by_bytes": (MSIX, BOOL | TRIGGER, 0, 0),
    "mask_of_err": (ERR, NONE | MASK, 0, 1),
    "unmask_of_req": (REQ, NONE | UNMASK, 0, 1),
    "two_of_err": (ERR, NONE | TRIGGER, 0, 2),
    "bytes_that_are_missing": (MSIX, BOOL | TRIGGER, 0, 2),
}


def refused(args):
    return lambda self: self.refuse(*args)


for name, args in REFUSED.items():
    setattr(Refused, f"test_{name}", refused(args))


class RefusedDescriptors(Interrupts):
    def open_fds(self):
        return len(os.listdir("/proc/self/fd"))

    def refuse(self, flags, count, descriptors):
        fds = [self.event() for _ in range(descriptors)]
        before = self.open_fds()
        self.assertEqual(self.set_irqs(MSIX, flags, 0, count, fds), "EINVAL")
        self.assertEqual(self.open_fds(), before)

    def test_with_no_data(self):
        self.refuse(NONE | TRIGGER, 1, 1)

    def test_more_than_vectors(self):
        self.refuse(EVENTFD | TRIGGER, 1, 2)

    def test_fewer_than_vectors(self):
        self.refuse(EVENTFD | TRIGGER, 4, 3)


if __name__ == "__main__":
    unittest.main()
