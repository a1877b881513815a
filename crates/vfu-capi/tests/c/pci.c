/* vfu_pci_*: configuration space and its capabilities. */
#include "device.h"

static struct {
    struct cap_hdr hdr;
    uint8_t size, data[5];
} vendor = {{PCI_CAP_ID_VNDR, 0}, 8, {0xa1, 0xa2, 0xa3, 0xa4, 0xa5}};

static struct pmcap pm = {.hdr = {PCI_CAP_ID_PM, 0}};
static struct dsncap dsn = {{PCI_EXT_CAP_ID_DSN, 1, 0}, 0x11223344, 0x55667788};

static void created(vfu_pci_type_t type)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(type);
}

CASE(pci_init_twice)
{
    created(VFU_PCI_TYPE_CONVENTIONAL);
    FAILS(vfu_pci_init(dev.ctx, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0), EEXIST);
    device_destroy();
}

CASE(pci_init_of_no_type)
{
    device_create(0);
    FAILS(vfu_pci_init(dev.ctx, (vfu_pci_type_t)9, PCI_HEADER_TYPE_NORMAL, 0), EINVAL);
    device_destroy();
}

CASE(pci_init_of_a_bridge)
{
    device_create(0);
    FAILS(vfu_pci_init(dev.ctx, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_BRIDGE, 0), EINVAL);
    device_destroy();
}

CASE(pci_ids_are_where_they_belong)
{
    created(VFU_PCI_TYPE_CONVENTIONAL);
    vfu_pci_set_class(dev.ctx, 0x01, 0x08, 0x02);
    device_connect(CAPABILITIES);
    EQ(config_read(PCI_VENDOR_ID, 2), 0x1234);
    EQ(config_read(PCI_DEVICE_ID, 2), 0x5678);
    EQ(config_read(PCI_SUBSYSTEM_VENDOR_ID, 2), 0x9abc);
    EQ(config_read(PCI_SUBSYSTEM_ID, 2), 0xdef0);
    EQ(config_read(PCI_CLASS_REVISION + 1, 1), 0x02);
    EQ(config_read(PCI_CLASS_DEVICE, 2), 0x0108);
    device_destroy();
}

CASE(pci_config_space_is_live)
{
    vfu_pci_config_space_t *config;

    device();
    config = vfu_pci_get_config_space(dev.ctx);
    config->hdr.intr.ipin = 3;
    config->hdr.sts.is = 1;
    EQ(config_read(PCI_INTERRUPT_PIN, 1), 3);
    EQ(config_read(PCI_STATUS, 2) & 8, 8);
    EQ(config_write(PCI_COMMAND, PCI_COMMAND_MASTER, 2), 0);
    EQ(config->hdr.cmd.bme, 1);
    EQ(config_write(PCI_INTERRUPT_LINE, 11, 1), 0);
    EQ(config->hdr.intr.iline, 11);
    CHECK(vfu_pci_get_config_space(dev.ctx) == config);
    device_destroy();
}

CASE(pci_config_space_of_conventional_pci_ends_at_256)
{
    device();
    EQ(config_read(0xfc, 4), 0);
    uint32_t value;
    EQ(region_read(VFU_PCI_DEV_CFG_REGION_IDX, 0x100, &value, 4), EINVAL);
    device_destroy();
}

CASE(pci_config_space_of_pci_express_ends_at_4096)
{
    uint32_t value;

    created(VFU_PCI_TYPE_EXPRESS);
    device_connect(CAPABILITIES);
    EQ(config_read(0xffc, 4), 0);
    EQ(region_read(VFU_PCI_DEV_CFG_REGION_IDX, 0x1000, &value, 4), EINVAL);
    device_destroy();
}

CASE(pci_bar_says_its_size)
{
    device();
    EQ(config_write(PCI_BASE_ADDRESS_0, 0xffffffff, 4), 0);
    EQ(config_read(PCI_BASE_ADDRESS_0, 4), 0xfffff000);
    EQ(config_write(PCI_BASE_ADDRESS_0, 0xfebd0000, 4), 0);
    EQ(config_read(PCI_BASE_ADDRESS_0, 4), 0xfebd0000);
    device_destroy();
}

CASE(pci_io_bar_says_what_it_is)
{
    created(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_setup_region(dev.ctx, VFU_PCI_DEV_BAR2_REGION_IDX, 256, NULL, VFU_REGION_FLAG_RW, NULL, 0, -1, 0), 0);
    device_connect(CAPABILITIES);
    EQ(config_write(PCI_BASE_ADDRESS_2, 0xffffffff, 4), 0);
    EQ(config_read(PCI_BASE_ADDRESS_2, 4), 0xffffff01);
    device_destroy();
}

CASE(pci_64_bit_bar_says_its_size_in_two_registers)
{
    const int flags = VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM | VFU_REGION_FLAG_64_BITS | VFU_REGION_FLAG_PREFETCH;

    created(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_setup_region(dev.ctx, VFU_PCI_DEV_BAR2_REGION_IDX, 1ull << 33, NULL, flags, NULL, 0, -1, 0), 0);
    device_connect(CAPABILITIES);
    EQ(config_write(PCI_BASE_ADDRESS_2, 0xffffffff, 4), 0);
    EQ(config_write(PCI_BASE_ADDRESS_3, 0xffffffff, 4), 0);
    EQ(config_read(PCI_BASE_ADDRESS_2, 4), 0xc);
    EQ(config_read(PCI_BASE_ADDRESS_3, 4), 0xfffffffe);
    device_destroy();
}

/* ---- capabilities ---- */

CASE(capability_finds_room_from_0x40_on)
{
    created(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_pci_add_capability(dev.ctx, 0, 0, &pm), 0x40);
    EQ(vfu_pci_add_capability(dev.ctx, 0, 0, &vendor), 0x48);
    EQ(vfu_pci_add_capability(dev.ctx, 0, 0, &vendor), 0x50);
    EQ(vfu_pci_add_capability(dev.ctx, 0xa0, 0, &vendor), 0xa0);
    device_connect(CAPABILITIES);
    EQ(config_read(PCI_CAPABILITY_LIST, 1), 0x40);
    EQ(config_read(0x40, 2), 0x4800 | PCI_CAP_ID_PM);
    EQ(config_read(0x48, 4), 0xa1085000 | PCI_CAP_ID_VNDR);
    EQ(config_read(0x50, 2), 0xa000 | PCI_CAP_ID_VNDR);
    EQ(config_read(0xa0, 2), PCI_CAP_ID_VNDR);
    EQ(config_read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, PCI_STATUS_CAP_LIST);
    device_destroy();
}

CASE(capability_positions_that_can_not_be)
{
    created(VFU_PCI_TYPE_CONVENTIONAL);
    FAILS(vfu_pci_add_capability(dev.ctx, 0x10, 0, &vendor), EINVAL);
    FAILS(vfu_pci_add_capability(dev.ctx, 0xfc, 0, &vendor), EINVAL);
    FAILS(vfu_pci_add_capability(dev.ctx, 0x100, 0, &vendor), EINVAL);
    FAILS(vfu_pci_add_capability(dev.ctx, 0x8000, 0, &vendor), EINVAL);
    EQ(vfu_pci_add_capability(dev.ctx, 0x60, 0, &vendor), 0x60);
    FAILS(vfu_pci_add_capability(dev.ctx, 0x60, 0, &vendor), EINVAL);
    FAILS(vfu_pci_add_capability(dev.ctx, 0x64, 0, &vendor), EINVAL);
    device_destroy();
}

CASE(capability_of_an_unknown_kind)
{
    struct cap_hdr unknown = {0x77, 0};
    struct pcie_ext_cap_hdr extended = {0x777, 1, 0};

    created(VFU_PCI_TYPE_EXPRESS);
    FAILS(vfu_pci_add_capability(dev.ctx, 0, 0, &unknown), ENOTSUP);
    FAILS(vfu_pci_add_capability(dev.ctx, 0, VFU_CAP_FLAG_EXTENDED, &extended), ENOTSUP);
    device_destroy();
}

CASE(capability_flags_that_do_not_go_together)
{
    created(VFU_PCI_TYPE_EXPRESS);
    FAILS(vfu_pci_add_capability(dev.ctx, 0, 1 << 12, &vendor), EINVAL);
    FAILS(vfu_pci_add_capability(dev.ctx, 0, VFU_CAP_FLAG_CALLBACK, &vendor), EINVAL); /* no callback */
    device_destroy();
}

CASE(capabilities_until_there_is_no_room)
{
    int count = 0;

    created(VFU_PCI_TYPE_CONVENTIONAL);
    while (vfu_pci_add_capability(dev.ctx, 0, 0, &vendor) > 0)
        count++;
    EQ(errno, ENOSPC);
    CHECK(count >= 20 && count <= 24);
    device_destroy();
}

CASE(extended_capabilities_begin_at_0x100)
{
    uint8_t data[16];

    created(VFU_PCI_TYPE_EXPRESS);
    EQ(vfu_pci_add_capability(dev.ctx, 0, VFU_CAP_FLAG_EXTENDED, &dsn), 0x100);
    EQ(vfu_pci_add_capability(dev.ctx, 0x200, VFU_CAP_FLAG_EXTENDED, &dsn), 0x200);
    device_connect(CAPABILITIES);
    EQ(region_read(VFU_PCI_DEV_CFG_REGION_IDX, 0x100, data, 12), 0);
    EQ(config_read(0x100, 4), 0x20010003);
    EQ(memcmp(data + 4, "\x44\x33\x22\x11\x88\x77\x66\x55", 8), 0);
    EQ(config_read(0x200, 4), 0x00010003);
    EQ(config_write(0x104, 1, 4), EPERM);
    device_destroy();
}

CASE(extended_capabilities_need_extended_space)
{
    created(VFU_PCI_TYPE_CONVENTIONAL);
    FAILS(vfu_pci_add_capability(dev.ctx, 0, VFU_CAP_FLAG_EXTENDED, &dsn), EINVAL);
    device_destroy();
}

CASE(capability_is_found)
{
    created(VFU_PCI_TYPE_EXPRESS);
    EQ(vfu_pci_find_capability(dev.ctx, false, PCI_CAP_ID_PM), 0);
    EQ(errno, ENOENT);
    EQ(vfu_pci_add_capability(dev.ctx, 0x44, 0, &pm), 0x44);
    EQ(vfu_pci_add_capability(dev.ctx, 0x60, 0, &vendor), 0x60);
    EQ(vfu_pci_add_capability(dev.ctx, 0x80, 0, &vendor), 0x80);
    EQ(vfu_pci_add_capability(dev.ctx, 0x100, VFU_CAP_FLAG_EXTENDED, &dsn), 0x100);
    EQ(vfu_pci_find_capability(dev.ctx, false, PCI_CAP_ID_PM), 0x44);
    EQ(vfu_pci_find_capability(dev.ctx, false, PCI_CAP_ID_VNDR), 0x60);
    EQ(vfu_pci_find_next_capability(dev.ctx, false, 0x60, PCI_CAP_ID_VNDR), 0x80);
    EQ(vfu_pci_find_next_capability(dev.ctx, false, 0x80, PCI_CAP_ID_VNDR), 0);
    EQ(errno, ENOENT);
    EQ(vfu_pci_find_capability(dev.ctx, true, PCI_EXT_CAP_ID_DSN), 0x100);
    EQ(vfu_pci_find_capability(dev.ctx, true, PCI_EXT_CAP_ID_VNDR), 0);
    EQ(errno, ENOENT);
    device_destroy();
}

CASE(capability_behind_no_capability)
{
    created(VFU_PCI_TYPE_EXPRESS);
    EQ(vfu_pci_add_capability(dev.ctx, 0x60, 0, &vendor), 0x60);
    errno = 0;
    EQ(vfu_pci_find_next_capability(dev.ctx, false, 0x61, PCI_CAP_ID_VNDR), 0);
    EQ(errno, ENOENT);
    errno = 0;
    EQ(vfu_pci_find_next_capability(dev.ctx, false, 4096, PCI_CAP_ID_VNDR), 0);
    EQ(errno, EINVAL);
    errno = 0;
    EQ(vfu_pci_find_next_capability(dev.ctx, true, 8192, PCI_EXT_CAP_ID_VNDR), 0);
    EQ(errno, EINVAL);
    device_destroy();
}

CASE(capability_vendor_is_written_by_the_client)
{
    created(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_pci_add_capability(dev.ctx, 0x40, 0, &vendor), 0x40);
    EQ(vfu_pci_add_capability(dev.ctx, 0x60, VFU_CAP_FLAG_READONLY, &vendor), 0x60);
    device_connect(CAPABILITIES);
    EQ(config_write(0x44, 0x01020304, 4), 0);
    EQ(config_read(0x44, 4), 0x01020304);
    EQ(config_write(0x64, 0x01020304, 4), EPERM);
    EQ(config_read(0x64, 4), 0xa5a4a3a2);
    EQ(config_write(0x40, 0, 2), EPERM); /* the head is never the client's */
    device_destroy();
}

CASE(capability_pm_takes_a_power_state)
{
    created(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_pci_add_capability(dev.ctx, 0x40, 0, &pm), 0x40);
    device_connect(CAPABILITIES);
    EQ(config_write(0x40 + PCI_PM_CTRL, 3, 2), 0);
    EQ(config_read(0x40 + PCI_PM_CTRL, 2) & 3, 3);
    device_destroy();
}

CASE(capability_msix_takes_its_two_bits)
{
    struct msixcap msix = {.hdr = {PCI_CAP_ID_MSIX, 0}, .mxc = {.ts = 3}, .mpba = {.pbao = 0x100}};

    created(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_pci_add_capability(dev.ctx, 0x40, 0, &msix), 0x40);
    device_connect(CAPABILITIES);
    EQ(config_write(0x42, 0xffff, 2), 0);
    EQ(config_read(0x42, 2), PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL | 3);
    EQ(config_write(0x43, PCI_MSIX_FLAGS_ENABLE >> 8, 1), 0);
    EQ(config_read(0x42, 2), PCI_MSIX_FLAGS_ENABLE | 3);
    device_destroy();
}

CASE(capability_after_a_client_has_come)
{
    device();
    EQ(vfu_pci_add_capability(dev.ctx, 0, 0, &vendor), 0x40);
    EQ(config_read(PCI_CAPABILITY_LIST, 1), 0x40);
    device_destroy();
}

static void pcie_with_flr(void)
{
    struct pxcap px = {.hdr = {PCI_CAP_ID_EXP, 0}, .pxcaps = {.ver = 2}, .pxdcap = {.flrc = 1}};

    created(VFU_PCI_TYPE_EXPRESS);
    EQ(vfu_pci_add_capability(dev.ctx, 0x40, 0, &px), 0x40);
    device_connect(CAPABILITIES);
}

CASE(function_level_reset_reaches_the_device)
{
    pcie_with_flr();
    EQ(config_write(0x40 + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR, 2), 0);
    EQ(dev.resets[VFU_RESET_PCI_FLR], 1);
    EQ(dev.quiesces, 1);
    EQ(config_read(0x40 + PCI_EXP_DEVCTL, 2) & PCI_EXP_DEVCTL_BCR_FLR, 0);
    device_destroy();
}

static void refuse_reset(void)
{
    errno = EIO;
}

CASE(function_level_reset_that_the_device_refuses)
{
    pcie_with_flr();
    dev.on_reset = refuse_reset;
    dev.reset_result = -1;
    EQ(config_write(0x40 + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR, 2), EIO);
    dev.reset_result = 0;
    device_destroy();
}

/* ---- the callback of configuration space ---- */

static struct access_seen config_seen;
static int config_calls;

static ssize_t config_cb(vfu_ctx_t *ctx, char *buf, size_t count, int64_t offset, bool is_write)
{
    (void)ctx;
    config_seen = (struct access_seen){count, offset, is_write};
    config_calls++;
    if (!is_write)
        memset(buf, 0xcb, count);
    return count;
}

static void with_config_cb(int flags)
{
    created(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_setup_region(dev.ctx, VFU_PCI_DEV_CFG_REGION_IDX, PCI_CFG_SPACE_SIZE, config_cb, VFU_REGION_FLAG_RW | flags, NULL,
                        0, -1, 0),
       0);
    EQ(vfu_pci_add_capability(dev.ctx, 0x40, 0, &vendor), 0x40);
    EQ(vfu_pci_add_capability(dev.ctx, 0x60, VFU_CAP_FLAG_CALLBACK, &vendor), 0x60);
    device_connect(CAPABILITIES);
}

CASE(config_callback_gets_what_is_neither_header_nor_capability)
{
    with_config_cb(0);
    EQ(config_read(0, 4), 0x56781234);
    EQ(config_read(0x44, 1), 0xa2);
    EQ(config_calls, 0);
    EQ(config_read(0x80, 4), 0xcbcbcbcb);
    EQ(config_seen.offset, 0x80);
    EQ(config_seen.count, 4);
    EQ(config_write(0x90, 1, 2), 0);
    EQ(config_seen.offset, 0x90);
    EQ(config_seen.is_write, true);
    device_destroy();
}

CASE(config_callback_gets_a_capability_that_is_given_to_it)
{
    with_config_cb(0);
    EQ(config_read(0x64, 4), 0xcbcbcbcb);
    EQ(config_write(0x64, 5, 4), 0);
    EQ(config_seen.offset, 0x64);
    device_destroy();
}

CASE(config_callback_that_wants_all)
{
    with_config_cb(VFU_REGION_FLAG_ALWAYS_CB);
    EQ(config_read(0, 4), 0xcbcbcbcb);
    EQ(config_write(PCI_COMMAND, 2, 2), 0);
    EQ(config_calls, 2);
    device_destroy();
}

CASE(config_write_where_nothing_is)
{
    device();
    EQ(config_write(0x80, 1, 4) != 0, true);
    EQ(config_read(0x80, 4), 0);
    device_destroy();
}
