/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Device serial number, an extended capability: PCI_EXT_CAP_ID_DSN. */
#ifndef LIB_VFIO_USER_PCI_CAPS_DSN_H
#define LIB_VFIO_USER_PCI_CAPS_DSN_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

struct dsncap {
    struct pcie_ext_cap_hdr hdr;
    uint32_t sn_lo;
    uint32_t sn_hi;
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct dsncap) == PCI_EXT_CAP_DSN_SIZEOF);

#ifdef __cplusplus
}
#endif

#endif /* LIB_VFIO_USER_PCI_CAPS_DSN_H */
