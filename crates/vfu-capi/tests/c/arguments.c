/*
 * Arguments that are wrong: where the C library asserts or crashes, an errno. And clients that send anything at all.
 * Most of these cases end the C library.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device.h"

CASE(null_context_is_an_error_everywhere)
{
    dma_sg_t *sg = calloc(1, dma_sg_size());
    struct iovec iov;
    char data[8] = {PCI_CAP_ID_PM};

    FAILS(vfu_realize_ctx(NULL), EINVAL);
    FAILS(vfu_attach_ctx(NULL), EINVAL);
    FAILS(vfu_run_ctx(NULL), EINVAL);
    FAILS(vfu_get_poll_fd(NULL), EINVAL);
    FAILS(vfu_setup_log(NULL, NULL, LOG_ERR), EINVAL);
    FAILS(vfu_setup_region(NULL, 0, 4096, NULL, VFU_REGION_FLAG_RW, NULL, 0, -1, 0), EINVAL);
    FAILS(vfu_setup_device_reset_cb(NULL, NULL), EINVAL);
    FAILS(vfu_device_quiesced(NULL, 0), EINVAL);
    FAILS(vfu_setup_device_nr_irqs(NULL, VFU_DEV_INTX_IRQ, 1), EINVAL);
    FAILS(vfu_setup_irq_state_callback(NULL, VFU_DEV_INTX_IRQ, NULL), EINVAL);
    FAILS(vfu_irq_trigger(NULL, 0), EINVAL);
    FAILS(vfu_setup_device_dma(NULL, 1, NULL, NULL), EINVAL);
    FAILS(vfu_addr_to_sgl(NULL, NULL, 1, sg, 1, PROT_READ), EINVAL);
    FAILS(vfu_sgl_get(NULL, sg, &iov, 1, 0), EINVAL);
    FAILS(vfu_sgl_read(NULL, sg, 1, data, 0), EINVAL);
    FAILS(vfu_sgl_write(NULL, sg, 1, data, 0), EINVAL);
    FAILS(vfu_setup_device_migration_callbacks(NULL, NULL), EINVAL);
    FAILS(vfu_pci_init(NULL, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0), EINVAL);
    FAILS(vfu_pci_add_capability(NULL, 0, 0, data), EINVAL);
    FAILS(vfu_create_ioeventfd(NULL, 0, -1, 0, 4, 0, 0, -1, 0), EINVAL);
    EQ(vfu_pci_find_capability(NULL, false, PCI_CAP_ID_PM), 0);
    EQ(vfu_pci_find_next_capability(NULL, false, 0x40, PCI_CAP_ID_PM), 0);
    CHECK(vfu_pci_get_config_space(NULL) == NULL);
    CHECK(vfu_get_private(NULL) == NULL);
    EQ(vfu_sg_is_mappable(NULL, sg), false);
    vfu_log(NULL, LOG_ERR, "%d", 1);
    vfu_pci_set_id(NULL, 1, 2, 3, 4);
    vfu_pci_set_class(NULL, 1, 2, 3);
    vfu_setup_device_quiesce_cb(NULL, NULL);
    vfu_sgl_put(NULL, sg, &iov, 1);
    vfu_sgl_mark_dirty(NULL, sg, 1);
    vfu_destroy_ctx(NULL);
    free(sg);
}

CASE(null_path)
{
    errno = 0;
    CHECK(vfu_create_ctx(VFU_TRANS_SOCK, NULL, 0, NULL, VFU_DEV_TYPE_PCI) == NULL);
    EQ(errno, EINVAL);
}

CASE(null_pointers_besides_the_context)
{
    struct iovec iov;
    char data[8];

    device();
    map_ram(memory(RAM_SIZE));
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_WRITE);
    FAILS(vfu_pci_add_capability(dev.ctx, 0, 0, NULL), EINVAL);
    FAILS(vfu_setup_device_migration_callbacks(dev.ctx, NULL), EINVAL);
    FAILS(vfu_sgl_get(dev.ctx, NULL, &iov, 1, 0), EINVAL);
    FAILS(vfu_sgl_get(dev.ctx, sg, NULL, 1, 0), EINVAL);
    FAILS(vfu_sgl_read(dev.ctx, NULL, 1, data, 0), EINVAL);
    FAILS(vfu_sgl_read(dev.ctx, sg, 1, NULL, 0), EINVAL);
    FAILS(vfu_sgl_write(dev.ctx, sg, 1, NULL, VFU_SGL_DIRECT_ACCESS), EINVAL);
    EQ(vfu_sg_is_mappable(dev.ctx, NULL), false);
    vfu_sgl_put(dev.ctx, NULL, NULL, 1);
    vfu_sgl_mark_dirty(dev.ctx, NULL, 1);
    EQ(config_read(0, 4), 0x56781234);
    free(sg);
    device_destroy();
}

CASE(before_there_is_configuration_space)
{
    device_create(0);
    CHECK(vfu_pci_get_config_space(dev.ctx) == NULL);
    vfu_pci_set_id(dev.ctx, 1, 2, 3, 4);
    vfu_pci_set_class(dev.ctx, 1, 2, 3);
    EQ(vfu_pci_find_capability(dev.ctx, false, PCI_CAP_ID_PM), 0);
    FAILS(vfu_irq_trigger(dev.ctx, 0), EINVAL);
    device_destroy();
}

CASE(before_there_is_dma)
{
    dma_sg_t *sg = calloc(1, dma_sg_size());
    struct iovec iov;
    char data[8];

    device_create(0);
    EQ(vfu_addr_to_sgl(dev.ctx, (void *)RAM_AT, 8, sg, 1, PROT_READ), -1);
    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), -1);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, 0), -1);
    vfu_sgl_mark_dirty(dev.ctx, sg, 1);
    free(sg);
    device_destroy();
}

CASE(an_entry_that_outlives_its_memory)
{
    struct iovec iov;
    char data[8] = {0};

    device();
    map_ram(memory(RAM_SIZE));
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_WRITE);
    EQ(dma_unmap(RAM_AT, RAM_SIZE), 0);
    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), -1);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS), -1);
    EQ(vfu_sgl_write(dev.ctx, sg, 1, data, 0), -1);
    vfu_sgl_mark_dirty(dev.ctx, sg, 1);
    vfu_sgl_put(dev.ctx, sg, &iov, 1);
    map_ram(memory(RAM_SIZE)); /* the same addresses are other memory now */
    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), -1);
    EQ(config_read(0, 4), 0x56781234);
    free(sg);
    device_destroy();
}

CASE(an_entry_full_of_garbage)
{
    struct iovec iov;
    char data[8] = {0};

    device();
    map_ram(memory(RAM_SIZE));
    dma_sg_t *sg = malloc(dma_sg_size());
    memset(sg, 0xee, dma_sg_size());
    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), -1);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS), -1);
    vfu_sgl_mark_dirty(dev.ctx, sg, 1);
    vfu_sgl_put(dev.ctx, sg, &iov, 1);
    free(sg);
    device_destroy();
}

CASE(dma_while_a_quiesce_is_pending_is_no_abort)
{
    const struct vfio_user_dma_map map = {sizeof(map), 3, 0, RAM_AT + RAM_SIZE, RAM_SIZE};
    char data[8];

    device();
    map_ram(memory(RAM_SIZE));
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_READ);
    dev.quiesce_errno = EBUSY;
    wire_command(dev.sock, 1, VFIO_USER_DMA_MAP, &map, sizeof(map), NULL, 0);
    EQ(run_once(), -1);
    EQ(dev.rc_errno, EBUSY);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS), 0);
    EQ(vfu_device_quiesced(dev.ctx, 0), 0);
    free(sg);
    device_destroy();
}

/* ---- functions of a context that call it from its own callbacks ---- */

static int rc_inside, errno_inside;

static void run_in_access(void)
{
    rc_inside = vfu_run_ctx(dev.ctx);
    errno_inside = errno;
}

CASE(run_inside_of_a_callback_is_refused)
{
    device();
    dev.on_access = run_in_access;
    uint32_t value;
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0, &value, 4), 0);
    EQ(rc_inside, -1);
    CHECK(errno_inside == EBUSY || errno_inside == EDEADLK || errno_inside == EINVAL);
    device_destroy();
}

/* ---- anything at all ---- */

static uint32_t seed;

static uint32_t number(uint32_t below)
{
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(seed >> 8) * below >> 24);
}

/* Numbers that are wrong in interesting ways. */
static uint64_t odd(void)
{
    static const uint64_t odd[] = {0,       1,       2,           7,           8,          15,         16,
                                   32,      255,     4096,        RAM_AT,      RAM_SIZE,   UINT16_MAX, UINT32_MAX,
                                   INT32_MAX, INT64_MAX, UINT64_MAX, 0x100000, 0x100021, 0xdeadbeef, 0x8000000000000000};

    return number(3) != 0 ? odd[number(sizeof(odd) / sizeof(odd[0]))] : number(64);
}

/* A command that is right, most of the time; gives the length of its payload. */
static uint32_t something(uint8_t *payload, uint16_t *cmd)
{
    const uint32_t mapped = (number(16) + 1) * RAM_SIZE, offset = 4 * number(64);
    const struct vfio_user_region_access access = {offset, number(2) * VFU_PCI_DEV_CFG_REGION_IDX, 1 << number(4)};
    const struct vfio_user_dma_map map = {sizeof(map), 3, 0, mapped, RAM_SIZE};
    const struct vfio_user_dma_unmap unmap = {.argsz = sizeof(unmap), .addr = mapped, .size = RAM_SIZE};
    const uint32_t set[5] = {sizeof(set), 1 << number(3) | 8 << number(3), number(5), number(4), number(3)};
    const uint32_t ask[8] = {number(256), 0, number(10), 0};
    const uint32_t get[12] = {number(4096), 1 << (16 + number(3)) | number(10), number(8), 0, RAM_SIZE, 0, 4096, 0};
    const struct vfio_user_mig_data data = {8 + 16, 16};

    static const uint16_t asks[4] = {VFIO_USER_DEVICE_GET_INFO, VFIO_USER_DEVICE_GET_REGION_INFO,
                                     VFIO_USER_DEVICE_GET_REGION_IO_FDS, VFIO_USER_DEVICE_GET_IRQ_INFO};
    memset(payload, 0x11, 256);
#define IS(command, from, more) (*cmd = (command), memcpy(payload, from, sizeof(*from)), (uint32_t)sizeof(*from) + (more))
    switch (number(9)) {
    case 0:
        return IS(VFIO_USER_REGION_READ, &access, 0);
    case 1:
        return IS(VFIO_USER_REGION_WRITE, &access, access.count);
    case 2:
        return IS(VFIO_USER_DMA_MAP, &map, 0);
    case 3:
        return IS(VFIO_USER_DMA_UNMAP, &unmap, 0);
    case 4:
        return IS(VFIO_USER_DEVICE_SET_IRQS, &set, 0);
    case 5:
        return IS(asks[number(4)], &ask, 0);
    case 6:
        return IS(VFIO_USER_DEVICE_FEATURE, &get, 0);
    case 7:
        return IS(VFIO_USER_MIG_DATA_READ + number(2), &data, 16);
    default:
        *cmd = number(20);
        return *cmd == VFIO_USER_DEVICE_RESET ? 0 : 4 * number(20);
    }
#undef IS
}

/* A whole message, one in two of them with a number that is odd; now and then half a one, and good-bye: false. */
static bool send_something(void)
{
    uint8_t bytes[16 + 256];
    uint16_t cmd;
    uint32_t len = 16 + something(bytes + 16, &cmd);
    struct vfio_user_header header = {(uint16_t)number(65536), cmd, len, 0, 0};
    int fds[2] = {-1, -1}, nr_fds = number(cmd == VFIO_USER_DMA_MAP ? 2 : 4) == 0 ? 1 + number(2) : 0;

    if (number(16) == 0)
        header.flags = (uint32_t)odd();
    memcpy(bytes, &header, 16);
    while (len > 16 && number(2) == 0) {
        uint32_t value = (uint32_t)odd(), at = 16 + 4 * number((len - 16 + 3) / 4);
        memcpy(bytes + at, &value, 4);
    }
    for (int i = 0; i < nr_fds; i++)
        fds[i] = memory(number(2) * RAM_SIZE);
    bool leaves = number(200) == 0;
    wire_send(dev.sock, bytes, leaves ? len / 2 + 1 : len, fds, nr_fds);
    if (leaves)
        shutdown(dev.sock, SHUT_WR);
    for (int i = 0; i < nr_fds; i++)
        close(fds[i]);
    return !leaves;
}

static void drop_answers(void)
{
    char bytes[65536];

    while (recv(dev.sock, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
}

static int touched;

/* A device that uses the memory it is given, whatever that is: also files that are shorter than they should be. */
static void touch_memory(void)
{
    dma_sg_t *sg = calloc(1, dma_sg_size());
    uint64_t at = (number(16) + 1) * RAM_SIZE + number(RAM_SIZE);
    uint8_t data[64] = {0};

    if (vfu_addr_to_sgl(dev.ctx, (void *)(uintptr_t)at, 1 + number(64), sg, 1, PROT_WRITE) == 1) {
        vfu_sgl_mark_dirty(dev.ctx, sg, 1);
        if (vfu_sg_is_mappable(dev.ctx, sg)) {
            touched += vfu_sgl_read(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS) == 0;
            touched += vfu_sgl_write(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS) == 0;
        }
    }
    vfu_irq_trigger(dev.ctx, number(5));
    free(sg);
}

/* The next client finds the device well, and nothing is left of this one. */
static void anything(uint32_t from)
{
    const uint32_t running[4] = {16, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
                                 VFIO_USER_DEVICE_STATE_RUNNING, 0};
    int before;

    seed = from;
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_EXPRESS);
    device_migratable();
    device_connect(CAPABILITIES);
    before = open_fds();
    dev.on_access = touch_memory;
    for (int message = 0; message < 3000; message++) {
        if (message % 50 == 0) /* a device that is stopped has little to do */
            wire_command(dev.sock, 1, VFIO_USER_DEVICE_FEATURE, running, sizeof(running), NULL, 0);
        bool stays = send_something();
        dev.state_written = 0;
        dev.transitions = 0;
        if (!stays)
            run_until(ENOTCONN);
        if (!stays || run_once() < 0) {
            EQ(dev.rc_errno, ENOTCONN);
            close(dev.sock);
            device_connect(CAPABILITIES);
        }
        drop_answers();
    }
    CHECK(dev.maps > 10 && dev.unmaps > 10 && dev.accesses > 100 && dev.resets[VFU_RESET_DEVICE] > 0);
    CHECK(touched > 0);
    disconnect();
    run_until(ENOTCONN);
    CHECK(open_fds() < before);
    device_connect(CAPABILITIES);
    EQ(config_read(0, 2), 0x1234);
    device_destroy();
}

CASE(anything_a_client_sends_1) { anything(1); }
CASE(anything_a_client_sends_2) { anything(22); }
CASE(anything_a_client_sends_3) { anything(333); }
CASE(anything_a_client_sends_4) { anything(4444); }

/* CASE_SEED says another. */
CASE(anything_a_client_sends_by_seed)
{
    const char *from = getenv("CASE_SEED");

    anything(from != NULL ? (uint32_t)atoi(from) : 55555);
}
