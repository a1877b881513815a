/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Message signalled interrupts with 64-bit addresses and a mask: PCI_CAP_ID_MSI. */
#ifndef LIB_VFIO_USER_PCI_CAPS_MSI_H
#define LIB_VFIO_USER_PCI_CAPS_MSI_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

#define VFIO_USER_PCI_CAP_MSI_SIZEOF 0x18

/* Message control. The client writes msie and mme; the rest is the device's. */
struct mc {
    unsigned int msie : 1; /* enabled */
    unsigned int mmc : 3;  /* vectors the device can have, as a power of 2 */
    unsigned int mme : 3;  /* vectors the client allows, as a power of 2 */
    unsigned int c64 : 1;  /* 64-bit addresses */
    unsigned int pvm : 1;  /* a mask bit for each vector */
    unsigned int res1 : 7;
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct mc) == 2);

/* Message address, low half; its two lowest bits are 0. */
struct ma {
    unsigned int res1 : 2;
    unsigned int addr : 30;
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct ma) == 4);

struct msicap {
    struct cap_hdr hdr;
    struct mc mc;
    struct ma ma;
    uint32_t mua; /* message address, high half */
    uint16_t md;  /* message data */
    uint16_t padding;
    uint32_t mmask; /* masked vectors, written by the client */
    uint32_t mpend; /* pending vectors, read only */
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct msicap) == VFIO_USER_PCI_CAP_MSI_SIZEOF);

#ifdef __cplusplus
}
#endif

#endif /* LIB_VFIO_USER_PCI_CAPS_MSI_H */
