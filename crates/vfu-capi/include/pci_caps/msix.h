/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* MSI-X, whose table and pending bits are in a BAR: PCI_CAP_ID_MSIX. */
#ifndef LIB_VFIO_USER_PCI_CAPS_MSIX_H
#define LIB_VFIO_USER_PCI_CAPS_MSIX_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Message control. The client writes fm and mxe. */
struct mxc {
    uint16_t ts : 11; /* vectors, less one */
    uint16_t reserved : 3;
    uint16_t fm : 1;  /* all vectors masked */
    uint16_t mxe : 1; /* enabled */
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct mxc) == 2);

/* Where the table is: the BAR, and the offset in it in units of 8 bytes. */
struct mtab {
    uint32_t tbir : 3;
    uint32_t to : 29;
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct mtab) == 4);

/* Where the pending bits are, likewise. */
struct mpba {
    uint32_t pbir : 3;
    uint32_t pbao : 29;
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct mpba) == 4);

struct msixcap {
    struct cap_hdr hdr;
    struct mxc mxc;
    struct mtab mtab;
    struct mpba mpba;
} __attribute__((packed, aligned(4)));
VFU_LAYOUT_CHECK(sizeof(struct msixcap) == PCI_CAP_MSIX_SIZEOF);

#ifdef __cplusplus
}
#endif

#endif /* LIB_VFIO_USER_PCI_CAPS_MSIX_H */
