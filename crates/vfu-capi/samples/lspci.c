/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * lspci: makes a device with every capability that the library knows, and prints its configuration space as `lspci -xxxx`
 * does, so that `lspci -vv -F FILE` explains it.
 */
#define _GNU_SOURCE 1
#include <err.h>
#include <stdio.h>
#include <string.h>

#include <libvfio-user.h>

static void add(vfu_ctx_t *ctx, size_t position, int flags, void *capability)
{
    if (vfu_pci_add_capability(ctx, position, flags, capability) < 0)
        err(1, "a capability does not fit");
}

static void add_conventional(vfu_ctx_t *ctx)
{
    struct pmcap pm;
    struct pxcap px;
    struct msicap msi;
    struct msixcap msix;
    unsigned char vendor[12] = {PCI_CAP_ID_VNDR, 0, sizeof(vendor), 'v', 'f', 'u', 1, 2, 3, 4, 5, 6};

    memset(&pm, 0, sizeof(pm));
    pm.hdr.id = PCI_CAP_ID_PM;
    pm.pc.vs = 3;
    pm.pmcs.nsfrst = 1;
    add(ctx, 0, 0, &pm);

    memset(&px, 0, sizeof(px));
    px.hdr.id = PCI_CAP_ID_EXP;
    px.pxcaps.ver = 2;
    px.pxdcap.rer = 1;
    px.pxdcap.flrc = 1;
    px.pxdcap2.ctds = 1;
    add(ctx, 0, 0, &px);

    memset(&msi, 0, sizeof(msi));
    msi.hdr.id = PCI_CAP_ID_MSI;
    msi.mc.c64 = 1;
    msi.mc.mmc = 3;
    add(ctx, 0, 0, &msi);

    memset(&msix, 0, sizeof(msix));
    msix.hdr.id = PCI_CAP_ID_MSIX;
    msix.mxc.ts = 15;
    msix.mtab.tbir = 4;
    msix.mpba.pbir = 4;
    msix.mpba.pbao = 0x800 >> 3;
    add(ctx, 0, VFU_CAP_FLAG_READONLY, &msix);

    add(ctx, 0xf0, 0, vendor);
}

static void add_extended(vfu_ctx_t *ctx)
{
    struct dsncap dsn;
    struct pcie_ext_cap_vsc_hdr vendor[2]; /* the second one is room for data */

    memset(&dsn, 0, sizeof(dsn));
    dsn.hdr.id = PCI_EXT_CAP_ID_DSN;
    dsn.hdr.version = 1;
    dsn.sn_lo = 0x76543210;
    dsn.sn_hi = 0xfedcba98;
    add(ctx, 0, VFU_CAP_FLAG_EXTENDED, &dsn);

    memset(vendor, 0, sizeof(vendor));
    vendor[0].hdr.id = PCI_EXT_CAP_ID_VNDR;
    vendor[0].hdr.version = 1;
    vendor[0].id = 0x1234;
    vendor[0].rev = 1;
    vendor[0].len = sizeof(vendor);
    memcpy(&vendor[1], "vfu data", sizeof(vendor[1]));
    add(ctx, 0, VFU_CAP_FLAG_EXTENDED, vendor);
}

int main(void)
{
    /* Nobody will connect, so any address does: the kernel chooses one. */
    vfu_ctx_t *ctx = vfu_create_ctx(VFU_TRANS_SOCK, "", 0, NULL, VFU_DEV_TYPE_PCI);
    const unsigned char *bytes;

    if (ctx == NULL)
        err(1, "vfu_create_ctx");
    if (vfu_pci_init(ctx, VFU_PCI_TYPE_EXPRESS, PCI_HEADER_TYPE_NORMAL, 1) != 0)
        err(1, "vfu_pci_init");
    vfu_pci_set_id(ctx, 0x1234, 0x00fe, 0x1234, 0x0001);
    vfu_pci_set_class(ctx, 0x08, 0x80, 0);
    if (vfu_setup_region(ctx, VFU_PCI_DEV_BAR4_REGION_IDX, 4096, NULL, VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM, NULL, 0,
                         -1, 0) != 0)
        err(1, "vfu_setup_region");
    if (vfu_setup_device_nr_irqs(ctx, VFU_DEV_INTX_IRQ, 1) != 0 || vfu_setup_device_nr_irqs(ctx, VFU_DEV_MSIX_IRQ, 16) != 0)
        err(1, "vfu_setup_device_nr_irqs");
    add_conventional(ctx);
    add_extended(ctx);
    if (vfu_realize_ctx(ctx) != 0)
        err(1, "vfu_realize_ctx");

    bytes = (const unsigned char *)vfu_pci_get_config_space(ctx);
    printf("00:00.0 a device of libvfio-user\n");
    for (int at = 0; at < 0x140; at += 16) {
        printf("%02x:", at);
        for (int i = 0; i < 16; i++)
            printf(" %02x", bytes[at + i]);
        printf("\n");
    }
    /* Each capability is found again, one behind the other. */
    for (size_t at = vfu_pci_find_capability(ctx, true, PCI_EXT_CAP_ID_VNDR); at != 0;
         at = vfu_pci_find_next_capability(ctx, true, at, PCI_EXT_CAP_ID_VNDR))
        fprintf(stderr, "vendor's extended capability at %#zx\n", at);
    vfu_destroy_ctx(ctx);
    return 0;
}
