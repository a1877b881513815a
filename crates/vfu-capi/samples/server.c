/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * server: adds up the client's memory, and can be moved while it does; the other half is client.c.
 *
 * BAR0, 4 KiB of memory: 0x00 address (64 bits), 0x08 length, 0x0c a write starts, 0x10 the sum, 0x14 errno.
 * The sum is also written to the 4 bytes behind the memory that was added up. Vector 0 of MSI-X tells that it is done.
 */
#define _GNU_SOURCE 1
#include <sys/mman.h>

#include "sample.h"

struct registers {
    uint64_t address;
    uint32_t length, start, sum, error;
};

struct adder {
    struct registers registers;
    size_t saved, loaded; /* bytes of the state that went out, and came in */
};

static struct adder *adder_of(vfu_ctx_t *ctx)
{
    return (struct adder *)vfu_get_private(ctx);
}

static ssize_t access_bar0(vfu_ctx_t *ctx, char *buf, size_t count, int64_t offset, bool is_write)
{
    struct registers *registers = &adder_of(ctx)->registers;

    if ((size_t)offset + count > sizeof(*registers)) {
        errno = EINVAL;
        return -1;
    }
    if (is_write)
        memcpy((char *)registers + offset, buf, count);
    else
        memcpy(buf, (char *)registers + offset, count);
    return (ssize_t)count;
}

/* One piece at a time is all that vfu_sgl_read() takes. Memory that the client shares is read without asking. */
static int read_memory(vfu_ctx_t *ctx, uint64_t address, void *data, size_t length, dma_sg_t *sg)
{
    if (vfu_addr_to_sgl(ctx, (vfu_dma_addr_t)(uintptr_t)address, length, sg, 1, PROT_READ) != 1)
        return errno != 0 ? errno : E2BIG;
    return vfu_sgl_read(ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS) == 0 ? 0 : errno;
}

static int write_memory(vfu_ctx_t *ctx, uint64_t address, void *data, size_t length, dma_sg_t *sg)
{
    if (vfu_addr_to_sgl(ctx, (vfu_dma_addr_t)(uintptr_t)address, length, sg, 1, PROT_WRITE) != 1)
        return errno != 0 ? errno : E2BIG;
    return vfu_sgl_write(ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS) == 0 ? 0 : errno;
}

static int add_up(vfu_ctx_t *ctx, struct registers *registers, uint8_t *data, dma_sg_t *sg)
{
    int error = read_memory(ctx, registers->address, data, registers->length, sg);

    if (error != 0)
        return error;
    registers->sum = 0;
    for (uint32_t i = 0; i < registers->length; i++)
        registers->sum += data[i];
    return write_memory(ctx, registers->address + registers->length, &registers->sum, sizeof(registers->sum), sg);
}

/* Outside of callbacks, so that the client's requests are served meanwhile. */
static void work(vfu_ctx_t *ctx)
{
    struct registers *registers = &adder_of(ctx)->registers;
    uint8_t *data;
    dma_sg_t *sg;

    if (registers->start == 0)
        return;
    registers->start = 0;
    data = registers->length <= 1 << 20 ? (uint8_t *)malloc(registers->length + 1) : NULL;
    sg = (dma_sg_t *)calloc(1, dma_sg_size());
    registers->error = data != NULL && sg != NULL ? (uint32_t)add_up(ctx, registers, data, sg) : EINVAL;
    free(data);
    free(sg);
    vfu_irq_trigger(ctx, 0);
}

static void memory_changed(vfu_ctx_t *ctx, vfu_dma_info_t *info)
{
    vfu_log(ctx, LOG_INFO, "memory %p+%#zx", info->iova.iov_base, info->iova.iov_len);
}

static int reset(vfu_ctx_t *ctx, vfu_reset_type_t type)
{
    if (type != VFU_RESET_LOST_CONN)
        memset(adder_of(ctx), 0, sizeof(struct adder));
    return 0;
}

/* ---- moving: the state is the registers ---- */

static int change_state(vfu_ctx_t *ctx, vfu_migr_state_t state)
{
    struct adder *adder = adder_of(ctx);

    if (state == VFU_MIGR_STATE_STOP_AND_COPY || state == VFU_MIGR_STATE_PRE_COPY)
        adder->saved = 0;
    if (state == VFU_MIGR_STATE_RESUME)
        adder->loaded = 0;
    if (state == VFU_MIGR_STATE_RUNNING && adder->loaded != 0 && adder->loaded != sizeof(adder->registers)) {
        errno = EINVAL; /* half a state is none */
        return -1;
    }
    return 0;
}

static ssize_t save(vfu_ctx_t *ctx, void *buf, uint64_t count)
{
    struct adder *adder = adder_of(ctx);
    size_t left = sizeof(adder->registers) - adder->saved, now = count < left ? (size_t)count : left;

    memcpy(buf, (char *)&adder->registers + adder->saved, now);
    adder->saved += now;
    return (ssize_t)now;
}

static ssize_t load(vfu_ctx_t *ctx, void *buf, uint64_t count)
{
    struct adder *adder = adder_of(ctx);

    if (count > sizeof(adder->registers) - adder->loaded) {
        errno = EINVAL;
        return -1;
    }
    memcpy((char *)&adder->registers + adder->loaded, buf, (size_t)count);
    adder->loaded += (size_t)count;
    return (ssize_t)count;
}

int main(int argc, char **argv)
{
    struct sample sample = sample_options(argc, argv);
    vfu_migration_callbacks_t migration;
    struct adder adder;
    vfu_ctx_t *ctx;

    memset(&adder, 0, sizeof(adder));
    memset(&migration, 0, sizeof(migration));
    migration.version = VFU_MIGR_CALLBACKS_VERS;
    migration.transition = change_state;
    migration.read_data = save;
    migration.write_data = load;

    ctx = sample_create(&sample, &adder, 0);
    if (vfu_pci_init(ctx, VFU_PCI_TYPE_EXPRESS, PCI_HEADER_TYPE_NORMAL, 0) != 0)
        err(1, "vfu_pci_init");
    vfu_pci_set_id(ctx, 0x1234, 0x00ad, 0x1234, 0);
    vfu_pci_set_class(ctx, 0x12, 0, 0);
    if (vfu_setup_region(ctx, VFU_PCI_DEV_BAR0_REGION_IDX, 4096, access_bar0, VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM,
                         NULL, 0, -1, 0) != 0)
        err(1, "vfu_setup_region");
    if (vfu_setup_device_nr_irqs(ctx, VFU_DEV_MSIX_IRQ, 1) != 0)
        err(1, "vfu_setup_device_nr_irqs");
    if (vfu_setup_device_dma(ctx, 16, memory_changed, memory_changed) != 0)
        err(1, "vfu_setup_device_dma");
    if (vfu_setup_device_migration_callbacks(ctx, &migration) != 0)
        err(1, "vfu_setup_device_migration_callbacks");
    if (vfu_setup_device_reset_cb(ctx, reset) != 0)
        err(1, "vfu_setup_device_reset_cb");
    return sample_serve(ctx, &sample, work);
}
