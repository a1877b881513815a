/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What all capabilities begin with, and those that a vendor fills. */
#ifndef LIB_VFIO_USER_PCI_CAPS_COMMON_H
#define LIB_VFIO_USER_PCI_CAPS_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <linux/pci_regs.h>

/* A layout that a compiler does not get right is an error here, in C and in C++. */
#ifndef VFU_LAYOUT_CHECK
#ifdef __cplusplus
#define VFU_LAYOUT_CHECK(is_so) static_assert(is_so, #is_so)
#else
#define VFU_LAYOUT_CHECK(is_so) _Static_assert(is_so, #is_so)
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct cap_hdr {
    uint8_t id;   /* PCI_CAP_ID_* */
    uint8_t next; /* set by vfu_pci_add_capability() */
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct cap_hdr) == 2);

/* PCI_CAP_ID_VNDR; size counts the whole capability. */
struct vsc {
    struct cap_hdr hdr;
    uint8_t size;
    uint8_t data[];
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct vsc) == 3);

/* The same for capabilities from 0x100 on (PCI Express 7.6.3). */
struct pcie_ext_cap_hdr {
    uint32_t id : 16; /* PCI_EXT_CAP_ID_* */
    uint32_t version : 4;
    uint32_t next : 12;
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct pcie_ext_cap_hdr) == 4);

/* PCI_EXT_CAP_ID_VNDR; len counts the whole capability. */
struct pcie_ext_cap_vsc_hdr {
    struct pcie_ext_cap_hdr hdr;
    uint32_t id : 16;
    uint32_t rev : 4;
    uint32_t len : 12;
    uint8_t data[];
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct pcie_ext_cap_vsc_hdr) == 8);

#ifdef __cplusplus
}
#endif

#endif /* LIB_VFIO_USER_PCI_CAPS_COMMON_H */
