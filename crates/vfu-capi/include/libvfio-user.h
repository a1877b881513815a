/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * libvfio-user.so.0: a PCI device as an ordinary program, served over a UNIX socket.
 *
 *     vfu_ctx_t *ctx = vfu_create_ctx(VFU_TRANS_SOCK, "/run/dev.sock", 0, &dev, VFU_DEV_TYPE_PCI);
 *     vfu_pci_init(ctx, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0);
 *     vfu_pci_set_id(ctx, 0x1234, 0x0001, 0, 0);
 *     vfu_setup_region(ctx, VFU_PCI_DEV_BAR0_REGION_IDX, 4096, bar0_access,
 *                      VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM, NULL, 0, -1, 0);
 *     vfu_realize_ctx(ctx);
 *     vfu_attach_ctx(ctx);   // waits for a client
 *     vfu_run_ctx(ctx);      // serves it until it goes
 *     vfu_destroy_ctx(ctx);
 *
 * Programs that were written for the C library of this name compile and run with it unchanged. Section 9, vfu-rs.h, is
 * new.
 *
 *   1 contexts   2 log   3 PCI   4 regions   5 reset and quiesce   6 interrupts   7 DMA   8 migration   9 extensions
 *
 * Unless said otherwise: a function that gives int gives 0, or -1 with errno; it is called on one thread at a time for each
 * context; a wrong argument (NULL for what must be there, a value out of range) is EINVAL; lengths are in bytes.
 */
#ifndef LIB_VFIO_USER_H
#define LIB_VFIO_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>
#ifdef __has_include
#if __has_include(<sys/queue.h>) /* not used here; programs count on it */
#include <sys/queue.h>
#endif
#endif

#include "pci_caps/dsn.h"
#include "pci_caps/msi.h"
#include "pci_caps/msix.h"
#include "pci_caps/pm.h"
#include "pci_caps/px.h"
#include "pci_defs.h"
#include "vfio-user.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The interface that this header describes. */
#define LIB_VFIO_USER_MAJOR 0
#define LIB_VFIO_USER_MINOR 2

/* ---- 1. Contexts: one device, one socket, one client at a time ---------------------------------------------------- */

typedef struct vfu_ctx vfu_ctx_t;

typedef enum {
    VFU_TRANS_SOCK, /* a UNIX socket */
    VFU_TRANS_PIPE, /* not supported */
    VFU_TRANS_MAX
} vfu_trans_t;

typedef enum {
    VFU_DEV_TYPE_PCI
} vfu_dev_type_t;

/* vfu_create_ctx(): vfu_attach_ctx() and vfu_run_ctx() return at once when there is nothing to do. */
#define LIBVFIO_USER_FLAG_ATTACH_NB (1 << 0)

/*
 * Creates a device and listens at path, which must not exist yet; "" is an address that the kernel chooses. NULL with
 * errno: ENOTSUP for another trans or dev_type, EINVAL for unknown flags, EADDRINUSE, ENAMETOOLONG and what bind(2) says.
 * The device starts with one vector each of VFU_DEV_ERR_IRQ and VFU_DEV_REQ_IRQ.
 * After fork() the child must not use it, nor anything of it: the library has threads and locks, and two processes would
 * read one stream. It may end, by _exit(), or execute another program.
 */
vfu_ctx_t *vfu_create_ctx(vfu_trans_t trans, const char *path, int flags, void *pvt, vfu_dev_type_t dev_type);

/* Ends the setup. Needed before vfu_attach_ctx(); calling it again does nothing. */
int vfu_realize_ctx(vfu_ctx_t *vfu_ctx);

/*
 * Accepts a client and agrees with it on a version. EAGAIN (LIBVFIO_USER_FLAG_ATTACH_NB): nobody there yet. EINVAL:
 * attached already, or the client asked for something impossible. After an error it may be called again.
 */
int vfu_attach_ctx(vfu_ctx_t *vfu_ctx);

/*
 * Serves the client. With LIBVFIO_USER_FLAG_ATTACH_NB: handles what has arrived and gives the number of requests
 * handled, 0 if there were none. Without: handles requests until there is an error.
 * ENOTCONN: the client is gone, and vfu_attach_ctx() waits for the next one. EBUSY: the device has not quiesced yet.
 */
int vfu_run_ctx(vfu_ctx_t *vfu_ctx);

/*
 * What to poll for POLLIN before vfu_attach_ctx() and vfu_run_ctx(): the listening socket while nobody is attached, then
 * the client's. Ask again after vfu_attach_ctx() and after ENOTCONN.
 */
int vfu_get_poll_fd(vfu_ctx_t *vfu_ctx);

/*
 * Drops the client, takes memory away (dma_unregister), resets (VFU_RESET_LOST_CONN), removes the socket's path. The
 * device is not asked to quiesce: it has to be quiet already. NULL is fine.
 */
void vfu_destroy_ctx(vfu_ctx_t *vfu_ctx);

/* The pvt of vfu_create_ctx(). */
void *vfu_get_private(vfu_ctx_t *vfu_ctx);

/* ---- 2. Log ------------------------------------------------------------------------------------------------------- */

/* level is one of syslog(3), LOG_EMERG to LOG_DEBUG; msg has no newline. */
typedef void(vfu_log_fn_t)(vfu_ctx_t *vfu_ctx, int level, const char *msg);

/* Messages up to level go to log, or nowhere if it is NULL. EINVAL: no such level. The level is LOG_ERR at first. */
int vfu_setup_log(vfu_ctx_t *vfu_ctx, vfu_log_fn_t *log, int level);

/* Hands a message to the log. errno stays as it is. */
void vfu_log(vfu_ctx_t *vfu_ctx, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* ---- 3. PCI ------------------------------------------------------------------------------------------------------- */

typedef enum {
    VFU_PCI_TYPE_CONVENTIONAL, /* 256 bytes of configuration space */
    VFU_PCI_TYPE_PCI_X_1,      /* 256 bytes */
    VFU_PCI_TYPE_PCI_X_2,      /* 4096 bytes */
    VFU_PCI_TYPE_EXPRESS       /* 4096 bytes */
} vfu_pci_type_t;

/* Makes configuration space. hdr_type is PCI_HEADER_TYPE_NORMAL. EEXIST: called before. */
int vfu_pci_init(vfu_ctx_t *vfu_ctx, vfu_pci_type_t pci_type, int hdr_type, int revision);

/* Vendor, device, subsystem vendor, subsystem. After vfu_pci_init(). */
void vfu_pci_set_id(vfu_ctx_t *vfu_ctx, uint16_t vid, uint16_t did, uint16_t ssvid, uint16_t ssid);

/* Base class, sub class, programming interface; 0 unless set. */
void vfu_pci_set_class(vfu_ctx_t *vfu_ctx, uint8_t base, uint8_t sub, uint8_t pi);

/*
 * Configuration space itself, valid as long as the context: what the client writes shows here at once, and what is
 * written here the client reads. NULL before vfu_pci_init().
 */
vfu_pci_config_space_t *vfu_pci_get_config_space(vfu_ctx_t *vfu_ctx);

/* vfu_pci_add_capability() */
#define VFU_CAP_FLAG_EXTENDED (1 << 0) /* goes to 0x100 and above; data begins with struct pcie_ext_cap_hdr */
#define VFU_CAP_FLAG_CALLBACK (1 << 1) /* accesses go to the callback of VFU_PCI_DEV_CFG_REGION_IDX */
#define VFU_CAP_FLAG_READONLY (1 << 2) /* the client may not write it */

/*
 * Adds a capability at pos, or where there is room if pos is 0, and gives its offset. data begins with struct cap_hdr or
 * struct pcie_ext_cap_hdr with its id; "next" is filled in. It is copied. Known: PCI_CAP_ID_PM, _EXP, _MSI, _MSIX, _VNDR,
 * PCI_EXT_CAP_ID_DSN, _VNDR; the size of the last of each comes from its own field.
 * -1: EINVAL (pos, flags, overlap), ENOTSUP (another id), ENOSPC.
 */
ssize_t vfu_pci_add_capability(vfu_ctx_t *vfu_ctx, size_t pos, int flags, void *data);

/* The offset of the first capability with this id. 0 with ENOENT: there is none. */
size_t vfu_pci_find_capability(vfu_ctx_t *vfu_ctx, bool extended, int cap_id);

/* The first one behind the capability at pos. 0 with ENOENT: none, or no capability at pos; EINVAL: pos out of range. */
size_t vfu_pci_find_next_capability(vfu_ctx_t *vfu_ctx, bool extended, size_t pos, int cap_id);

/* ---- 4. Regions --------------------------------------------------------------------------------------------------- */

enum {
    VFU_PCI_DEV_BAR0_REGION_IDX,
    VFU_PCI_DEV_BAR1_REGION_IDX,
    VFU_PCI_DEV_BAR2_REGION_IDX,
    VFU_PCI_DEV_BAR3_REGION_IDX,
    VFU_PCI_DEV_BAR4_REGION_IDX,
    VFU_PCI_DEV_BAR5_REGION_IDX,
    VFU_PCI_DEV_ROM_REGION_IDX,
    VFU_PCI_DEV_CFG_REGION_IDX, /* configuration space */
    VFU_PCI_DEV_VGA_REGION_IDX,
    VFU_PCI_DEV_NUM_REGIONS,
};

/* For devices that are not PCI, of which there are none. */
enum {
    VFU_GENERIC_DEV_MIGR_REGION_IDX,
    VFU_GENERIC_DEV_NUM_REGIONS
};

#define VFU_REGION_FLAG_READ (1 << 0)
#define VFU_REGION_FLAG_WRITE (1 << 1)
#define VFU_REGION_FLAG_RW (VFU_REGION_FLAG_READ | VFU_REGION_FLAG_WRITE)
#define VFU_REGION_FLAG_MEM (1 << 2)       /* a memory BAR; else an I/O BAR */
#define VFU_REGION_FLAG_ALWAYS_CB (1 << 3) /* configuration space: the callback sees every access */
#define VFU_REGION_FLAG_64_BITS (1 << 4)   /* a 64-bit BAR, which takes the next index too */
#define VFU_REGION_FLAG_PREFETCH (1 << 5)
#define VFU_REGION_FLAG_MASK                                                                                           \
    (VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM | VFU_REGION_FLAG_ALWAYS_CB | VFU_REGION_FLAG_64_BITS |                  \
     VFU_REGION_FLAG_PREFETCH)

/*
 * An access of count bytes at offset: takes buf if is_write, else fills it. Gives count, or -1 with errno, which the
 * client gets. The type of offset is loff_t, by a name that -std=c11 has too.
 */
typedef ssize_t(vfu_region_access_cb_t)(vfu_ctx_t *vfu_ctx, char *buf, size_t count, int64_t offset, bool is_write);

/*
 * Sets a region up, also while a client is attached. The size of a BAR is a power of 2; 0 takes the region away.
 *
 * With fd >= 0 the client may map the file from offset on: all of the region, or the nr_mmap_areas areas of mmap_areas
 * (iov_base is where in the region, iov_len how long). What it maps it accesses without asking; region_access sees the
 * rest. Without region_access, accesses fail, except in configuration space, which the library keeps: the callback of
 * VFU_PCI_DEV_CFG_REGION_IDX is asked only about bytes that are neither header nor capability.
 */
int vfu_setup_region(vfu_ctx_t *vfu_ctx, int region_idx, size_t size, vfu_region_access_cb_t *region_access, int flags,
                     struct iovec *mmap_areas, uint32_t nr_mmap_areas, int fd, uint64_t offset);

/*
 * Offers fd to the client as an ioeventfd: a write of size bytes (0: any) at gpa_offset of the region signals it and
 * need not come here. flags and datamatch are those of KVM_IOEVENTFD. fd -1 marks the place without a descriptor.
 * shadow_fd is -1, or memory in which the written value is found at shadow_offset. ENOSPC: the region has 253 different
 * descriptors already, which is all that goes with one message.
 */
int vfu_create_ioeventfd(vfu_ctx_t *vfu_ctx, uint32_t region_idx, int fd, size_t gpa_offset, uint32_t size,
                         uint32_t flags, uint64_t datamatch, int shadow_fd, size_t shadow_offset);

/* ---- 5. Reset and quiesce ----------------------------------------------------------------------------------------- */

typedef enum vfu_reset_type {
    VFU_RESET_DEVICE,    /* the client asked: everything back to the start */
    VFU_RESET_LOST_CONN, /* the client is gone: let go of its memory and interrupts */
    VFU_RESET_PCI_FLR    /* the client wrote "initiate function level reset" */
} vfu_reset_type_t;

/* When it returns, the device uses neither memory nor interrupts. */
typedef int(vfu_reset_cb_t)(vfu_ctx_t *vfu_ctx, vfu_reset_type_t type);

int vfu_setup_device_reset_cb(vfu_ctx_t *vfu_ctx, vfu_reset_cb_t *reset);

/*
 * Asks the device to stop using the client's memory, before memory is added or taken away, a reset, a change of the
 * migration state and the loss of the client. Gives
 *   0                    it is quiet, until the vfu_run_ctx() that asked returns;
 *   -1 with EBUSY        it needs time: vfu_run_ctx() gives EBUSY until vfu_device_quiesced() is called;
 *   -1 with another one  it cannot: the client's request fails with this errno.
 * Callbacks that run while the device is quiet may use memory all the same, where the client has given a descriptor: by
 * vfu_sgl_get(), and by vfu_sgl_read() and vfu_sgl_write() with VFU_SGL_DIRECT_ACCESS. Messages wait: EBUSY.
 */
typedef int(vfu_device_quiesce_cb_t)(vfu_ctx_t *vfu_ctx);

void vfu_setup_device_quiesce_cb(vfu_ctx_t *vfu_ctx, vfu_device_quiesce_cb_t *quiesce_cb);

/*
 * Tells that the device is quiet (0) or could not become so (an errno, with which the request fails). What had waited
 * is done before this returns, callbacks included. EINVAL: nothing waits. EDEADLK: called by the log function.
 */
int vfu_device_quiesced(vfu_ctx_t *vfu_ctx, int quiesce_errno);

/* ---- 6. Interrupts ------------------------------------------------------------------------------------------------ */

enum vfu_dev_irq_type {
    VFU_DEV_INTX_IRQ,
    VFU_DEV_MSI_IRQ,
    VFU_DEV_MSIX_IRQ,
    VFU_DEV_ERR_IRQ,
    VFU_DEV_REQ_IRQ,
    VFU_DEV_NUM_IRQS
};

/* How many vectors of a type the device has. Before vfu_realize_ctx(). */
int vfu_setup_device_nr_irqs(vfu_ctx_t *vfu_ctx, enum vfu_dev_irq_type type, uint32_t count);

/* The client masks or unmasks count vectors from start on. */
typedef void(vfu_dev_irq_state_cb_t)(vfu_ctx_t *vfu_ctx, uint32_t start, uint32_t count, bool mask);

int vfu_setup_irq_state_callback(vfu_ctx_t *vfu_ctx, enum vfu_dev_irq_type type, vfu_dev_irq_state_cb_t *cb);

/*
 * Raises vector subindex of whichever of INTx, MSI and MSI-X the client uses. On any thread. EINVAL: no such vector;
 * ENOENT: the client does not listen to it.
 */
int vfu_irq_trigger(vfu_ctx_t *vfu_ctx, uint32_t subindex);

/* ---- 7. DMA: the client's memory ---------------------------------------------------------------------------------- */

/* An address as the device sees it (IOVA). Not a pointer to anything here. */
typedef void *vfu_dma_addr_t;

/*
 * A client that cuts its memory's file short takes pages away under pointers that the device has. Touching one is a
 * SIGBUS, which the library handles: the device finds zeros there, and goes on. After that vfu_sgl_get() fails for this
 * memory (EFAULT), and vfu_sgl_read() and vfu_sgl_write() reach what is left of the file. Any other SIGBUS goes to the
 * handler that was there when the first memory was mapped. So a program that handles SIGBUS does so before that, or
 * hands on what is not its own; and threads that use pointers do not block it. Memfds that are sealed against shrinking
 * (F_SEAL_SHRINK) need none of this, and for them alone, unless they have huge pages, no handler is put in place.
 */

/* A piece of the client's memory. Allocate dma_sg_size() bytes for each. */
struct dma_sg;
typedef struct dma_sg dma_sg_t;

size_t dma_sg_size(void);

/* Memory that the client offers. */
typedef struct vfu_dma_info {
    struct iovec iova;    /* where the device sees it, and its length */
    void *vaddr;          /* where it is here; NULL if it can only be reached by messages */
    struct iovec mapping; /* the mapping that vaddr lies in, rounded to pages */
    size_t page_size;     /* of the mapping, e.g. 2 MiB */
    uint32_t prot;        /* PROT_READ, PROT_WRITE: what the device may do */
} vfu_dma_info_t;

typedef void(vfu_dma_register_cb_t)(vfu_ctx_t *vfu_ctx, vfu_dma_info_t *info);

/* When it returns, nothing points into the memory any more. */
typedef void(vfu_dma_unregister_cb_t)(vfu_ctx_t *vfu_ctx, vfu_dma_info_t *info);

#define LIBVFIO_USER_MAX_DMA_REGIONS (1000 * 1000)

/*
 * Lets the device use memory: up to max_regions pieces. Both callbacks may be NULL. Without this call the client's
 * memory is accepted and ignored.
 */
int vfu_setup_device_dma(vfu_ctx_t *vfu_ctx, size_t max_regions, vfu_dma_register_cb_t *dma_register,
                         vfu_dma_unregister_cb_t *dma_unregister);

/*
 * Looks up len bytes at dma_addr for PROT_READ or PROT_WRITE or both, and fills sgl with one entry for each piece they
 * lie in. Gives the number of entries; -1 with ENOENT (not all of it is mapped) or EACCES (not allowed); or, with errno
 * 0, -1 less the number of entries that it would need if max_nr_sgs is too small. On any thread.
 */
int vfu_addr_to_sgl(vfu_ctx_t *vfu_ctx, vfu_dma_addr_t dma_addr, size_t len, dma_sg_t *sgl, size_t max_nr_sgs,
                    int prot);

/* Whether vfu_sgl_get() gives a pointer for this entry. */
bool vfu_sg_is_mappable(vfu_ctx_t *vfu_ctx, dma_sg_t *sg);

/*
 * Pointers to the memory of cnt entries, until vfu_sgl_put(). EFAULT: it is not mapped here, use vfu_sgl_read() and
 * vfu_sgl_write(). flags is 0. On any thread.
 */
int vfu_sgl_get(vfu_ctx_t *vfu_ctx, dma_sg_t *sgl, struct iovec *iov, size_t cnt, int flags);

/* Gives them back. Entries looked up for PROT_WRITE count as written. On any thread. */
void vfu_sgl_put(vfu_ctx_t *vfu_ctx, dma_sg_t *sgl, struct iovec *iov, size_t cnt);

/* Counts entries as written without giving them back, for memory that is kept for long. On any thread. */
void vfu_sgl_mark_dirty(vfu_ctx_t *vfu_ctx, dma_sg_t *sgl, size_t cnt);

/* vfu_sgl_read(), vfu_sgl_write(): go through the client's descriptor where there is one. */
#define VFU_SGL_DIRECT_ACCESS 1

/*
 * Copies the memory of an entry to data, or data to it, by asking the client (or by the descriptor, see above). sg_cnt
 * is 1: ENOTSUP otherwise. Waits for the client; ETIMEDOUT if it does not answer, ENOTCONN if it goes, EPERM for memory
 * that was not looked up for this, EBUSY in a callback that tells of memory, a reset or a change of state if it takes a
 * message (the client waits for us), else the errno that the client answered.
 */
int vfu_sgl_read(vfu_ctx_t *vfu_ctx, dma_sg_t *sg, size_t sg_cnt, void *data, int flags);
int vfu_sgl_write(vfu_ctx_t *vfu_ctx, dma_sg_t *sg, size_t sg_cnt, void *data, int flags);

/* ---- 8. Migration ------------------------------------------------------------------------------------------------- */

typedef enum {
    VFU_MIGR_STATE_STOP,
    VFU_MIGR_STATE_RUNNING,
    VFU_MIGR_STATE_STOP_AND_COPY,
    VFU_MIGR_STATE_PRE_COPY,
    VFU_MIGR_STATE_RESUME
} vfu_migr_state_t;

#define VFU_MIGR_CALLBACKS_VERS 2

/* All three callbacks give -1 with errno if they fail. */
typedef struct {
    int version; /* VFU_MIGR_CALLBACKS_VERS */

    int (*transition)(vfu_ctx_t *vfu_ctx, vfu_migr_state_t state);

    /* Puts up to count bytes of the device's state into buf; gives how many, 0 if there are no more. */
    ssize_t (*read_data)(vfu_ctx_t *vfu_ctx, void *buf, uint64_t count);

    /* Takes count bytes of state. Gives count: there are no partial writes. */
    ssize_t (*write_data)(vfu_ctx_t *vfu_ctx, void *buf, uint64_t count);
} vfu_migration_callbacks_t;

/* Makes the device one that can be moved. EINVAL: another version, or a callback is missing. */
int vfu_setup_device_migration_callbacks(vfu_ctx_t *vfu_ctx, const vfu_migration_callbacks_t *callbacks);

#ifdef __cplusplus
}
#endif

/* ---- 9. Extensions, and VFU_RS_VERSION by which a program knows that they are there ------------------------------- */

#include "vfu-rs.h"

#endif /* LIB_VFIO_USER_H */
