#define _GNU_SOURCE
#include "device.h"

#include <dirent.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

struct device dev;
uint8_t client_ram[RAM_SIZE];

/* ---- callbacks ---- */

static ssize_t bar0(vfu_ctx_t *ctx, char *buf, size_t count, int64_t offset, bool is_write)
{
    CHECK(ctx == dev.ctx);
    dev.access = (struct access_seen){count, offset, is_write};
    dev.accesses++;
    if (dev.on_access != NULL)
        dev.on_access();
    if (dev.access_errno != 0) {
        errno = dev.access_errno;
        return -1;
    }
    if (offset + count > BAR0_SIZE)
        return count; /* a region that a case has made larger */
    if (is_write)
        memcpy(dev.bar0 + offset, buf, count);
    else
        memcpy(buf, dev.bar0 + offset, count);
    return count;
}

static int reset(vfu_ctx_t *ctx, vfu_reset_type_t type)
{
    CHECK(ctx == dev.ctx && type <= VFU_RESET_PCI_FLR);
    dev.resets[type]++;
    if (dev.on_reset != NULL)
        dev.on_reset();
    return dev.reset_result;
}

static int quiesce(vfu_ctx_t *ctx)
{
    CHECK(ctx == dev.ctx);
    dev.quiesces++;
    errno = dev.quiesce_errno;
    return dev.quiesce_errno != 0 ? -1 : 0;
}

static void dma_register(vfu_ctx_t *ctx, vfu_dma_info_t *info)
{
    CHECK(ctx == dev.ctx);
    dev.maps++;
    dev.map = *info;
    if (dev.on_map != NULL)
        dev.on_map();
}

static void dma_unregister(vfu_ctx_t *ctx, vfu_dma_info_t *info)
{
    CHECK(ctx == dev.ctx);
    dev.unmaps++;
    dev.unmap = *info;
    if (dev.on_unmap != NULL)
        dev.on_unmap();
}

static void irq_state(vfu_ctx_t *ctx, uint32_t start, uint32_t count, bool mask)
{
    CHECK(ctx == dev.ctx);
    dev.irq_states++;
    dev.irq_start = start;
    dev.irq_count = count;
    dev.irq_mask = mask;
}

static void log_line(vfu_ctx_t *ctx, int level, const char *text)
{
    (void)ctx;
    dev.logs++;
    dev.log_level = level;
    CHECK(level >= LOG_EMERG && level <= LOG_DEBUG);
    CHECK(strlen(text) < sizeof(dev.log));
    strcpy(dev.log, text);
    if (getenv("VERBOSE") != NULL)
        fprintf(stderr, "    log[%d] %s\n", level, text);
    errno = EXDEV; /* a log of a program's own may do that; nobody may see it */
}

static int transition(vfu_ctx_t *ctx, vfu_migr_state_t state)
{
    CHECK(ctx == dev.ctx && dev.transitions < 16);
    if (dev.transition_errno != 0) {
        errno = dev.transition_errno;
        return -1;
    }
    dev.states[dev.transitions++] = state;
    return 0;
}

static ssize_t read_data(vfu_ctx_t *ctx, void *buf, uint64_t count)
{
    size_t left = dev.state_len - dev.state_read;

    CHECK(ctx == dev.ctx);
    if (dev.read_errno != 0) {
        errno = dev.read_errno;
        return -1;
    }
    count = count < left ? count : left;
    memcpy(buf, dev.state + dev.state_read, count);
    dev.state_read += count;
    return count;
}

static ssize_t write_data(vfu_ctx_t *ctx, void *buf, uint64_t count)
{
    CHECK(ctx == dev.ctx);
    if (dev.write_errno != 0) {
        errno = dev.write_errno;
        return -1;
    }
    CHECK(dev.state_written + count <= sizeof(dev.state));
    memcpy(dev.state + dev.state_written, buf, count);
    dev.state_written += count;
    return count - dev.write_short;
}

/* ---- setup ---- */

void device_create(int flags)
{
    dev.sock = dev.dma_sock = -1;
    dev.ctx = vfu_create_ctx(VFU_TRANS_SOCK, SOCKET, flags, &dev, VFU_DEV_TYPE_PCI);
    CHECK(dev.ctx != NULL);
    EQ(vfu_setup_log(dev.ctx, log_line, LOG_DEBUG), 0);
}

void device_setup(vfu_pci_type_t type)
{
    EQ(vfu_pci_init(dev.ctx, type, PCI_HEADER_TYPE_NORMAL, 7), 0);
    vfu_pci_set_id(dev.ctx, 0x1234, 0x5678, 0x9abc, 0xdef0);
    EQ(vfu_setup_region(dev.ctx, VFU_PCI_DEV_BAR0_REGION_IDX, BAR0_SIZE, bar0,
                        VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM, NULL, 0, -1, 0),
       0);
    EQ(vfu_setup_device_reset_cb(dev.ctx, reset), 0);
    vfu_setup_device_quiesce_cb(dev.ctx, quiesce);
    EQ(vfu_setup_device_dma(dev.ctx, 64, dma_register, dma_unregister), 0);
    EQ(vfu_setup_device_nr_irqs(dev.ctx, VFU_DEV_INTX_IRQ, 1), 0);
    EQ(vfu_setup_device_nr_irqs(dev.ctx, VFU_DEV_MSIX_IRQ, 4), 0);
    EQ(vfu_setup_irq_state_callback(dev.ctx, VFU_DEV_INTX_IRQ, irq_state), 0);
    EQ(vfu_setup_irq_state_callback(dev.ctx, VFU_DEV_MSIX_IRQ, irq_state), 0);
}

void device_migratable(void)
{
    const vfu_migration_callbacks_t callbacks = {VFU_MIGR_CALLBACKS_VERS, transition, read_data, write_data};

    EQ(vfu_setup_device_migration_callbacks(dev.ctx, &callbacks), 0);
}

void device_connect(const char *json)
{
    struct msg reply;
    int rc;

    EQ(vfu_realize_ctx(dev.ctx), 0);
    dev.sock = dev.dma_sock = wire_connect(SOCKET);
    wire_version(dev.sock, json);
    do {
        rc = vfu_attach_ctx(dev.ctx);
    } while (rc != 0 && (errno == EAGAIN || errno == EINTR));
    EQ(rc, 0);
    CHECK(wire_receive(dev.sock, &reply));
    EQ(reply.header.error_no, 0);
    if (reply.nr_fds == 1)
        dev.dma_sock = dup(reply.fds[0]);
    wire_free(&reply);
}

void device(void)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_connect(CAPABILITIES);
}

void device_destroy(void)
{
    if (dev.sock >= 0)
        close(dev.sock);
    if (dev.dma_sock >= 0 && dev.dma_sock != dev.sock)
        close(dev.dma_sock);
    vfu_destroy_ctx(dev.ctx);
    dev.ctx = NULL;
}

/* ---- the client ---- */

int run_once(void)
{
    struct pollfd poll_fd = {.fd = vfu_get_poll_fd(dev.ctx), .events = POLLIN};

    poll(&poll_fd, 1, 50); /* a wait that need not be, at most */
    errno = 0;
    dev.rc = vfu_run_ctx(dev.ctx);
    dev.rc_errno = errno;
    return dev.rc;
}

void run_until(int number)
{
    do {
        run_once();
    } while (dev.rc >= 0);
    EQ(dev.rc_errno, number);
}

int answer(struct msg *reply)
{
    struct msg dropped;
    struct msg *to = reply != NULL ? reply : &dropped;
    int error;

    do {
        run_once();
    } while (dev.rc >= 0 && !wire_readable(dev.sock));
    CHECK(wire_receive(dev.sock, to));
    EQ(to->header.flags & VFIO_USER_F_TYPE_MASK, VFIO_USER_F_TYPE_REPLY);
    error = to->header.flags & VFIO_USER_F_ERROR ? (int)to->header.error_no : 0;
    if (reply == NULL)
        wire_free(&dropped);
    return error;
}

int call(uint16_t cmd, const void *data, size_t len, const int *fds, int nr_fds, struct msg *reply)
{
    struct msg dropped;
    struct msg *to = reply != NULL ? reply : &dropped;
    int error;

    wire_command(dev.sock, ++dev.id, cmd, data, len, fds, nr_fds);
    error = answer(to);
    EQ(to->header.msg_id, dev.id);
    EQ(to->header.cmd, cmd);
    if (reply == NULL)
        wire_free(&dropped);
    return error;
}

void disconnect(void)
{
    close(dev.sock);
    if (dev.dma_sock != dev.sock)
        close(dev.dma_sock);
    dev.sock = dev.dma_sock = -1;
}

int region_read(uint32_t region, uint64_t offset, void *to, uint32_t count)
{
    struct vfio_user_region_access access = {offset, region, count};
    struct msg reply;
    int error = call(VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0, &reply);

    if (error == 0) {
        EQ(reply.len, sizeof(access) + count);
        memcpy(to, reply.data + sizeof(access), count);
    }
    wire_free(&reply);
    return error;
}

int region_write(uint32_t region, uint64_t offset, const void *from, uint32_t count)
{
    struct vfio_user_region_access access = {offset, region, count};
    uint8_t *data = malloc(sizeof(access) + count);
    int error;

    memcpy(data, &access, sizeof(access));
    memcpy(data + sizeof(access), from, count);
    error = call(VFIO_USER_REGION_WRITE, data, sizeof(access) + count, NULL, 0, NULL);
    free(data);
    return error;
}

int config_write(uint64_t offset, uint32_t value, uint32_t count)
{
    return region_write(VFU_PCI_DEV_CFG_REGION_IDX, offset, &value, count);
}

uint32_t config_read(uint64_t offset, uint32_t count)
{
    uint32_t value = 0;

    EQ(region_read(VFU_PCI_DEV_CFG_REGION_IDX, offset, &value, count), 0);
    return value;
}

int dma_map(uint64_t address, uint64_t size, uint32_t flags, int fd, uint64_t offset)
{
    struct vfio_user_dma_map map = {sizeof(map), flags, offset, address, size};

    return call(VFIO_USER_DMA_MAP, &map, sizeof(map), &fd, fd >= 0, NULL);
}

int dma_unmap(uint64_t address, uint64_t size)
{
    struct vfio_user_dma_unmap unmap = {.argsz = sizeof(unmap), .addr = address, .size = size};

    return call(VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap), NULL, 0, NULL);
}

int set_irqs(uint32_t index, uint32_t flags, uint32_t start, uint32_t count, const int *fds, int nr_fds)
{
    uint32_t data[5] = {sizeof(data), flags, index, start, count};

    return call(VFIO_USER_DEVICE_SET_IRQS, data, sizeof(data), fds, nr_fds, NULL);
}

int feature(uint32_t flags, const void *data, size_t len, uint32_t argsz, struct msg *reply)
{
    struct vfio_user_device_feature head = {argsz, flags};
    uint8_t *all = malloc(sizeof(head) + len);
    int error;

    memcpy(all, &head, sizeof(head));
    if (len > 0)
        memcpy(all + sizeof(head), data, len);
    error = call(VFIO_USER_DEVICE_FEATURE, all, sizeof(head) + len, NULL, 0, reply);
    free(all);
    return error;
}

int migrate(uint32_t state)
{
    struct vfio_user_device_feature_mig_state data = {state, 0};

    return feature(VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, &data, sizeof(data), 16, NULL);
}

/* ---- memory ---- */

int memory(size_t size)
{
    int fd = memfd_create("ram", MFD_CLOEXEC);

    EQ(ftruncate(fd, size), 0);
    return fd;
}

void map_ram(int fd)
{
    EQ(dma_map(RAM_AT, RAM_SIZE, VFIO_USER_F_DMA_REGION_READ | VFIO_USER_F_DMA_REGION_WRITE, fd, 0), 0);
}

dma_sg_t *look_up(uint64_t address, size_t len, int prot)
{
    dma_sg_t *sg = calloc(1, dma_sg_size());

    EQ(vfu_addr_to_sgl(dev.ctx, (vfu_dma_addr_t)(uintptr_t)address, len, sg, 1, prot), 1);
    return sg;
}

int open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;

    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

/* ---- the client's thread ---- */

static pthread_t thread;
static void (*thread_body)(void);

static void *thread_start(void *unused)
{
    thread_body();
    return unused;
}

void client_thread(void (*body)(void))
{
    thread_body = body;
    EQ(pthread_create(&thread, NULL, thread_start, NULL), 0);
}

void client_join(void)
{
    EQ(pthread_join(thread, NULL), 0);
}

void serve_dma(int commands)
{
    while (commands-- > 0) {
        struct msg command;

        CHECK(wire_receive(dev.dma_sock, &command));
        const struct vfio_user_dma_region_access *dma = wire_dma(&command);
        CHECK(dma->addr >= RAM_AT && dma->addr + dma->count <= RAM_AT + RAM_SIZE);
        if (command.header.cmd == VFIO_USER_DMA_READ) {
            uint8_t *reply = malloc(sizeof(*dma) + dma->count);
            memcpy(reply, dma, sizeof(*dma));
            memcpy(reply + sizeof(*dma), client_ram + (dma->addr - RAM_AT), dma->count);
            wire_reply(dev.dma_sock, &command, 0, reply, sizeof(*dma) + dma->count);
            free(reply);
        } else {
            EQ(command.len, sizeof(*dma) + dma->count);
            memcpy(client_ram + (dma->addr - RAM_AT), dma->data, dma->count);
            wire_reply(dev.dma_sock, &command, 0, dma, sizeof(*dma));
        }
        wire_free(&command);
    }
}
