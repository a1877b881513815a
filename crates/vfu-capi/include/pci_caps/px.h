/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * PCI Express: PCI_CAP_ID_EXP. The registers of PCI Express 7.5.3, in order. An endpoint has no use for those of slots
 * and roots; they are here because the capability that includes them all is what programs add.
 */
#ifndef LIB_VFIO_USER_PCI_CAPS_PX_H
#define LIB_VFIO_USER_PCI_CAPS_PX_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Its size. linux/pci_regs.h has several, each with other registers left out. */
#define VFIO_USER_PCI_CAP_EXP_SIZEOF 0x3c

/* A register without named fields. */
#define VFU_PX_PLAIN16(name)                                                                                           \
    struct name {                                                                                                      \
        uint16_t stuff : 16;                                                                                           \
    } __attribute__((packed))
#define VFU_PX_PLAIN32(name)                                                                                           \
    struct name {                                                                                                      \
        uint32_t stuff : 32;                                                                                           \
    } __attribute__((packed))

/* ---- device ---- */

/* Capabilities */
struct pxcaps {
    uint16_t ver : 4; /* version */
    uint16_t dpt : 4; /* device or port type */
    uint16_t si : 1;  /* slot implemented */
    uint16_t imn : 5; /* interrupt message number */
    uint16_t res1 : 2;
} __attribute__((packed));

/* Device capabilities */
struct pxdcap {
    uint32_t mps : 3;  /* max payload, 128 << mps */
    uint32_t pfs : 2;  /* phantom functions */
    uint32_t etfs : 1; /* extended tags */
    uint32_t l0sl : 3; /* L0s latency */
    uint32_t l1l : 3;  /* L1 latency */
    uint32_t res1 : 3;
    uint32_t rer : 1; /* role-based error reporting */
    uint32_t res2 : 2;
    uint32_t csplv : 8; /* slot power limit */
    uint32_t cspls : 2; /* and its scale */
    uint32_t flrc : 1;  /* function level reset */
    uint32_t res3 : 3;
} __attribute__((packed));

/* Device control */
union pxdc {
    uint16_t raw;
    struct {
        uint16_t cere : 1;  /* report correctable errors */
        uint16_t nfere : 1; /* non-fatal errors */
        uint16_t fere : 1;  /* fatal errors */
        uint16_t urre : 1;  /* unsupported requests */
        uint16_t ero : 1;   /* relaxed ordering */
        uint16_t mps : 3;   /* max payload */
        uint16_t ete : 1;   /* extended tags */
        uint16_t pfe : 1;   /* phantom functions */
        uint16_t appme : 1; /* auxiliary power */
        uint16_t ens : 1;   /* no snoop */
        uint16_t mrrs : 3;  /* max read request */
        uint16_t iflr : 1;  /* a 1 starts a function level reset; reads as 0 */
    } __attribute__((packed));
} __attribute__((packed));

VFU_PX_PLAIN16(pxds); /* device status */

/* ---- link ---- */

VFU_PX_PLAIN32(pxlcap); /* link capabilities */

/* Link control */
union pxlc {
    uint16_t raw;
    struct {
        uint16_t aspmc : 2; /* ASPM */
        uint16_t rsvdp1 : 1;
        uint16_t rcb : 1;       /* read completion boundary */
        uint16_t ld : 1;        /* disable */
        uint16_t rl : 1;        /* retrain */
        uint16_t ccc : 1;       /* common clock */
        uint16_t es : 1;        /* extended synch */
        uint16_t clkreq_en : 1; /* clock power management */
        uint16_t hawd : 1;      /* no autonomous width */
        uint16_t lbmie : 1;     /* bandwidth management interrupt */
        uint16_t labie : 1;     /* autonomous bandwidth interrupt */
        uint16_t rsvdp2 : 4;
    };
} __attribute__((packed));

VFU_PX_PLAIN16(pxls); /* link status */

/* ---- slot and root ---- */

VFU_PX_PLAIN32(pxscap); /* slot capabilities */
VFU_PX_PLAIN16(pxsc);   /* slot control */
VFU_PX_PLAIN16(pxss);   /* slot status */
VFU_PX_PLAIN16(pxrc);   /* root control */
VFU_PX_PLAIN16(pxrcap); /* root capabilities */
VFU_PX_PLAIN32(pxrs);   /* root status */

/* ---- the second set ---- */

/* Device capabilities 2: the fields of all versions together */
struct pxdcap2 {
    uint32_t ctrs : 4;   /* completion timeout ranges */
    uint32_t ctds : 1;   /* completion timeout can be disabled */
    uint32_t arifs : 1;  /* ARI forwarding */
    uint32_t aors : 1;   /* atomic operations: routing */
    uint32_t aocs32 : 1; /* 32 bits */
    uint32_t aocs64 : 1; /* 64 bits */
    uint32_t ccs128 : 1; /* 128-bit compare and swap */
    uint32_t nprpr : 1;  /* no relaxed-ordering passing */
    uint32_t ltrs : 1;   /* latency tolerance reporting */
    uint32_t tphcs : 2;  /* TPH completer */
    uint32_t ln : 2;     /* lightweight notification */
    uint32_t tcs : 1;    /* 10-bit tags, completer */
    uint32_t trs : 1;    /* 10-bit tags, requester */
    uint32_t obffs : 2;  /* OBFF */
    uint32_t effs : 1;   /* extended fmt field */
    uint32_t eetps : 1;  /* end-to-end TLP prefixes */
    uint32_t meetp : 2;  /* and how many */
    uint32_t eprs : 2;   /* emergency power reduction */
    uint32_t eprir : 1;  /* needs initialisation after it */
    uint32_t res1 : 1;
    uint32_t dmwcs : 1; /* deferrable memory writes, completer */
    uint32_t dmwls : 2; /* and their length */
    uint32_t frss : 1;  /* FRS */
} __attribute__((packed));

/* Device control 2 */
union pxdc2 {
    uint16_t raw;
    struct {
        uint32_t comp_timeout : 4;
        uint32_t comp_timout_dis : 1; /* spelled like this in every program that uses it */
        uint32_t ari : 1;
        uint32_t atomic_req : 1;
        uint32_t atomic_egress_block : 1;
        uint32_t ido_req_en : 1;
        uint32_t ido_cmp_en : 1;
        uint32_t ltr_en : 1;
        uint32_t obff_en : 2;
        uint32_t end_end_tlp_prefix_block : 1;
    } __attribute__((packed));
} __attribute__((packed));

VFU_PX_PLAIN16(pxds2);   /* device status 2 */
VFU_PX_PLAIN32(pxlcap2); /* link capabilities 2 */
VFU_PX_PLAIN16(pxlc2);   /* link control 2 */
VFU_PX_PLAIN16(pxls2);   /* link status 2 */
VFU_PX_PLAIN32(pxscap2); /* slot capabilities 2 */
VFU_PX_PLAIN16(pxsc2);   /* slot control 2 */
VFU_PX_PLAIN16(pxss2);   /* slot status 2 */

#undef VFU_PX_PLAIN16
#undef VFU_PX_PLAIN32

struct pxcap {
    struct cap_hdr hdr;     /* 0x00 */
    struct pxcaps pxcaps;   /* 0x02 */
    struct pxdcap pxdcap;   /* 0x04 */
    union pxdc pxdc;        /* 0x08 */
    struct pxds pxds;       /* 0x0a */
    struct pxlcap pxlcap;   /* 0x0c */
    union pxlc pxlc;        /* 0x10 */
    struct pxls pxls;       /* 0x12 */
    struct pxscap pxscap;   /* 0x14 */
    struct pxsc pxsc;       /* 0x18 */
    struct pxss pxss;       /* 0x1a */
    struct pxrc pxrc;       /* 0x1c */
    struct pxrcap pxrcap;   /* 0x1e */
    struct pxrs pxrs;       /* 0x20 */
    struct pxdcap2 pxdcap2; /* 0x24 */
    union pxdc2 pxdc2;      /* 0x28 */
    struct pxds2 pxds2;     /* 0x2a */
    struct pxlcap2 pxlcap2; /* 0x2c */
    struct pxlc2 pxlc2;     /* 0x30 */
    struct pxls2 pxls2;     /* 0x32 */
    struct pxscap2 pxscap2; /* 0x34 */
    struct pxsc2 pxsc2;     /* 0x38 */
    struct pxss2 pxss2;     /* 0x3a */
} __attribute__((packed));
VFU_LAYOUT_CHECK(sizeof(struct pxcap) == VFIO_USER_PCI_CAP_EXP_SIZEOF);

#ifdef __cplusplus
}
#endif

#endif /* LIB_VFIO_USER_PCI_CAPS_PX_H */
