/* vfu_rs_*: what this library has beyond the C library's interface. With that library these cases are skipped. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"
#include "extensions.h"

#define NONE VFIO_IRQ_SET_DATA_NONE
#define EVENTFD VFIO_IRQ_SET_DATA_EVENTFD
#define TRIGGER VFIO_IRQ_SET_ACTION_TRIGGER
#define MASK VFIO_IRQ_SET_ACTION_MASK
#define UNMASK VFIO_IRQ_SET_ACTION_UNMASK

#define EXTENSION(name)                                                                                                \
    static void name##_body(void);                                                                                     \
    CASE(name)                                                                                                         \
    {                                                                                                                  \
        if (!is_ours())                                                                                                \
            case_skip("another library");                                                                              \
        name##_body();                                                                                                 \
    }                                                                                                                  \
    static void name##_body(void)

static int event(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static int count(int fd)
{
    uint64_t value;

    return read(fd, &value, sizeof(value)) == sizeof(value) ? (int)value : 0;
}

EXTENSION(rs_version_of_the_library_is_that_of_the_header)
{
    EQ(vfu_rs_version(), VFU_RS_VERSION);
}

EXTENSION(rs_flags_are_taken)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB | LIBVFIO_USER_FLAG_REENTRANT | LIBVFIO_USER_FLAG_THREAD_SAFE);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_connect(CAPABILITIES);
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

EXTENSION(rs_log_of_a_text)
{
    device_create(0);
    EQ(vfu_rs_log_enabled(dev.ctx, LOG_DEBUG), 1);
    dev.logs = 0;
    errno = EBADMSG;
    vfu_rs_log_text(dev.ctx, LOG_NOTICE, "100 %s %n");
    EQ(errno, EBADMSG);
    EQ(dev.logs, 1);
    EQ(dev.log_level, LOG_NOTICE);
    EQ(strcmp(dev.log, "100 %s %n"), 0);
    EQ(vfu_setup_log(dev.ctx, NULL, LOG_DEBUG), 0);
    EQ(vfu_rs_log_enabled(dev.ctx, LOG_ERR), 0);
    device_destroy();
}

/* ---- interrupts ---- */

EXTENSION(rs_irq_of_every_type)
{
    int fds[VFU_DEV_NUM_IRQS];

    device();
    for (int type = 0; type < VFU_DEV_NUM_IRQS; type++) {
        fds[type] = event();
        if (type != VFU_DEV_MSI_IRQ) /* has no vectors */
            EQ(set_irqs(type, EVENTFD | TRIGGER, 0, 1, &fds[type], 1), 0);
    }
    for (int type = 0; type < VFU_DEV_NUM_IRQS; type++)
        if (type != VFU_DEV_MSI_IRQ && type != VFU_DEV_INTX_IRQ) {
            EQ(vfu_rs_irq_raise(dev.ctx, type, 0), 0);
            EQ(count(fds[type]), 1);
        }
    FAILS(vfu_rs_irq_raise(dev.ctx, VFU_DEV_MSI_IRQ, 0), EINVAL);
    FAILS(vfu_rs_irq_raise(dev.ctx, VFU_DEV_NUM_IRQS, 0), EINVAL);
    FAILS(vfu_rs_irq_raise(dev.ctx, VFU_DEV_ERR_IRQ, 1), EINVAL);
    device_destroy();
}

EXTENSION(rs_irq_that_nobody_listens_to)
{
    device();
    FAILS(vfu_rs_irq_raise(dev.ctx, VFU_DEV_REQ_IRQ, 0), ENOENT);
    FAILS(vfu_rs_irq_raise(dev.ctx, VFU_DEV_MSIX_IRQ, 3), ENOENT);
    device_destroy();
}

static int table_fd[4];

/* MSI-X with its table in BAR0 at 0x800 and the pending bits at 0xc00, masked and unmasked by the library. */
static void masking(void)
{
    struct msixcap msix = {
        .hdr = {PCI_CAP_ID_MSIX, 0}, .mxc = {.ts = 3}, .mtab = {.to = 0x800 / 8}, .mpba = {.pbao = 0xc00 / 8}};

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_pci_add_capability(dev.ctx, 0x40, 0, &msix), 0x40);
    EQ(vfu_rs_setup_irq_masking(dev.ctx), 0);
    device_connect(CAPABILITIES);
    for (int i = 0; i < 4; i++)
        table_fd[i] = event();
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, EVENTFD | TRIGGER, 0, 4, table_fd, 4), 0);
    EQ(config_write(0x42, PCI_MSIX_FLAGS_ENABLE, 2), 0);
}

static void mask_in_table(int vector, uint32_t masked)
{
    EQ(region_write(VFU_PCI_DEV_BAR0_REGION_IDX, 0x800 + vector * 16 + 12, &masked, 4), 0);
}

EXTENSION(rs_masking_by_the_table_keeps_one_interrupt)
{
    uint32_t pending = 0;

    masking();
    mask_in_table(2, 0);
    EQ(vfu_irq_trigger(dev.ctx, 2), 0);
    EQ(count(table_fd[2]), 1);
    mask_in_table(2, 1);
    EQ(vfu_irq_trigger(dev.ctx, 2), 0);
    EQ(vfu_irq_trigger(dev.ctx, 2), 0);
    EQ(count(table_fd[2]), 0);
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0xc00, &pending, 4), 0);
    EQ(pending, 1 << 2);
    mask_in_table(2, 0);
    EQ(count(table_fd[2]), 1);
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0xc00, &pending, 4), 0);
    EQ(pending, 0);
    device_destroy();
}

EXTENSION(rs_masking_answers_the_table_itself)
{
    uint64_t address = 0xfee00000, got = 0;

    masking();
    EQ(region_write(VFU_PCI_DEV_BAR0_REGION_IDX, 0x810, &address, 8), 0);
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0x810, &got, 8), 0);
    EQ(got, address);
    EQ(dev.accesses, 0);
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0x10, &got, 4), 0);
    EQ(dev.accesses, 1); /* the rest of the BAR is the device's */
    device_destroy();
}

EXTENSION(rs_masking_by_the_function)
{
    masking();
    mask_in_table(1, 0);
    EQ(config_write(0x42, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL, 2), 0);
    EQ(vfu_irq_trigger(dev.ctx, 1), 0);
    EQ(count(table_fd[1]), 0);
    EQ(config_write(0x42, PCI_MSIX_FLAGS_ENABLE, 2), 0);
    EQ(count(table_fd[1]), 1);
    device_destroy();
}

EXTENSION(rs_masking_by_set_irqs)
{
    masking();
    mask_in_table(3, 0);
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, NONE | MASK, 3, 1, NULL, 0), 0);
    EQ(vfu_irq_trigger(dev.ctx, 3), 0);
    EQ(count(table_fd[3]), 0);
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, NONE | UNMASK, 3, 1, NULL, 0), 0);
    EQ(count(table_fd[3]), 1);
    device_destroy();
}

EXTENSION(rs_masking_is_set_up_before_the_end_of_the_setup)
{
    device();
    FAILS(vfu_rs_setup_irq_masking(dev.ctx), EINVAL);
    device_destroy();
}

/* ---- limits ---- */

static vfu_rs_limits_t limits_of(void)
{
    vfu_rs_limits_t limits = {.size = sizeof(limits)};

    EQ(vfu_rs_get_limits(dev.ctx, &limits), 0);
    return limits;
}

EXTENSION(rs_limits_are_what_the_header_says)
{
    device_create(0);
    vfu_rs_limits_t limits = limits_of();
    EQ(limits.size, sizeof(limits));
    EQ(limits.dma_timeout_ms, 2000);
    EQ(limits.handler_timeout_ms, 4000);
    EQ(limits.handshake_timeout_ms, 10000);
    EQ(limits.outstanding, 64);
    EQ(limits.queued_commands, 1024);
    EQ(limits.queued_bytes, 8 << 20);
    device_destroy();
}

EXTENSION(rs_limits_can_be_set)
{
    device_create(0);
    vfu_rs_limits_t limits = limits_of();
    limits.dma_timeout_ms = 150;
    limits.outstanding = 3;
    EQ(vfu_rs_set_limits(dev.ctx, &limits), 0);
    EQ(limits_of().dma_timeout_ms, 150);
    EQ(limits_of().outstanding, 3);
    EQ(limits_of().zombies, 4096);
    device_destroy();
}

EXTENSION(rs_limits_of_no_size)
{
    device_create(0);
    vfu_rs_limits_t limits = {.size = 0};
    FAILS(vfu_rs_get_limits(dev.ctx, &limits), EINVAL);
    FAILS(vfu_rs_set_limits(dev.ctx, &limits), EINVAL);
    FAILS(vfu_rs_get_limits(dev.ctx, NULL), EINVAL);
    device_destroy();
}

/* ---- memory that clients take away ---- */

static void with_policy(vfu_rs_memory_policy_t policy)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_rs_set_memory_policy(dev.ctx, policy), 0);
    device_connect(CAPABILITIES);
}

EXTENSION(rs_memory_policy_that_is_none_or_too_late)
{
    with_policy(VFU_RS_MEMORY_TRUSTING);
    FAILS(vfu_rs_set_memory_policy(dev.ctx, (vfu_rs_memory_policy_t)4), EINVAL);
    FAILS(vfu_rs_set_memory_policy(dev.ctx, VFU_RS_MEMORY_GUARDED), EBUSY);
    device_destroy();
}

EXTENSION(rs_memory_policy_takes_sealed_files_only)
{
    with_policy(VFU_RS_MEMORY_SEALED);
    uint32_t flags = VFIO_USER_F_DMA_REGION_READ | VFIO_USER_F_DMA_REGION_WRITE;
    int fd = memory(RAM_SIZE), sealed = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    EQ(ftruncate(sealed, RAM_SIZE), 0);
    EQ(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    EQ(dma_map(RAM_AT, RAM_SIZE, flags, fd, 0), EPERM);
    EQ(dma_map(RAM_AT, RAM_SIZE, flags, sealed, 0), 0);
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_WRITE);
    struct iovec iov;
    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), 0);
    vfu_sgl_put(dev.ctx, sg, &iov, 1);
    free(sg);
    close(fd);
    close(sealed);
    device_destroy();
}

EXTENSION(rs_memory_policy_that_maps_nothing)
{
    with_policy(VFU_RS_MEMORY_COPYING);
    int fd = memory(RAM_SIZE);
    map_ram(fd);
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_WRITE);
    struct iovec iov;
    FAILS(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), EFAULT);
    char data[8] = "written", there[8] = "";
    EQ(vfu_sgl_write(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS), 0);
    EQ(pread(fd, there, sizeof(there), 0), (ssize_t)sizeof(there));
    EQ(memcmp(there, data, sizeof(data)), 0);
    /* What the client takes away is an error, and no more. */
    EQ(ftruncate(fd, 0), 0);
    FAILS(vfu_sgl_write(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS), EFAULT);
    free(sg);
    close(fd);
    device_destroy();
}

static void soon(void)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    vfu_rs_limits_t limits = limits_of();
    limits.dma_timeout_ms = 100;
    EQ(vfu_rs_set_limits(dev.ctx, &limits), 0);
    device_connect(CAPABILITIES);
    map_ram(-1);
}

EXTENSION(rs_limits_end_dma_that_is_not_answered)
{
    uint8_t data[8];

    soon();
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_READ);
    FAILS(vfu_sgl_read(dev.ctx, sg, 1, data, 0), ETIMEDOUT);
    vfu_rs_counters_t counters = {.size = sizeof(counters)};
    EQ(vfu_rs_get_counters(dev.ctx, &counters), 0);
    EQ(counters.timeouts, 1);
    free(sg);
    device_destroy();
}

/* ---- DMA that nobody waits for ---- */

static int done, done_error;
static void *done_opaque;

static void when_done(vfu_ctx_t *ctx, void *opaque, int error)
{
    CHECK(ctx == dev.ctx);
    done++;
    done_opaque = opaque;
    done_error = error;
}

static void until_done(void)
{
    while (done == 0)
        CHECK(run_once() >= 0);
    EQ(done, 1);
}

static void serve_one(void) { serve_dma(1); }
static void serve_three(void) { serve_dma(3); }

EXTENSION(rs_async_read_calls_back)
{
    uint8_t data[64] = {0};
    int mine;

    device();
    map_ram(-1);
    memset(client_ram, 0x42, 64);
    dma_sg_t *sg = look_up(RAM_AT, 64, PROT_READ);
    EQ(vfu_rs_sgl_read_async(dev.ctx, sg, 1, data, 0, when_done, &mine), 0);
    EQ(done, 0);
    client_thread(serve_one);
    until_done();
    client_join();
    EQ(done_error, 0);
    CHECK(done_opaque == &mine);
    EQ(data[63], 0x42);
    free(sg);
    device_destroy();
}

EXTENSION(rs_async_of_a_list)
{
    uint8_t data[3 * 4096];
    dma_sg_t *sg = calloc(3, dma_sg_size());

    device();
    for (int i = 0; i < 3; i++)
        EQ(dma_map(RAM_AT + i * 4096, 4096, 3, -1, 0), 0);
    EQ(vfu_addr_to_sgl(dev.ctx, (void *)RAM_AT, sizeof(data), sg, 3, PROT_WRITE), 3);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = i * 3 + i / 256;
    EQ(vfu_rs_sgl_write_async(dev.ctx, sg, 3, data, 0, when_done, NULL), 0);
    client_thread(serve_three);
    until_done();
    client_join();
    EQ(done_error, 0);
    EQ(memcmp(client_ram, data, sizeof(data)), 0);
    free(sg);
    device_destroy();
}

EXTENSION(rs_async_of_mapped_memory_is_done_at_once)
{
    int fd = memory(RAM_SIZE);
    uint8_t data[8] = "AT ONCE";

    device();
    map_ram(fd);
    dma_sg_t *sg = look_up(RAM_AT + 8, 8, PROT_WRITE);
    EQ(vfu_rs_sgl_write_async(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS, when_done, NULL), 0);
    EQ(done, 1);
    EQ(done_error, 0);
    EQ(pread(fd, data, 8, 8), 8);
    EQ(strcmp((char *)data, "AT ONCE"), 0);
    free(sg);
    device_destroy();
}

EXTENSION(rs_async_with_wrong_arguments)
{
    uint8_t data[8];

    device();
    map_ram(-1);
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_READ);
    FAILS(vfu_rs_sgl_read_async(dev.ctx, sg, 1, data, 0, NULL, NULL), EINVAL);
    FAILS(vfu_rs_sgl_read_async(dev.ctx, sg, 1, data, 6, when_done, NULL), EINVAL);
    FAILS(vfu_rs_sgl_write_async(dev.ctx, sg, 1, data, 0, when_done, NULL), EPERM);
    EQ(done, 0);
    CHECK(!wire_readable(dev.sock));
    free(sg);
    device_destroy();
}

EXTENSION(rs_async_and_the_client_goes)
{
    uint8_t data[8];

    device();
    map_ram(-1);
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_READ);
    EQ(vfu_rs_sgl_read_async(dev.ctx, sg, 1, data, 0, when_done, NULL), 0);
    disconnect();
    run_until(ENOTCONN);
    EQ(done, 1);
    EQ(done_error, ENOTCONN);
    free(sg);
    device_destroy();
}

EXTENSION(rs_async_that_is_not_answered)
{
    uint8_t data[8];

    soon();
    EQ(vfu_rs_get_timeout(dev.ctx), -1);
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_READ);
    EQ(vfu_rs_sgl_read_async(dev.ctx, sg, 1, data, 0, when_done, NULL), 0);
    while (done == 0) {
        struct pollfd poll_fd = {.fd = vfu_get_poll_fd(dev.ctx), .events = POLLIN};
        int timeout = vfu_rs_get_timeout(dev.ctx);
        CHECK(timeout >= 0 && timeout <= 101);
        poll(&poll_fd, 1, timeout);
        CHECK(vfu_run_ctx(dev.ctx) >= 0);
    }
    EQ(done_error, ETIMEDOUT);
    free(sg);
    device_destroy();
}

/* ---- the second socket, counters ---- */

EXTENSION(rs_dma_poll_fd_is_the_second_socket)
{
    uint8_t data[8];

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    FAILS(vfu_rs_get_dma_poll_fd(dev.ctx), ENOENT);
    device_connect("{\"capabilities\":{\"max_msg_fds\":8,\"twin_socket\":{\"supported\":true}}}");
    map_ram(-1);
    struct pollfd poll_fd = {.fd = vfu_rs_get_dma_poll_fd(dev.ctx), .events = POLLIN};
    CHECK(poll_fd.fd >= 0 && poll_fd.fd != vfu_get_poll_fd(dev.ctx));
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_READ);
    EQ(vfu_rs_sgl_read_async(dev.ctx, sg, 1, data, 0, when_done, NULL), 0);
    client_thread(serve_one);
    EQ(poll(&poll_fd, 1, 30000), 1);
    client_join();
    while (done == 0)
        CHECK(vfu_run_ctx(dev.ctx) >= 0);
    EQ(done_error, 0);
    free(sg);
    device_destroy();
}

EXTENSION(rs_dma_poll_fd_of_a_client_with_one_socket)
{
    device();
    FAILS(vfu_rs_get_dma_poll_fd(dev.ctx), ENOENT);
    device_destroy();
}

EXTENSION(rs_counters_count)
{
    vfu_rs_counters_t counters = {.size = sizeof(counters)};

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    FAILS(vfu_rs_get_counters(dev.ctx, &counters), ENOTCONN);
    device_connect(CAPABILITIES);
    EQ(vfu_rs_get_counters(dev.ctx, &counters), 0);
    uint64_t before = counters.commands;
    for (int i = 0; i < 5; i++)
        EQ(config_read(0, 4), 0x56781234);
    EQ(vfu_rs_get_counters(dev.ctx, &counters), 0);
    EQ(counters.commands, before + 5);
    EQ(counters.timeouts, 0);
    counters.size = 1;
    FAILS(vfu_rs_get_counters(dev.ctx, &counters), EINVAL);
    device_destroy();
}

/* ---- reentrant callbacks ---- */

static int depth, deepest;
static bool dma_in_access;

static void dma_in_callback(void)
{
    uint8_t data[8];

    depth++;
    deepest = depth > deepest ? depth : deepest;
    if (dma_in_access) {
        dma_in_access = false;
        dma_sg_t *sg = look_up(RAM_AT, 8, PROT_READ);
        EQ(vfu_sgl_read(dev.ctx, sg, 1, data, 0), 0);
        free(sg);
    }
    depth--;
}

/* As QEMU does: answers the device only when a register was read meanwhile. */
static void ask_before_answering(void)
{
    struct vfio_user_region_access access = {8, VFU_PCI_DEV_BAR0_REGION_IDX, 4};
    struct msg command, reply;

    CHECK(wire_receive(dev.sock, &command));
    wire_command(dev.sock, 600, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
    CHECK(wire_receive(dev.sock, &reply));
    EQ(reply.header.msg_id, 600);
    wire_free(&reply);
    uint8_t data[16 + 8] = {0};
    memcpy(data, command.data, 16);
    wire_reply(dev.sock, &command, 0, data, sizeof(data));
    CHECK(wire_receive(dev.sock, &reply));
    EQ(reply.header.msg_id, 601);
    wire_free(&reply);
    wire_free(&command);
}

EXTENSION(rs_reentrant_callbacks_are_called_while_one_waits)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_BAR0_REGION_IDX, 4};

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB | LIBVFIO_USER_FLAG_REENTRANT);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_connect(CAPABILITIES);
    map_ram(-1);
    dev.on_access = dma_in_callback;
    dma_in_access = true;
    wire_command(dev.sock, 601, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
    client_thread(ask_before_answering);
    while (dev.accesses < 2)
        CHECK(run_once() >= 0);
    client_join();
    EQ(deepest, 2);
    EQ(depth, 0);
    device_destroy();
}
