/* Defects of the C library that this one must not have, D19 to D28: ways to stop a server, and wrong results. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#include "device.h"

#define RW (VFIO_USER_F_DMA_REGION_READ | VFIO_USER_F_DMA_REGION_WRITE)
#define PAGE 4096

static void migratable(void)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_migratable();
    device_connect(CAPABILITIES);
}

static int start_logging(uint64_t page_size)
{
    struct vfio_user_device_feature_dma_logging_control control = {page_size, 0, 0};

    return feature(VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START, &control, sizeof(control), 24, NULL);
}

/* Fills bitmap with the report; gives its errno. */
static int report(uint64_t address, uint64_t len, uint64_t page_size, uint8_t *bitmap, size_t bytes)
{
    struct vfio_user_device_feature_dma_logging_report ask = {address, len, page_size};
    struct msg reply;
    int error = feature(VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, &ask, sizeof(ask),
                        8 + sizeof(ask) + bytes, &reply);

    if (error == 0) {
        EQ(reply.len, 8 + sizeof(ask) + bytes);
        memcpy(bitmap, reply.data + 8 + sizeof(ask), bytes);
    }
    wire_free(&reply);
    return error;
}

static void dirty(uint64_t address, size_t len)
{
    struct iovec iov;
    dma_sg_t *sg = look_up(address, len, PROT_WRITE);

    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), 0);
    vfu_sgl_put(dev.ctx, sg, &iov, 1);
    free(sg);
}

static int ones(const uint8_t *bitmap, size_t bytes)
{
    int count = 0;

    for (size_t i = 0; i < bytes; i++)
        count += __builtin_popcount(bitmap[i]);
    return count;
}

/* ---- ways to stop the server ---- */

CASE(d19_logging_for_a_device_without_dma)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    EQ(vfu_pci_init(dev.ctx, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0), 0);
    vfu_pci_set_id(dev.ctx, 0x1234, 0x5678, 0, 0);
    device_migratable();
    device_connect(CAPABILITIES);
    EQ(start_logging(PAGE), EINVAL);
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

CASE(d20_an_interrupt_into_a_broken_pipe)
{
    int ends[2];

    device();
    EQ(pipe2(ends, O_CLOEXEC), 0);
    set_irqs(VFU_DEV_INTX_IRQ, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 1, &ends[1], 1);
    close(ends[0]);
    close(ends[1]);
    EQ(vfu_irq_trigger(dev.ctx, 0), -1);
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

CASE(d21_an_eventfd_that_is_full)
{
    int full = eventfd(0, EFD_CLOEXEC);
    uint64_t most = UINT64_MAX - 1;

    device();
    EQ(write(full, &most, sizeof(most)), sizeof(most));
    EQ(set_irqs(VFU_DEV_INTX_IRQ, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 1, &full, 1), 0);
    vfu_irq_trigger(dev.ctx, 0); /* returns, with whatever */
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

CASE(d22_a_report_of_smaller_pages_than_are_logged)
{
    enum { LOGGED = 16 * PAGE, SIZE = 64 * LOGGED };
    uint8_t bitmap[SIZE / PAGE / 8] = {0};

    migratable();
    EQ(dma_map(0, SIZE, RW, memory(SIZE), 0), 0);
    EQ(start_logging(LOGGED), 0);
    dirty(40 * LOGGED + 5, 1); /* behind bit 256 of the report */
    EQ(report(0, SIZE, PAGE, bitmap, sizeof(bitmap)), 0);
    EQ(ones(bitmap, sizeof(bitmap)), 16); /* the whole logged page, in 16 smaller ones */
    EQ(bitmap[40 * 16 / 8], 0xff);
    EQ(bitmap[40 * 16 / 8 + 1], 0xff);
    device_destroy();
}

CASE(d22_pages_of_no_power_of_two)
{
    uint8_t bitmap[8];

    migratable();
    EQ(dma_map(0, 64 * PAGE, RW, memory(64 * PAGE), 0), 0);
    EQ(start_logging(3 * PAGE), EINVAL);
    EQ(start_logging(PAGE), 0);
    EQ(report(0, 64 * PAGE, 3 * PAGE, bitmap, sizeof(bitmap)), EINVAL);
    device_destroy();
}

CASE(d22_a_bitmap_larger_than_a_message)
{
    struct vfio_user_device_feature_dma_logging_report ask = {0, 1ull << 36, PAGE};

    migratable();
    EQ(dma_map(0, 1ull << 36, RW, memory(PAGE), 0), 0);
    EQ(start_logging(PAGE), 0);
    CHECK(feature(VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, &ask, sizeof(ask), UINT32_MAX, NULL) != 0);
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

/* ---- wrong results ---- */

CASE(d23_no_dirty_page_is_lost_in_larger_pages)
{
    enum { SIZE = 8 * 1024 * 1024, REPORTED = 2 * PAGE, BITS = SIZE / REPORTED };
    uint8_t bitmap[BITS / 8] = {0};

    migratable();
    EQ(dma_map(0, SIZE, RW, memory(SIZE), 0), 0);
    EQ(start_logging(PAGE), 0);
    for (uint64_t page = 0; page < SIZE / PAGE; page += 2)
        dirty(page * PAGE, 1);
    EQ(report(0, SIZE, REPORTED, bitmap, sizeof(bitmap)), 0);
    EQ(ones(bitmap, sizeof(bitmap)), BITS);
    device_destroy();
}

CASE(d24_a_report_over_two_maps_is_no_empty_success)
{
    uint8_t bitmap[8];

    migratable();
    EQ(dma_map(0, 32 * PAGE, RW, memory(32 * PAGE), 0), 0);
    EQ(dma_map(32 * PAGE, 32 * PAGE, RW, memory(32 * PAGE), 0), 0);
    EQ(start_logging(PAGE), 0);
    dirty(40 * PAGE, 1);
    int error = report(0, 64 * PAGE, PAGE, bitmap, sizeof(bitmap)); /* checks the length of a success */
    if (error == 0)
        EQ(bitmap[5], 1);
    device_destroy();
}

CASE(d25_vectors_are_taken_away_one_by_one)
{
    int fds[4];
    uint64_t count;

    device();
    for (int i = 0; i < 4; i++)
        fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 4, fds, 4), 0);
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 2, 1, NULL, 0), 0);
    FAILS(vfu_irq_trigger(dev.ctx, 2), ENOENT);
    EQ(vfu_irq_trigger(dev.ctx, 3), 0);
    EQ(read(fds[2], &count, sizeof(count)), -1);
    EQ(read(fds[3], &count, sizeof(count)), sizeof(count));
    device_destroy();
}

CASE(d26_memory_beyond_the_last_address)
{
    device();
    EQ(dma_map(UINT64_MAX - PAGE + 1, 2 * PAGE, RW, -1, 0), EINVAL);
    EQ(dma_map(UINT64_MAX, UINT64_MAX, RW, -1, 0), EINVAL);
    EQ(dev.maps, 0);
    device_destroy();
}

CASE(d26_memory_of_no_size)
{
    device();
    EQ(dma_map(RAM_AT, 0, RW, -1, 0), EINVAL);
    EQ(dev.maps, 0);
    map_ram(-1);
    device_destroy();
}

CASE(d27_a_device_that_can_not_quiesce_has_the_request_fail)
{
    struct vfio_user_dma_map map = {sizeof(map), RW, 0, RAM_AT, RAM_SIZE};
    struct msg reply;

    device();
    dev.quiesce_errno = EBUSY;
    wire_command(dev.sock, 9, VFIO_USER_DMA_MAP, &map, sizeof(map), NULL, 0);
    EQ(run_once(), -1);
    EQ(dev.rc_errno, EBUSY);
    dev.quiesce_errno = 0;
    EQ(vfu_device_quiesced(dev.ctx, ENOTTY), 0);
    CHECK(wire_readable(dev.sock));
    CHECK(wire_receive(dev.sock, &reply));
    EQ(reply.header.msg_id, 9);
    EQ(reply.header.error_no, ENOTTY);
    wire_free(&reply);
    EQ(dev.maps, 0);
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

CASE(d27_the_same_memory_once_more_is_not_registered_again)
{
    int fd = memory(RAM_SIZE);

    device();
    map_ram(fd);
    EQ(dev.maps, 1);
    EQ(dma_map(RAM_AT, RAM_SIZE, RW, fd, 0), 0);
    EQ(dev.maps, 1);
    CHECK(dma_map(RAM_AT, RAM_SIZE, VFIO_USER_F_DMA_REGION_READ, fd, 0) != 0); /* not what it was */
    device_destroy();
}

CASE(d28_memory_that_may_not_be_read)
{
    dma_sg_t *sg = calloc(1, dma_sg_size());

    device();
    EQ(dma_map(RAM_AT, RAM_SIZE, VFIO_USER_F_DMA_REGION_WRITE, -1, 0), 0);
    FAILS(vfu_addr_to_sgl(dev.ctx, (void *)RAM_AT, 16, sg, 1, PROT_READ), EACCES);
    EQ(vfu_addr_to_sgl(dev.ctx, (void *)RAM_AT, 16, sg, 1, PROT_WRITE), 1);
    free(sg);
    device_destroy();
}

#if defined(__x86_64__)
#define REGISTER(context, n) (context)->uc_mcontext.gregs[(int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10}[n]]
#define RESULT(context) (context)->uc_mcontext.gregs[REG_RAX]
#elif defined(__aarch64__)
#define REGISTER(context, n) (context)->uc_mcontext.regs[n]
#define RESULT(context) (context)->uc_mcontext.regs[0]
#endif

#ifdef RESULT
static int interrupts;

/* Every other pread or pwrite is as if a signal had come first. */
static void interrupt(int signal, siginfo_t *info, void *context)
{
    ucontext_t *c = context;
    struct iovec iov = {(void *)REGISTER(c, 1), REGISTER(c, 2)};
    int fd = REGISTER(c, 0), call = info->si_syscall == SYS_pread64 ? SYS_preadv : SYS_pwritev;

    (void)signal;
    RESULT(c) = -EINTR;
    if (interrupts++ % 2 == 1) {
        long done = syscall(call, fd, &iov, 1, REGISTER(c, 3), 0L);
        RESULT(c) = done < 0 ? -errno : done;
    }
}

CASE(d28_file_io_that_a_signal_interrupts)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pread64, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pwrite64, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
    struct sigaction action = {.sa_sigaction = interrupt, .sa_flags = SA_SIGINFO};
    int fd = memory(RAM_SIZE);
    char data[8] = "";

    device();
    EQ(dma_map(RAM_AT, RAM_SIZE, RW | VFIO_USER_F_DMA_REGION_FILE_IO, fd, 0), 0);
    dma_sg_t *sg = look_up(RAM_AT + 0x100, sizeof(data), PROT_READ | PROT_WRITE);
    EQ(sigaction(SIGSYS, &action, NULL), 0);
    EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    EQ(vfu_sgl_write(dev.ctx, sg, 1, "signals", VFU_SGL_DIRECT_ACCESS), 0);
    EQ(interrupts, 2);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS), 0);
    EQ(interrupts, 4);
    EQ(strcmp(data, "signals"), 0);
    free(sg);
    device_destroy();
}
#endif

CASE(d28_a_write_that_is_refused_changes_nothing)
{
    uint64_t both = 0x1122334455667788; /* the interrupt line, and what nobody knows behind the header */

    device();
    EQ(region_write(VFU_PCI_DEV_CFG_REGION_IDX, 0x3c, &both, sizeof(both)), EINVAL);
    EQ(config_read(0x3c, 1), 0);
    EQ(config_write(0x3c, 0x88, 1), 0);
    EQ(config_read(0x3c, 1), 0x88);
    device_destroy();
}

CASE(d28_migration_data_is_as_long_as_it_is)
{
    struct vfio_user_mig_data ask = {8 + 64, 64};
    struct msg reply;

    migratable();
    dev.state_len = 3;
    memcpy(dev.state, "abc", 3);
    EQ(migrate(VFIO_USER_DEVICE_STATE_PRE_COPY), 0);
    EQ(call(VFIO_USER_MIG_DATA_READ, &ask, sizeof(ask), NULL, 0, &reply), 0);
    EQ(((struct vfio_user_mig_data *)reply.data)->size, 3);
    EQ(reply.len, 8 + 3);
    EQ(memcmp(reply.data + 8, "abc", 3), 0);
    wire_free(&reply);
    device_destroy();
}

CASE(d28_capabilities_may_touch)
{
    struct {
        struct cap_hdr hdr;
        uint8_t size, data[5];
    } vendor = {{PCI_CAP_ID_VNDR, 0}, 8, {0}};

    device_create(0);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_pci_add_capability(dev.ctx, 0x50, 0, &vendor), 0x50);
    EQ(vfu_pci_add_capability(dev.ctx, 0x48, 0, &vendor), 0x48);
    FAILS(vfu_pci_add_capability(dev.ctx, 0x4c, 0, &vendor), EINVAL);
    device_destroy();
}

CASE(d28_no_descriptor_survives_exec)
{
    int fds[2] = {memory(RAM_SIZE), eventfd(0, EFD_CLOEXEC)};

    device();
    map_ram(fds[0]);
    EQ(set_irqs(VFU_DEV_INTX_IRQ, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 1, &fds[1], 1), 0);
    for (int fd = 3; fd < 64; fd++) {
        int flags = fcntl(fd, F_GETFD);
        struct stat st;
        if (flags < 0 || fstat(fd, &st) != 0 || getenv("VFU_CASE_FDS") != NULL)
            continue;
        if (fd == dev.sock || S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode))
            CHECK(flags & FD_CLOEXEC);
    }
    device_destroy();
}

CASE(d28_a_pending_request_is_freed)
{
    struct vfio_user_dma_map map = {sizeof(map), RW, 0, RAM_AT, RAM_SIZE};

    device();
    int before = open_fds(), fd = memory(RAM_SIZE);
    dev.quiesce_errno = EBUSY;
    wire_command(dev.sock, 9, VFIO_USER_DMA_MAP, &map, sizeof(map), &fd, 1);
    close(fd);
    EQ(run_once(), -1);
    EQ(dev.rc_errno, EBUSY);
    device_destroy();
    EQ(open_fds(), before - 3); /* both ends of the connection, and the socket that listens */
}
