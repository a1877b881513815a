/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * dma: copies the client's memory from one place to another, every bit inverted; 1234:d3a0, as `vfu serve dmatest`.
 *
 * It shows the three ways to memory: through a pointer (vfu_sgl_get) where the client shares it, by messages
 * (vfu_sgl_read, vfu_sgl_write) where it does not, and both from a callback and from outside of one.
 */
#define _GNU_SOURCE 1
#include <sys/mman.h>

#include "sample.h"

/* BAR0. A read of COUNT takes the interrupt back; a read of COPY_NOW copies before it answers. */
enum {
    ID = 0x00,
    SOURCE = 0x08,
    DESTINATION = 0x10,
    LENGTH = 0x18,
    COMMAND = 0x20, /* 1: copy in the write's callback; 2: afterwards; 0x100: interrupt at the end */
    COUNT = 0x28,
    RESULT = 0x2c, /* errno */
    COPY_NOW = 0x30,
    SCRATCH = 0x40,
    END = 0x100,
    BAR_SIZE = 0x1000
};

enum { MAX_LENGTH = 1 << 20, MAX_JOBS = 64 };

struct job {
    uint64_t source, destination;
    uint32_t length, command;
};

struct copier {
    uint8_t registers[END];
    struct job jobs[MAX_JOBS]; /* for later */
    unsigned nr_jobs;
    int pin;
};

static uint32_t get32(const struct copier *copier, int at)
{
    uint32_t value;

    memcpy(&value, copier->registers + at, sizeof(value));
    return value;
}

static uint64_t get64(const struct copier *copier, int at)
{
    uint64_t value;

    memcpy(&value, copier->registers + at, sizeof(value));
    return value;
}

static void set32(struct copier *copier, int at, uint32_t value)
{
    memcpy(copier->registers + at, &value, sizeof(value));
}

static void set_pin(vfu_ctx_t *ctx, struct copier *copier, int pin)
{
    copier->pin = pin;
    vfu_pci_get_config_space(ctx)->hdr.sts.is = pin != 0;
    if (pin)
        vfu_irq_trigger(ctx, 0);
}

/* Reads or writes memory that lies in one piece. 0, or an errno. */
static int transfer_piece(vfu_ctx_t *ctx, dma_sg_t *sg, char *data, bool is_write)
{
    struct iovec iov;

    if (vfu_sgl_get(ctx, sg, &iov, 1, 0) == 0) {
        if (is_write)
            memcpy(iov.iov_base, data, iov.iov_len);
        else
            memcpy(data, iov.iov_base, iov.iov_len);
        vfu_sgl_put(ctx, sg, &iov, 1);
        return 0;
    }
    return (is_write ? vfu_sgl_write(ctx, sg, 1, data, 0) : vfu_sgl_read(ctx, sg, 1, data, 0)) == 0 ? 0 : errno;
}

/* The same for memory that may lie in several pieces. */
static int transfer(vfu_ctx_t *ctx, uint64_t address, char *data, size_t length, bool is_write)
{
    dma_sg_t *sg = (dma_sg_t *)calloc(1, dma_sg_size());
    int error = sg != NULL ? 0 : ENOMEM;

    while (length > 0 && error == 0) {
        size_t piece = length;
        int count;
        do { /* less than -1: more than one piece */
            count = vfu_addr_to_sgl(ctx, (vfu_dma_addr_t)(uintptr_t)address, piece, sg, 1,
                                    is_write ? PROT_WRITE : PROT_READ);
        } while (count < -1 && (piece /= 2) > 0);
        error = count == 1 ? transfer_piece(ctx, sg, data, is_write) : errno;
        address += piece;
        data += piece;
        length -= piece;
    }
    free(sg);
    return error;
}

static void copy(vfu_ctx_t *ctx, struct copier *copier, const struct job *job)
{
    char *data = job->length <= MAX_LENGTH ? (char *)malloc(job->length + 1) : NULL;
    int error = EINVAL;

    if (data != NULL)
        error = transfer(ctx, job->source, data, job->length, false);
    if (error == 0) {
        for (uint32_t i = 0; i < job->length; i++)
            data[i] = (char)~data[i];
        error = transfer(ctx, job->destination, data, job->length, true);
    }
    free(data);
    set32(copier, RESULT, (uint32_t)error);
    set32(copier, COUNT, get32(copier, COUNT) + 1);
    if (job->command & 0x100)
        set_pin(ctx, copier, 1);
}

static struct job job_of(const struct copier *copier, uint32_t command)
{
    struct job job;

    job.source = get64(copier, SOURCE);
    job.destination = get64(copier, DESTINATION);
    job.length = get32(copier, LENGTH);
    job.command = command;
    return job;
}

static void do_command(vfu_ctx_t *ctx, struct copier *copier, uint32_t command)
{
    struct job job = job_of(copier, command);

    if ((command & 0xff) == 1) {
        copy(ctx, copier, &job);
    } else if ((command & 0xff) == 2 && copier->nr_jobs < MAX_JOBS) {
        copier->jobs[copier->nr_jobs++] = job;
    } else if ((command & 0xff) == 2) {
        set32(copier, RESULT, EAGAIN);
        set32(copier, COUNT, get32(copier, COUNT) + 1);
    }
}

static void read_registers(vfu_ctx_t *ctx, struct copier *copier, char *buf, size_t count, size_t offset)
{
    if (offset == COPY_NOW) {
        struct job job = job_of(copier, 0);
        copy(ctx, copier, &job);
        set32(copier, COPY_NOW, get32(copier, RESULT));
    }
    if (offset <= COUNT && offset + count > COUNT)
        set_pin(ctx, copier, 0);
    memset(buf, 0xff, count);
    if (offset < END)
        memcpy(buf, copier->registers + offset, count < END - offset ? count : END - offset);
}

static void write_registers(vfu_ctx_t *ctx, struct copier *copier, const char *buf, size_t count, size_t offset)
{
    for (size_t i = 0; i < count; i++) {
        size_t at = offset + i;
        if ((at >= SOURCE && at < LENGTH + 4) || (at >= SCRATCH && at < END))
            copier->registers[at] = (uint8_t)buf[i];
    }
    if (offset == COMMAND) {
        uint32_t command = 0;
        memcpy(&command, buf, count < sizeof(command) ? count : sizeof(command));
        do_command(ctx, copier, command);
    }
}

/* The library keeps accesses inside of the region. */
static ssize_t access_bar0(vfu_ctx_t *ctx, char *buf, size_t count, int64_t offset, bool is_write)
{
    struct copier *copier = (struct copier *)vfu_get_private(ctx);

    if (is_write)
        write_registers(ctx, copier, buf, count, (size_t)offset);
    else
        read_registers(ctx, copier, buf, count, (size_t)offset);
    return (ssize_t)count;
}

/* What was asked for later is done between requests; requests are served while it waits for the client. */
static void copy_later(vfu_ctx_t *ctx)
{
    struct copier *copier = (struct copier *)vfu_get_private(ctx);

    while (copier->nr_jobs > 0) {
        struct job job = copier->jobs[0];
        copier->nr_jobs--;
        memmove(copier->jobs, copier->jobs + 1, copier->nr_jobs * sizeof(job));
        copy(ctx, copier, &job);
    }
}

static void irq_state(vfu_ctx_t *ctx, uint32_t start, uint32_t count, bool mask)
{
    (void)start, (void)count;
    if (!mask && ((struct copier *)vfu_get_private(ctx))->pin)
        vfu_irq_trigger(ctx, 0);
}

static int reset(vfu_ctx_t *ctx, vfu_reset_type_t type)
{
    struct copier *copier = (struct copier *)vfu_get_private(ctx);

    copier->nr_jobs = 0;
    if (type != VFU_RESET_LOST_CONN) {
        memset(copier, 0, sizeof(*copier));
        set32(copier, ID, 0x56465544);
        set_pin(ctx, copier, 0);
    }
    return 0;
}

/* Memory comes and goes by itself: entries are looked up for each copy and never kept. */
static void memory_changed(vfu_ctx_t *ctx, vfu_dma_info_t *info)
{
    vfu_log(ctx, LOG_INFO, "memory %p+%#zx at %p", info->iova.iov_base, info->iova.iov_len, info->vaddr);
}

int main(int argc, char **argv)
{
    struct sample sample = sample_options(argc, argv);
    struct copier *copier = (struct copier *)calloc(1, sizeof(*copier));
    vfu_ctx_t *ctx;
    int flags = 0;

    if (copier == NULL)
        err(1, "calloc");
#ifdef VFU_RS_VERSION
    flags |= LIBVFIO_USER_FLAG_REENTRANT; /* registers answer while a callback copies */
#endif
    set32(copier, ID, 0x56465544);
    ctx = sample_create(&sample, copier, flags);
    if (vfu_pci_init(ctx, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0) != 0)
        err(1, "vfu_pci_init");
    vfu_pci_set_id(ctx, 0x1234, 0xd3a0, 0x1234, 0xd3a0);
    vfu_pci_set_class(ctx, 0xff, 0, 0);
    if (vfu_setup_region(ctx, VFU_PCI_DEV_BAR0_REGION_IDX, BAR_SIZE, access_bar0,
                         VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM, NULL, 0, -1, 0) != 0)
        err(1, "vfu_setup_region");
    if (vfu_setup_device_dma(ctx, LIBVFIO_USER_MAX_DMA_REGIONS, memory_changed, memory_changed) != 0)
        err(1, "vfu_setup_device_dma");
    if (vfu_setup_device_nr_irqs(ctx, VFU_DEV_INTX_IRQ, 1) != 0 ||
        vfu_setup_irq_state_callback(ctx, VFU_DEV_INTX_IRQ, irq_state) != 0)
        err(1, "vfu_setup_device_nr_irqs");
    if (vfu_setup_device_reset_cb(ctx, reset) != 0)
        err(1, "vfu_setup_device_reset_cb");
    sample_serve(ctx, &sample, copy_later);
    free(copier);
    return 0;
}
