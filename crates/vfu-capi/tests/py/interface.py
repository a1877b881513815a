"""The C interface as ctypes sees it: what programs in other languages rely on."""

import ctypes as c
import errno
import os

lib = c.CDLL(os.environ["VFU_SO"], use_errno=True)

ATTACH_NB = 1
PCI_CONVENTIONAL, PCI_EXPRESS = 0, 3
BAR0, BAR1, BAR2, BAR3, BAR4, BAR5, ROM, CFG, VGA = range(9)
INTX, MSI, MSIX, ERR, REQ = range(5)
READ, WRITE, RW, MEM, ALWAYS_CB, BITS64, PREFETCH = 1, 2, 3, 4, 8, 16, 32
CAP_EXTENDED, CAP_CALLBACK, CAP_READONLY = 1, 2, 4
RESET_DEVICE, RESET_LOST_CONN, RESET_FLR = range(3)
PROT_READ, PROT_WRITE = 1, 2


class IoVec(c.Structure):
    _fields_ = [("base", c.c_void_p), ("len", c.c_size_t)]


class Sg(c.Structure):
    """dma_sg_t: programs allocate it by dma_sg_size(), some look inside."""

    _fields_ = [
        ("dma_addr", c.c_void_p),
        ("region", c.c_int),
        ("length", c.c_uint64),
        ("offset", c.c_uint64),
        ("writeable", c.c_bool),
    ]


class DmaInfo(c.Structure):
    _fields_ = [
        ("iova", IoVec),
        ("vaddr", c.c_void_p),
        ("mapping", IoVec),
        ("page_size", c.c_size_t),
        ("prot", c.c_uint32),
    ]


ctx_p = c.c_void_p
Log = c.CFUNCTYPE(None, ctx_p, c.c_int, c.c_char_p)
Access = c.CFUNCTYPE(c.c_ssize_t, ctx_p, c.POINTER(c.c_char), c.c_ulong, c.c_long, c.c_bool, use_errno=True)
Reset = c.CFUNCTYPE(c.c_int, ctx_p, c.c_int, use_errno=True)
Quiesce = c.CFUNCTYPE(c.c_int, ctx_p, use_errno=True)
Dma = c.CFUNCTYPE(None, ctx_p, c.POINTER(DmaInfo))
IrqState = c.CFUNCTYPE(None, ctx_p, c.c_uint32, c.c_uint32, c.c_bool)
Transition = c.CFUNCTYPE(c.c_int, ctx_p, c.c_int, use_errno=True)
MigData = c.CFUNCTYPE(c.c_ssize_t, ctx_p, c.c_void_p, c.c_uint64, use_errno=True)


class Migration(c.Structure):
    _fields_ = [("version", c.c_int), ("transition", Transition), ("read_data", MigData), ("write_data", MigData)]


def declare(name, result, *args):
    function = getattr(lib, name)
    function.restype, function.argtypes = result, args


declare("vfu_create_ctx", ctx_p, c.c_int, c.c_char_p, c.c_int, c.c_void_p, c.c_int)
declare("vfu_realize_ctx", c.c_int, ctx_p)
declare("vfu_attach_ctx", c.c_int, ctx_p)
declare("vfu_run_ctx", c.c_int, ctx_p)
declare("vfu_get_poll_fd", c.c_int, ctx_p)
declare("vfu_destroy_ctx", None, ctx_p)
declare("vfu_get_private", c.c_void_p, ctx_p)
declare("vfu_setup_log", c.c_int, ctx_p, Log, c.c_int)
declare("vfu_pci_init", c.c_int, ctx_p, c.c_int, c.c_int, c.c_int)
declare("vfu_pci_set_id", None, ctx_p, c.c_uint16, c.c_uint16, c.c_uint16, c.c_uint16)
declare("vfu_pci_set_class", None, ctx_p, c.c_uint8, c.c_uint8, c.c_uint8)
declare("vfu_pci_get_config_space", c.POINTER(c.c_ubyte), ctx_p)
declare("vfu_pci_add_capability", c.c_ssize_t, ctx_p, c.c_size_t, c.c_int, c.c_char_p)
declare("vfu_pci_find_capability", c.c_size_t, ctx_p, c.c_bool, c.c_int)
declare("vfu_pci_find_next_capability", c.c_size_t, ctx_p, c.c_bool, c.c_size_t, c.c_int)
declare("vfu_setup_region", c.c_int, ctx_p, c.c_int, c.c_size_t, Access, c.c_int, c.c_void_p, c.c_uint32, c.c_int, c.c_uint64)
declare(
    "vfu_create_ioeventfd", c.c_int,
    ctx_p, c.c_uint32, c.c_int, c.c_size_t, c.c_uint32, c.c_uint32, c.c_uint64, c.c_int, c.c_size_t,
)
declare("vfu_setup_device_reset_cb", c.c_int, ctx_p, Reset)
declare("vfu_setup_device_quiesce_cb", None, ctx_p, Quiesce)
declare("vfu_device_quiesced", c.c_int, ctx_p, c.c_int)
declare("vfu_setup_device_nr_irqs", c.c_int, ctx_p, c.c_int, c.c_uint32)
declare("vfu_setup_irq_state_callback", c.c_int, ctx_p, c.c_int, IrqState)
declare("vfu_irq_trigger", c.c_int, ctx_p, c.c_uint32)
declare("vfu_setup_device_dma", c.c_int, ctx_p, c.c_size_t, Dma, Dma)
declare("dma_sg_size", c.c_size_t)
declare("vfu_addr_to_sgl", c.c_int, ctx_p, c.c_void_p, c.c_size_t, c.POINTER(Sg), c.c_size_t, c.c_int)
declare("vfu_sg_is_mappable", c.c_bool, ctx_p, c.POINTER(Sg))
declare("vfu_sgl_get", c.c_int, ctx_p, c.POINTER(Sg), c.POINTER(IoVec), c.c_size_t, c.c_int)
declare("vfu_sgl_put", None, ctx_p, c.POINTER(Sg), c.POINTER(IoVec), c.c_size_t)
declare("vfu_sgl_mark_dirty", None, ctx_p, c.POINTER(Sg), c.c_size_t)
declare("vfu_sgl_read", c.c_int, ctx_p, c.POINTER(Sg), c.c_size_t, c.c_void_p, c.c_int)
declare("vfu_sgl_write", c.c_int, ctx_p, c.POINTER(Sg), c.c_size_t, c.c_void_p, c.c_int)
declare("vfu_setup_device_migration_callbacks", c.c_int, ctx_p, c.POINTER(Migration))
# vfu_log has variable arguments: no argtypes
lib.vfu_log.restype = None


def last_errno():
    """The errno of the last call, by name, for messages that can be read."""
    number = c.get_errno()
    return errno.errorcode.get(number, number)
