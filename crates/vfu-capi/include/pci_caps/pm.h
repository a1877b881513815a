/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Power management: PCI_CAP_ID_PM. */
#ifndef LIB_VFIO_USER_PCI_CAPS_PM_H
#define LIB_VFIO_USER_PCI_CAPS_PM_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Capabilities, read only. */
struct pc {
    uint16_t vs : 3;   /* version */
    uint16_t pmec : 1; /* PME needs the clock */
    uint16_t res : 1;
    uint16_t dsi : 1;  /* needs initialisation of its own */
    uint16_t auxc : 3; /* auxiliary current */
    uint16_t d1s : 1;  /* has D1 */
    uint16_t d2s : 1;  /* has D2 */
    uint16_t psup : 5; /* states from which PME can be raised */
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct pc) == 2);

/* Control and status, written by the client. */
struct pmcs {
    union {
        uint16_t raw;
        struct {
            uint16_t ps : 2; /* power state, D0 to D3 */
            uint16_t res1 : 1;
            uint16_t nsfrst : 1; /* no soft reset from D3 to D0 */
            uint16_t res2 : 4;
            uint16_t pmee : 1; /* PME enabled */
            uint16_t dse : 4;  /* data select */
            uint16_t dsc : 2;  /* data scale */
            uint16_t pmes : 1; /* PME status */
        };
    };
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct pmcs) == 2);

struct pmcap {
    struct cap_hdr hdr;
    struct pc pc;
    struct pmcs pmcs;
    uint8_t pmcsr_bse;
    uint8_t data;
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct pmcap) == PCI_PM_SIZEOF);

#ifdef __cplusplus
}
#endif

#endif /* LIB_VFIO_USER_PCI_CAPS_PM_H */
