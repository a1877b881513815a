/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What this library has beyond libvfio-user.h, which includes it. Programs that know nothing of it need none of it; one
 * that shall also compile elsewhere asks for VFU_RS_VERSION:
 *
 *     int flags = LIBVFIO_USER_FLAG_ATTACH_NB;
 *     #ifdef VFU_RS_VERSION
 *     flags |= LIBVFIO_USER_FLAG_REENTRANT;
 *     #endif
 *
 * A function that gives int gives 0, or -1 with errno, unless it says otherwise.
 */
#ifndef VFU_RS_H
#define VFU_RS_H

#include "libvfio-user.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of this header: (major << 16) | (minor << 8) | patch. */
#define VFU_RS_VERSION 0x000100

/* Of the library that runs, which may be another one. */
uint32_t vfu_rs_version(void);

/* ---- flags of vfu_create_ctx() ---- */

/*
 * Callbacks may be called again while one waits in vfu_sgl_read() or vfu_sgl_write(). For devices that do DMA in a
 * callback and clients that access registers before they answer it, as QEMU does: without the flag their commands queue,
 * and the DMA ends with ETIMEDOUT.
 */
#define LIBVFIO_USER_FLAG_REENTRANT (1 << 8)

/* Every function may be called on every thread. Callbacks still run one at a time. */
#define LIBVFIO_USER_FLAG_THREAD_SAFE (1 << 9)

/* ---- log: vfu_log() for languages without variable arguments ---- */

/* 1 if a message of this level would go anywhere, else 0. */
int vfu_rs_log_enabled(vfu_ctx_t *vfu_ctx, int level);
void vfu_rs_log_text(vfu_ctx_t *vfu_ctx, int level, const char *text);

/* ---- interrupts ---- */

/*
 * Raises a vector of any type: also ERR and REQ, which vfu_irq_trigger() can't reach. EINVAL: no such vector; ENOENT: the
 * client has given it no eventfd.
 */
int vfu_rs_irq_raise(vfu_ctx_t *vfu_ctx, enum vfu_dev_irq_type type, uint32_t subindex);

/*
 * From now on the library keeps the interrupts of masked vectors, once each, and raises them when the client unmasks
 * them: by SET_IRQS, by Function Mask of the MSI-X capability, and by the vector's mask bit in the MSI-X table. The
 * library then answers accesses to the table and the pending bits itself, and the device need not model them. Call it
 * after the MSI-X capability was added, before vfu_realize_ctx().
 */
int vfu_rs_setup_irq_masking(vfu_ctx_t *vfu_ctx);

/* ---- time and room ---- */

/* A time of 0 means for ever. Behind the meaning: what it is unless set. */
typedef struct vfu_rs_limits {
    size_t size;                   /* sizeof(vfu_rs_limits_t), filled in by the program */
    uint32_t dma_timeout_ms;       /* one DMA message; 2000 */
    uint32_t handler_timeout_ms;   /* all DMA messages of one callback; 4000 */
    uint32_t handshake_timeout_ms; /* from connecting to VERSION; 10000 */
    uint32_t message_timeout_ms;   /* from the first byte of a message to the last; 10000 */
    uint32_t send_timeout_ms;      /* the client reads nothing; 10000 */
    uint32_t outstanding;          /* DMA messages under way at once; 64 */
    uint32_t zombies;              /* replies still owed to DMA that was given up; 4096 */
    uint32_t queued_commands;      /* commands that wait; 1024 */
    uint64_t queued_bytes;         /* and their bytes; 8 MiB */
    uint64_t unsent_bytes;         /* replies that the client leaves unread; 8 MiB */
} vfu_rs_limits_t;

/* The limits in force: fill in size, get them, change some, set them before vfu_attach_ctx(). */
int vfu_rs_get_limits(vfu_ctx_t *vfu_ctx, vfu_rs_limits_t *limits);
int vfu_rs_set_limits(vfu_ctx_t *vfu_ctx, const vfu_rs_limits_t *limits);

/* ---- memory that clients take away ---- */

/*
 * A client may cut a file short that it has shared. What becomes of a program whose page is gone:
 */
typedef enum vfu_rs_memory_policy {
    VFU_RS_MEMORY_TRUSTING, /* SIGBUS ends it */
    VFU_RS_MEMORY_GUARDED,  /* DMA that meets the missing page fails, and pointers from vfu_sgl_get() find zeros: a
                               handler of SIGBUS, which hands on what is not its own, sees to that. The default */
    VFU_RS_MEMORY_COPYING,  /* nothing is mapped: vfu_sgl_get() fails with EFAULT; vfu_sgl_read() and vfu_sgl_write() with
                               VFU_SGL_DIRECT_ACCESS read and write the file */
    VFU_RS_MEMORY_SEALED    /* only memfds that are sealed against shrinking are taken; DMA_MAP of others fails */
} vfu_rs_memory_policy_t;

/* What is mapped from now on. EINVAL: there is no such policy; EBUSY: a client is connected. */
int vfu_rs_set_memory_policy(vfu_ctx_t *vfu_ctx, vfu_rs_memory_policy_t policy);

/* ---- DMA that nobody waits for ---- */

/* error is 0 or an errno. */
typedef void(vfu_rs_dma_done_cb_t)(vfu_ctx_t *vfu_ctx, void *opaque, int error);

/*
 * Like vfu_sgl_read() and vfu_sgl_write(), but with scatter lists of any length and without waiting. data belongs to the
 * library until done is called, which happens once: in this call if no message is needed (or, if that is made in another
 * done, when that has returned), else in vfu_run_ctx() or whichever function notices the answer. -1: the arguments are
 * wrong, and done is not called.
 */
int vfu_rs_sgl_read_async(vfu_ctx_t *vfu_ctx, dma_sg_t *sgl, size_t cnt, void *data, int flags,
                          vfu_rs_dma_done_cb_t *done, void *opaque);
int vfu_rs_sgl_write_async(vfu_ctx_t *vfu_ctx, dma_sg_t *sgl, size_t cnt, void *data, int flags,
                           vfu_rs_dma_done_cb_t *done, void *opaque);

/*
 * Milliseconds until vfu_run_ctx() has something to do though nothing came: the timeout for poll(2). -1: never. That may
 * be time-outs, or requests that wait until the client has read replies.
 */
int vfu_rs_get_timeout(vfu_ctx_t *vfu_ctx);

/*
 * The socket on which the answers to DMA messages come if the client agreed to a second one: to be polled beside
 * vfu_get_poll_fd(). -1 with ENOENT: there is none.
 */
int vfu_rs_get_dma_poll_fd(vfu_ctx_t *vfu_ctx);

/* ---- counters ---- */

typedef struct vfu_rs_counters {
    size_t size;                 /* sizeof(vfu_rs_counters_t), filled in by the program */
    uint64_t commands;           /* received */
    uint64_t replies;            /* to DMA messages */
    uint64_t late_replies;       /* to DMA that had been given up; dropped */
    uint64_t stray_replies;      /* to nothing; dropped */
    uint64_t misplaced_commands; /* on the second socket; refused */
    uint64_t timeouts;           /* DMA messages that were not answered in time */
    uint64_t canceled;           /* DMA messages given up because of a reset, an unmap or a stop */
    uint64_t queue_peak;         /* the most commands that ever waited at once */
} vfu_rs_counters_t;

/* What happened in the session with the client that is connected. ENOTCONN: none is. */
int vfu_rs_get_counters(vfu_ctx_t *vfu_ctx, vfu_rs_counters_t *counters);

#ifdef __cplusplus
}
#endif

#endif /* VFU_RS_H */
