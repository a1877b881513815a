/*
 * Defects of the C library that this one must not have, D11 to D18: memory that is read or written beyond its end, also
 * under valgrind and AddressSanitizer.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"

static void device_with_caps(void)
{
    struct {
        struct cap_hdr hdr;
        uint8_t size, data[5];
    } plain = {{PCI_CAP_ID_VNDR, 0}, 8, {1, 2, 3, 4, 5}}, fixed = {{PCI_CAP_ID_VNDR, 0}, 8, {6, 7, 8, 9, 10}};
    struct msicap msi = {.hdr = {PCI_CAP_ID_MSI, 0}, .mc = {.mmc = 1, .c64 = 1, .pvm = 1}};
    struct msixcap msix = {.hdr = {PCI_CAP_ID_MSIX, 0}, .mxc = {.ts = 3}};

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_pci_add_capability(dev.ctx, 0x40, 0, &plain), 0x40);
    EQ(vfu_pci_add_capability(dev.ctx, 0, VFU_CAP_FLAG_READONLY, &fixed), 0x48);
    EQ(vfu_pci_add_capability(dev.ctx, 0x60, 0, &msi), 0x60);
    EQ(vfu_pci_add_capability(dev.ctx, 0x80, 0, &msix), 0x80);
    device_connect(CAPABILITIES);
}

CASE(d11_a_write_stops_before_a_read_only_capability)
{
    uint8_t ones[10], *config;

    device_with_caps();
    memset(ones, 0xff, sizeof(ones));
    region_write(VFU_PCI_DEV_CFG_REGION_IDX, 0x44, ones, sizeof(ones));
    config = (uint8_t *)vfu_pci_get_config_space(dev.ctx);
    EQ(config[0x48], PCI_CAP_ID_VNDR);
    EQ(config[0x49], 0x60);
    EQ(config[0x4a], 8);
    EQ(config[0x4b], 6);
    EQ(config[0x4d], 8);
    device_destroy();
}

static void long_write(uint32_t offset, uint32_t capability, uint32_t next)
{
    uint8_t ones[100], *config;

    device_with_caps();
    memset(ones, 0xff, sizeof(ones));
    region_write(VFU_PCI_DEV_CFG_REGION_IDX, offset, ones, sizeof(ones));
    config = (uint8_t *)vfu_pci_get_config_space(dev.ctx);
    EQ(config[capability + 1], next);
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

CASE(d11_a_long_write_into_msi) { long_write(0x6a, 0x60, 0x80); }
CASE(d11_a_long_write_into_msix) { long_write(0x84, 0x80, 0); }

CASE(d12_an_unmap_without_the_bitmap_it_promises)
{
    struct vfio_user_dma_unmap unmap = {1024, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, RAM_AT, RAM_SIZE};

    device();
    map_ram(memory(RAM_SIZE));
    EQ(call(VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap), NULL, 0, NULL), EINVAL);
    EQ(dev.unmaps, 0);
    EQ(dma_unmap(RAM_AT, RAM_SIZE), 0);
    device_destroy();
}

static void short_feature(uint32_t flags, size_t len, uint32_t argsz)
{
    uint8_t data[32] = {0};

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_migratable();
    device_connect(CAPABILITIES);
    EQ(feature(flags, data, len, argsz, NULL), EINVAL);
    EQ(dev.transitions, 0);
    device_destroy();
}

CASE(d13_a_state_to_set_that_is_missing)
{
    short_feature(VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, 0, 16);
}

CASE(d13_half_a_state_to_set)
{
    short_feature(VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, 3, 16);
}

CASE(d13_logging_that_does_not_say_what)
{
    short_feature(VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START, 0, 24);
}

CASE(d13_a_report_that_does_not_say_of_what)
{
    short_feature(VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, 0, 4096);
}

CASE(d14_a_byte_written_to_a_bar_leaves_the_others)
{
    device();
    EQ(config_write(PCI_BASE_ADDRESS_0, 0xfeb00000, 4), 0);
    EQ(config_read(PCI_BASE_ADDRESS_0, 4), 0xfeb00000);
    EQ(config_write(PCI_BASE_ADDRESS_0, 0, 1), 0);
    EQ(config_read(PCI_BASE_ADDRESS_0, 4), 0xfeb00000);
    EQ(config_write(PCI_BASE_ADDRESS_0 + 3, 0xfd, 1), 0);
    EQ(config_read(PCI_BASE_ADDRESS_0, 4), 0xfdb00000);
    device_destroy();
}

static ssize_t any_config(vfu_ctx_t *ctx, char *buf, size_t count, int64_t offset, bool is_write)
{
    (void)ctx, (void)buf, (void)offset, (void)is_write;
    return count;
}

CASE(d15_configuration_space_is_never_larger_than_it_is)
{
    uint8_t data[64];

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    int rc = vfu_setup_region(dev.ctx, VFU_PCI_DEV_CFG_REGION_IDX, 0x10000, any_config, VFU_REGION_FLAG_RW, NULL, 0, -1, 0);
    CHECK(rc == 0 || errno == EINVAL);
    device_connect(CAPABILITIES);
    EQ(region_read(VFU_PCI_DEV_CFG_REGION_IDX, 256, data, sizeof(data)), EINVAL);
    EQ(region_read(VFU_PCI_DEV_CFG_REGION_IDX, 0x8000, data, sizeof(data)), EINVAL);
    device_destroy();
}

CASE(d16_a_length_that_wraps_is_not_mapped)
{
    dma_sg_t *sg = calloc(4, dma_sg_size());

    device();
    map_ram(memory(RAM_SIZE));
    EQ(vfu_addr_to_sgl(dev.ctx, (void *)RAM_AT, 16, sg, 1, PROT_READ), 1); /* remembers the region */
    FAILS(vfu_addr_to_sgl(dev.ctx, (void *)(RAM_AT + 16), SIZE_MAX, sg, 4, PROT_READ), ENOENT);
    FAILS(vfu_addr_to_sgl(dev.ctx, (void *)(RAM_AT + 16), SIZE_MAX - RAM_AT, sg, 4, PROT_READ), ENOENT);
    free(sg);
    device_destroy();
}

CASE(d17_memory_that_begins_inside_a_page_is_whole)
{
    int fd = memory(4 * 4096);
    uint32_t mark = 0x600dda7a;
    struct iovec iov;
    const uint32_t rw = VFIO_USER_F_DMA_REGION_READ | VFIO_USER_F_DMA_REGION_WRITE;

    device();
    EQ(pwrite(fd, &mark, 4, 0x800 + 2 * 4096 - 4), 4);
    EQ(dma_map(0x100800, 2 * 4096, rw, fd, 0x800), 0);
    EQ((uintptr_t)dev.map.vaddr & 0xfff, 0x800);
    CHECK((char *)dev.map.mapping.iov_base + dev.map.mapping.iov_len >= (char *)dev.map.vaddr + 2 * 4096);
    dma_sg_t *sg = look_up(0x100800 + 2 * 4096 - 4, 4, PROT_READ);
    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), 0);
    EQ(*(uint32_t *)iov.iov_base, mark);
    vfu_sgl_put(dev.ctx, sg, &iov, 1);
    free(sg);
    device_destroy();
}

CASE(d18_memory_that_was_cut_off_is_an_error)
{
    int fd = memory(RAM_SIZE);
    uint8_t data[64] = {0};

    device();
    map_ram(fd);
    EQ(ftruncate(fd, 4096), 0);
    dma_sg_t *there = look_up(RAM_AT, sizeof(data), PROT_WRITE), *gone = look_up(RAM_AT + 8192, sizeof(data), PROT_WRITE);
    EQ(vfu_sgl_read(dev.ctx, there, 1, data, VFU_SGL_DIRECT_ACCESS), 0);
    FAILS(vfu_sgl_read(dev.ctx, gone, 1, data, VFU_SGL_DIRECT_ACCESS), EFAULT);
    FAILS(vfu_sgl_write(dev.ctx, gone, 1, data, VFU_SGL_DIRECT_ACCESS), EFAULT);
    free(there);
    free(gone);
    device_destroy();
}
