/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The messages of the vfio-user protocol as C structs, in host byte order.
 * Every message is a struct vfio_user_header followed by the struct named in the table, then its data.
 */
#ifndef VFIO_USER_H
#define VFIO_USER_H

#include <inttypes.h>
#include <stddef.h>
#include <linux/version.h>
#include <linux/vfio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How much data one message carries, unless VERSION agrees on something else. */
#define VFIO_USER_DEFAULT_MAX_DATA_XFER_SIZE (1024 * 1024)

enum vfio_user_message_type {
    VFIO_USER_MESSAGE_COMMAND = 0,
    VFIO_USER_MESSAGE_REPLY = 1,
};

/* C: the client asks the server; S: the server asks the client. */
enum vfio_user_command {
    VFIO_USER_VERSION = 1,                  /* C  vfio_user_version */
    VFIO_USER_DMA_MAP = 2,                  /* C  vfio_user_dma_map */
    VFIO_USER_DMA_UNMAP = 3,                /* C  vfio_user_dma_unmap */
    VFIO_USER_DEVICE_GET_INFO = 4,          /* C  vfio_user_device_info */
    VFIO_USER_DEVICE_GET_REGION_INFO = 5,   /* C  vfio_region_info of linux/vfio.h */
    VFIO_USER_DEVICE_GET_REGION_IO_FDS = 6, /* C  vfio_user_region_io_fds_request, _reply */
    VFIO_USER_DEVICE_GET_IRQ_INFO = 7,      /* C  vfio_irq_info of linux/vfio.h */
    VFIO_USER_DEVICE_SET_IRQS = 8,          /* C  vfio_irq_set of linux/vfio.h */
    VFIO_USER_REGION_READ = 9,              /* C  vfio_user_region_access */
    VFIO_USER_REGION_WRITE = 10,            /* C  vfio_user_region_access */
    VFIO_USER_DMA_READ = 11,                /* S  vfio_user_dma_region_access */
    VFIO_USER_DMA_WRITE = 12,               /* S  vfio_user_dma_region_access */
    VFIO_USER_DEVICE_RESET = 13,            /* C  nothing */
    VFIO_USER_REGION_WRITE_MULTI = 15,      /* C  several small writes */
    VFIO_USER_DEVICE_FEATURE = 16,          /* C  vfio_user_device_feature */
    VFIO_USER_MIG_DATA_READ = 17,           /* C  vfio_user_mig_data */
    VFIO_USER_MIG_DATA_WRITE = 18,          /* C  vfio_user_mig_data */
    VFIO_USER_MAX,
};

/* ---- the header ---- */

/* vfio_user_header.flags: the type, and two bits for commands and replies respectively. */
#define VFIO_USER_F_TYPE_MASK 0xf
#define VFIO_USER_F_TYPE_COMMAND 0x0
#define VFIO_USER_F_TYPE_REPLY 0x1
#define VFIO_USER_F_NO_REPLY 0x10 /* a command that wants no answer */
#define VFIO_USER_F_ERROR 0x20    /* a reply that says only error_no */

/* An older name, kept for programs that have it; it is not a bit of the header. */
#define VFIO_USER_FLAGS_NO_REPLY 0x1

struct vfio_user_header {
    uint16_t msg_id;   /* chosen by who asks, repeated in the reply */
    uint16_t cmd;      /* VFIO_USER_VERSION ... */
    uint32_t msg_size; /* of header and payload together */
    uint32_t flags;    /* VFIO_USER_F_* */
    uint32_t error_no; /* in a reply with VFIO_USER_F_ERROR: the errno */
} __attribute__((packed));

/* ---- VERSION, DEVICE_GET_INFO ---- */

struct vfio_user_version {
    uint16_t major;
    uint16_t minor;
    uint8_t data[]; /* capabilities: JSON text with its NUL, or nothing */
} __attribute__((packed));

struct vfio_user_device_info {
    uint32_t argsz;
    uint32_t flags; /* VFIO_DEVICE_FLAGS_* of linux/vfio.h */
    uint32_t num_regions;
    uint32_t num_irqs;
} __attribute__((packed));

/* ---- DMA ---- */

/* vfio_user_dma_map.flags */
#define VFIO_USER_F_DMA_REGION_READ (1 << 0)    /* the device may read */
#define VFIO_USER_F_DMA_REGION_WRITE (1 << 1)   /* the device may write */
#define VFIO_USER_F_DMA_REGION_MMAP (1 << 2)    /* map the descriptor */
#define VFIO_USER_F_DMA_REGION_FILE_IO (1 << 3) /* pread and pwrite the descriptor */

struct vfio_user_dma_map {
    uint32_t argsz;
    uint32_t flags;
    uint64_t offset; /* where the memory begins in the descriptor */
    uint64_t addr;   /* where the device sees it */
    uint64_t size;
} __attribute__((packed));

/* One bit for each page of pgsize bytes, lowest address first; size is that of data in bytes. */
struct vfio_user_bitmap {
    uint64_t pgsize;
    uint64_t size;
    char data[];
} __attribute__((packed));

/* vfio_user_dma_unmap.flags */
#ifndef VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP
#define VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP (1 << 0) /* a bitmap follows, in both directions */
#endif
#ifndef VFIO_DMA_UNMAP_FLAG_ALL
#define VFIO_DMA_UNMAP_FLAG_ALL (1 << 1) /* addr and size are 0 */
#endif

struct vfio_user_dma_unmap {
    uint32_t argsz;
    uint32_t flags;
    uint64_t addr;
    uint64_t size;
    struct vfio_user_bitmap bitmap[];
};

struct vfio_user_dma_region_access {
    uint64_t addr;
    uint64_t count;
    uint8_t data[];
} __attribute__((packed));

/* ---- regions and interrupts ---- */

struct vfio_user_region_access {
    uint64_t offset;
    uint32_t region;
    uint32_t count;
    uint8_t data[];
} __attribute__((packed));

struct vfio_user_irq_info {
    uint32_t subindex;
} __attribute__((packed));

typedef struct vfio_user_region_io_fds_request {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t count;
} __attribute__((packed)) vfio_user_region_io_fds_request_t;

/* The type field of both kinds of entries. */
#define VFIO_USER_IO_FD_TYPE_IOEVENTFD 0
#define VFIO_USER_IO_FD_TYPE_IOREGIONFD 1
#define VFIO_USER_IO_FD_TYPE_IOEVENTFD_SHADOW 2

typedef struct vfio_user_sub_region_ioeventfd {
    uint64_t gpa_offset; /* from the start of the region */
    uint64_t size;       /* 0: an access of any width */
    uint32_t fd_index;   /* which descriptor of the reply */
    uint32_t type;
    uint32_t flags; /* as KVM_IOEVENTFD has them */
    uint32_t shadow_mem_fd_index;
    uint64_t shadow_offset;
    uint64_t datamatch;
} __attribute__((packed)) vfio_user_sub_region_ioeventfd_t;

typedef struct vfio_user_sub_region_ioregionfd {
    uint64_t offset;
    uint64_t size;
    uint32_t fd_index;
    uint32_t type;
    uint32_t flags;
    uint32_t padding;
    uint64_t user_data;
} __attribute__((packed)) vfio_user_sub_region_ioregionfd_t;

typedef struct vfio_user_region_io_fds_reply {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t count;
    union sub_region {
        struct vfio_user_sub_region_ioeventfd ioeventfd;
        struct vfio_user_sub_region_ioregionfd ioregionfd;
    } sub_regions[];
} __attribute__((packed)) vfio_user_region_io_fds_reply_t;

/* ---- DEVICE_FEATURE: migration and the log of dirty pages ---- */

/* vfio_user_device_feature.flags: the number of the feature, and what is wanted of it. */
#ifndef VFIO_DEVICE_FEATURE_MASK
#define VFIO_DEVICE_FEATURE_MASK 0xffff
#endif
#ifndef VFIO_DEVICE_FEATURE_GET
#define VFIO_DEVICE_FEATURE_GET (1 << 16)
#endif
#ifndef VFIO_DEVICE_FEATURE_SET
#define VFIO_DEVICE_FEATURE_SET (1 << 17)
#endif
#ifndef VFIO_DEVICE_FEATURE_PROBE
#define VFIO_DEVICE_FEATURE_PROBE (1 << 18)
#endif

struct vfio_user_device_feature {
    uint32_t argsz;
    uint32_t flags;
    uint8_t data[];
} __attribute__((packed));

/* Features. Older kernel headers lack some, so each is defined here if need be. */
#ifndef VFIO_DEVICE_FEATURE_MIGRATION
#define VFIO_DEVICE_FEATURE_MIGRATION 1
#endif
#ifndef VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
#define VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE 2
#endif
#ifndef VFIO_DEVICE_FEATURE_DMA_LOGGING_START
#define VFIO_DEVICE_FEATURE_DMA_LOGGING_START 6
#endif
#ifndef VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP
#define VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP 7
#endif
#ifndef VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
#define VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT 8
#endif

/* vfio_user_device_feature_migration.flags */
#ifndef VFIO_MIGRATION_STOP_COPY
#define VFIO_MIGRATION_STOP_COPY (1 << 0)
#endif
#ifndef VFIO_MIGRATION_P2P
#define VFIO_MIGRATION_P2P (1 << 1)
#endif
#ifndef VFIO_MIGRATION_PRE_COPY
#define VFIO_MIGRATION_PRE_COPY (1 << 2)
#endif

struct vfio_user_device_feature_migration {
    uint64_t flags;
} __attribute__((packed));

/* vfio_user_device_feature_mig_state.device_state */
enum vfio_user_device_mig_state {
    VFIO_USER_DEVICE_STATE_ERROR = 0,
    VFIO_USER_DEVICE_STATE_STOP = 1,
    VFIO_USER_DEVICE_STATE_RUNNING = 2,
    VFIO_USER_DEVICE_STATE_STOP_COPY = 3,
    VFIO_USER_DEVICE_STATE_RESUMING = 4,
    VFIO_USER_DEVICE_STATE_RUNNING_P2P = 5,
    VFIO_USER_DEVICE_STATE_PRE_COPY = 6,
    VFIO_USER_DEVICE_STATE_PRE_COPY_P2P = 7,
    VFIO_USER_DEVICE_NUM_STATES = 8,
};

struct vfio_user_device_feature_mig_state {
    uint32_t device_state;
    uint32_t data_fd; /* unused: the data goes through MIG_DATA_READ and MIG_DATA_WRITE */
} __attribute__((packed));

struct vfio_user_device_feature_dma_logging_range {
    uint64_t iova;
    uint64_t length;
} __attribute__((packed));

struct vfio_user_device_feature_dma_logging_control {
    uint64_t page_size;
    uint32_t num_ranges;
    uint32_t reserved;
    struct vfio_user_device_feature_dma_logging_range ranges[];
} __attribute__((packed));

struct vfio_user_device_feature_dma_logging_report {
    uint64_t iova;
    uint64_t length;
    uint64_t page_size;
    uint8_t bitmap[];
} __attribute__((packed));

struct vfio_user_mig_data {
    uint32_t argsz;
    uint32_t size;
    uint8_t data[];
} __attribute__((packed));

#ifdef __cplusplus
}
#endif

#endif /* VFIO_USER_H */
