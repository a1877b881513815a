/* What a client, or a program's own callback, could do to stop or confuse a device. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device.h"
#include "extensions.h"

static void ours(void)
{
    if (vfu_rs_version == NULL)
        case_skip("another library");
}

/* ---- several writes in one message ---- */

static void write_multi(uint64_t offset, uint32_t region, uint64_t value, uint32_t count)
{
    struct {
        uint64_t nr, offset;
        uint32_t region, count;
        uint64_t value;
    } body = {1, offset, region, count, value};
    struct msg reply;
    uint64_t made;

    EQ(call(VFIO_USER_REGION_WRITE_MULTI, &body, sizeof(body), NULL, 0, &reply), 0);
    EQ(reply.len, sizeof(made));
    memcpy(&made, reply.data, sizeof(made));
    EQ(made, 1);
    wire_free(&reply);
}

CASE(rs_function_level_reset_among_several_writes_is_quiesced)
{
    struct pxcap px = {.hdr = {PCI_CAP_ID_EXP, 0}, .pxcaps = {.ver = 2}, .pxdcap = {.flrc = 1}};

    ours();
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_EXPRESS);
    EQ(vfu_pci_add_capability(dev.ctx, 0x40, 0, &px), 0x40);
    device_connect("{\"capabilities\":{\"write_multiple\":true}}");
    write_multi(0, VFU_PCI_DEV_BAR0_REGION_IDX, 1, 4);
    EQ(dev.quiesces, 0);
    write_multi(0x40 + PCI_EXP_DEVCTL, VFU_PCI_DEV_CFG_REGION_IDX, PCI_EXP_DEVCTL_BCR_FLR, 2);
    EQ(dev.resets[VFU_RESET_PCI_FLR], 1);
    EQ(dev.quiesces, 1);
    device_destroy();
}

/* ---- a client that goes on sending what is refused ---- */

static int refused;

/* The client sends the next one as soon as one is refused. */
static int refuse_and_send(vfu_ctx_t *ctx)
{
    (void)ctx;
    if (++refused < 200)
        wire_command(dev.sock, refused, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0);
    errno = ENOTTY;
    return -1;
}

CASE(a_client_that_goes_on_after_refusals_does_not_keep_run)
{
    device();
    vfu_setup_device_quiesce_cb(dev.ctx, refuse_and_send);
    wire_command(dev.sock, 0, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0);
    EQ(vfu_run_ctx(dev.ctx), 0);
    CHECK(refused >= 1 && refused < 100);
    vfu_setup_device_quiesce_cb(dev.ctx, NULL);
    device_destroy();
}

/* The answers are kept for a client that does not read them, but not without end. */
static void flood(void)
{
    static struct vfio_user_header broken[4096];

    for (int i = 0; i < 4096; i++)
        broken[i] = (struct vfio_user_header){i, VFIO_USER_DEVICE_RESET, 15, 0, 0};
    while (send(dev.sock, broken, sizeof(broken), MSG_NOSIGNAL) > 0)
        continue;
}

CASE(rs_refusals_that_nobody_reads_end_the_session)
{
    ours();
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    vfu_rs_limits_t limits = {.size = sizeof(limits)};
    EQ(vfu_rs_get_limits(dev.ctx, &limits), 0);
    limits.unsent_bytes = 64 << 10;
    limits.send_timeout_ms = 100;
    EQ(vfu_rs_set_limits(dev.ctx, &limits), 0);
    device_connect(CAPABILITIES);
    client_thread(flood);
    run_until(ENOTCONN);
    client_join();
    device_destroy();
}

/* ---- a client that asks for much, and reads nothing ---- */

#define LARGE (64 << 10)

static ssize_t large_access(vfu_ctx_t *ctx, char *buf, size_t count, loff_t offset, bool is_write)
{
    (void)ctx, (void)offset, (void)is_write;
    memset(buf, 0x5a, count);
    return count;
}

static void large_device(uint32_t send_timeout_ms)
{
    ours();
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_setup_region(dev.ctx, VFU_PCI_DEV_BAR2_REGION_IDX, LARGE, large_access, VFU_REGION_FLAG_RW, NULL, 0, -1, 0), 0);
    vfu_rs_limits_t limits = {.size = sizeof(limits)};
    EQ(vfu_rs_get_limits(dev.ctx, &limits), 0);
    limits.send_timeout_ms = send_timeout_ms;
    EQ(vfu_rs_set_limits(dev.ctx, &limits), 0);
    device_connect(CAPABILITIES);
}

#define LARGE_READS 1000

static void ask_for_much(void)
{
    static struct {
        struct vfio_user_header header;
        struct vfio_user_region_access access;
    } reads[LARGE_READS];

    for (int i = 0; i < LARGE_READS; i++) {
        reads[i].header = (struct vfio_user_header){i, VFIO_USER_REGION_READ, sizeof(reads[i]), 0, 0};
        reads[i].access = (struct vfio_user_region_access){0, VFU_PCI_DEV_BAR2_REGION_IDX, LARGE};
    }
    wire_send(dev.sock, reads, sizeof(reads), NULL, 0);
}

static void read_much(void)
{
    struct msg reply;

    for (int i = 0; i < LARGE_READS; i++) {
        CHECK(wire_receive(dev.sock, &reply));
        EQ(reply.header.msg_id, i);
        EQ(reply.len, sizeof(struct vfio_user_region_access) + LARGE);
        wire_free(&reply);
    }
}

/* However long the client may leave replies unread, no call waits for it; and all is answered once it reads. */
CASE(rs_run_does_not_wait_for_a_client_that_does_not_read)
{
    int executed = 0, idle = 0;

    large_device(0);
    ask_for_much();
    while (idle < 3) {
        int got = vfu_run_ctx(dev.ctx);
        CHECK(got >= 0);
        executed += got;
        idle = got == 0 ? idle + 1 : 0;
    }
    /* It has stopped at about the limit of what is kept. */
    CHECK(executed >= 100 && executed <= 500);
    client_thread(read_much);
    while (executed < LARGE_READS) {
        CHECK(run_once() >= 0);
        executed += dev.rc;
    }
    EQ(executed, LARGE_READS);
    client_join();
    device_destroy();
}

CASE(rs_a_client_that_does_not_read_is_ended_in_time)
{
    large_device(300);
    ask_for_much();
    run_until(ENOTCONN);
    EQ(dev.resets[VFU_RESET_LOST_CONN], 1);
    device_destroy();
}

/* The same, while the requests wait for the device to become quiet. */
CASE(rs_quiesced_does_not_wait_for_a_client_that_does_not_read)
{
    large_device(0);
    dev.quiesce_errno = EBUSY;
    wire_command(dev.sock, 9999, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0);
    ask_for_much();
    run_until(EBUSY);
    for (int i = 0; i < 1000; i++)
        FAILS(vfu_run_ctx(dev.ctx), EBUSY);
    dev.quiesce_errno = 0;
    EQ(vfu_device_quiesced(dev.ctx, 0), 0);
    int idle = 0;
    while (idle < 3) {
        dev.rc = vfu_run_ctx(dev.ctx);
        CHECK(dev.rc >= 0);
        idle = dev.rc == 0 ? idle + 1 : 0;
    }
    disconnect();
    run_until(ENOTCONN);
    device_destroy();
}

/* ---- callbacks that call back ---- */

static int rc_inside, errno_inside, unmaps_inside;

static void attach_inside(void)
{
    rc_inside = vfu_attach_ctx(dev.ctx);
    errno_inside = errno;
}

CASE(attach_inside_of_a_callback)
{
    uint32_t value;

    device();
    dev.on_access = attach_inside;
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0, &value, 4), 0);
    EQ(rc_inside, -1);
    EQ(errno_inside, EINVAL);
    rc_inside = 0;
    dev.on_reset = attach_inside;
    device_destroy(); /* resets */
    EQ(rc_inside, -1);
    EQ(errno_inside, EINVAL);
}

/* The reset callback of another context, which runs inside of a callback of the first. */
static int reset_of_another(vfu_ctx_t *another, vfu_reset_type_t type)
{
    (void)another, (void)type;
    attach_inside();
    EQ(vfu_device_quiesced(dev.ctx, 0), -1);
    EQ(errno, EINVAL);
    vfu_destroy_ctx(dev.ctx);
    return 0;
}

static void destroy_another(void)
{
    vfu_ctx_t *another = vfu_create_ctx(VFU_TRANS_SOCK, "another.sock", 0, NULL, VFU_DEV_TYPE_PCI);

    EQ(vfu_setup_device_reset_cb(another, reset_of_another), 0);
    vfu_destroy_ctx(another);
}

CASE(rs_a_callback_inside_of_one_of_another_context)
{
    uint32_t value;

    ours();
    device();
    dev.on_access = destroy_another;
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0, &value, 4), 0);
    EQ(rc_inside, -1);
    EQ(errno_inside, EINVAL);
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

static void log_that_sets_up(vfu_ctx_t *ctx, int level, const char *text)
{
    (void)level, (void)text;
    EQ(vfu_setup_device_reset_cb(ctx, NULL), 0);
    rc_inside++;
}

CASE(a_log_may_use_the_context)
{
    device_create(0);
    EQ(vfu_setup_log(dev.ctx, log_that_sets_up, LOG_DEBUG), 0);
    FAILS(vfu_setup_region(dev.ctx, VFU_PCI_DEV_BAR0_REGION_IDX, 1000, NULL, VFU_REGION_FLAG_RW, NULL, 0, -1, 0), EINVAL);
    FAILS(vfu_setup_region(dev.ctx, VFU_PCI_DEV_CFG_REGION_IDX, 256, NULL, VFU_REGION_FLAG_READ, NULL, 0, -1, 0), EINVAL);
    EQ(rc_inside, 2);
    device_destroy();
}

static void log_that_fails(vfu_ctx_t *ctx, int level, const char *text)
{
    (void)level, (void)text;
    rc_inside++;
    vfu_destroy_ctx(ctx);
    vfu_log(ctx, LOG_ERR, "in the log");
    FAILS(vfu_setup_region(ctx, VFU_PCI_DEV_BAR0_REGION_IDX, 1000, NULL, VFU_REGION_FLAG_RW, NULL, 0, -1, 0), EINVAL);
}

CASE(rs_what_a_log_does_is_not_logged)
{
    ours();
    device_create(0);
    EQ(vfu_setup_log(dev.ctx, log_that_fails, LOG_DEBUG), 0);
    vfu_log(dev.ctx, LOG_ERR, "once");
    EQ(rc_inside, 1);
    vfu_log(dev.ctx, LOG_ERR, "twice");
    EQ(rc_inside, 2);
    EQ(vfu_setup_log(dev.ctx, NULL, LOG_ERR), 0);
    device_destroy();
}

static int refusals_told, refusal_lines;

static void log_that_adds_up(vfu_ctx_t *ctx, int level, const char *text)
{
    const char *more;
    int left_out = 0;

    (void)ctx;
    if (level > LOG_ERR)
        return;
    if (sscanf(text, "%d more in the last", &left_out) != 1) {
        CHECK(strstr(text, "command failed: ") == text);
        refusals_told++;
        more = strchr(text, '(');
        if (more != NULL)
            EQ(sscanf(more, "(%d more like this", &left_out), 1);
    }
    refusals_told += left_out;
    refusal_lines++;
}

static void log_line_count(vfu_ctx_t *ctx, int level, const char *text)
{
    (void)ctx, (void)level, (void)text;
    refusal_lines++;
}

/* A client may make as many mistakes as it likes: few of them are written, and all are counted. */
CASE(rs_refusals_do_not_fill_a_log)
{
    const int many = 2000;

    ours();
    device();
    EQ(vfu_setup_log(dev.ctx, log_that_adds_up, LOG_DEBUG), 0);
    for (int i = 0; i < many; i++)
        EQ(call(99, NULL, 0, NULL, 0, NULL), EINVAL);
    CHECK(refusals_told < many);
    device_destroy();
    EQ(refusals_told, many);
    CHECK(refusal_lines < many / 10); /* five in 10 s, on however slow a machine */
}

/* Nor does one that comes again and again. */
CASE(rs_clients_that_are_refused_do_not_fill_a_log)
{
    const int many = 200;

    ours();
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    EQ(vfu_setup_log(dev.ctx, log_line_count, LOG_ERR), 0);
    for (int i = 0; i < many; i++) {
        int sock = wire_connect(SOCKET);

        wire_command(sock, 1, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0);
        while (vfu_attach_ctx(dev.ctx) != 0 && (errno == EAGAIN || errno == EINTR))
            ;
        close(sock);
    }
    CHECK(refusal_lines >= 1 && refusal_lines < many / 2);
    device_destroy();
}

/* A forked child has the sockets too. Whatever becomes of it, the client sees when the device ends. */
CASE(rs_a_forked_child_does_not_hold_a_session)
{
    int until[2], status;
    pid_t child;
    char byte;

    ours();
    device();
    map_ram(-1);
    EQ(pipe(until), 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(until[1]);
        close(dev.sock);
        close(dev.dma_sock);
        _exit(read(until[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(until[0]);
    EQ(config_read(0, 4), 0x56781234);
    vfu_destroy_ctx(dev.ctx);
    dev.ctx = NULL;
    {
        struct pollfd end = {.fd = dev.sock, .events = POLLIN};

        EQ(poll(&end, 1, 20000), 1);
    }
    EQ(recv(dev.sock, &byte, 1, MSG_DONTWAIT), 0);
    EQ(waitpid(child, &status, WNOHANG), 0);
    close(until[1]);
    EQ(waitpid(child, &status, 0), child);
    EQ(status, 0);
    disconnect();
}

static void go_and_run(void)
{
    disconnect();
    do {
        rc_inside = vfu_run_ctx(dev.ctx);
    } while (rc_inside >= 0);
    errno_inside = errno;
    unmaps_inside = dev.unmaps;
}

/* D7: what the callback uses goes when it has returned, also if it runs the context itself. */
CASE(rs_a_client_that_goes_while_a_callback_runs_the_context)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_BAR0_REGION_IDX, 4};

    ours();
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB | LIBVFIO_USER_FLAG_REENTRANT);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_connect(CAPABILITIES);
    map_ram(-1);
    dev.on_access = go_and_run;
    wire_command(dev.sock, 1, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
    run_until(ENOTCONN);
    EQ(errno_inside, ENOTCONN);
    EQ(unmaps_inside, 0);
    EQ(dev.unmaps, 1);
    EQ(dev.resets[VFU_RESET_LOST_CONN], 1);
    device_destroy();
}

static void log_that_says_quiet(vfu_ctx_t *ctx, int level, const char *text)
{
    (void)level, (void)text;
    FAILS(vfu_device_quiesced(ctx, 0), EDEADLK);
    FAILS(vfu_run_ctx(ctx), EDEADLK);
    rc_inside++;
}

/* A log function runs on any thread, which need not be the one that executes requests. */
CASE(rs_a_log_executes_no_requests)
{
    ours();
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB | LIBVFIO_USER_FLAG_REENTRANT);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_connect(CAPABILITIES);
    dev.quiesce_errno = EBUSY;
    wire_command(dev.sock, 1, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0);
    run_until(EBUSY);
    EQ(vfu_setup_log(dev.ctx, log_that_says_quiet, LOG_ERR), 0);
    vfu_log(dev.ctx, LOG_ERR, "anything");
    EQ(rc_inside, 1);
    EQ(vfu_setup_log(dev.ctx, NULL, LOG_ERR), 0);
    EQ(dev.resets[VFU_RESET_DEVICE], 0);
    EQ(vfu_device_quiesced(dev.ctx, 0), 0);
    EQ(dev.resets[VFU_RESET_DEVICE], 1);
    device_destroy();
}

static dma_sg_t *held;
static int moved_inside;

static void copy_inside(void)
{
    uint8_t bytes[8] = {0};

    EQ(vfu_sgl_write(dev.ctx, held, 1, (uint8_t[8]){1, 2, 3, 4, 5, 6, 7, 8}, VFU_SGL_DIRECT_ACCESS), 0);
    EQ(vfu_sgl_read(dev.ctx, held, 1, bytes, VFU_SGL_DIRECT_ACCESS), 0);
    EQ(bytes[7], 8);
    /* By messages the client, which waits for an answer, would have to answer first. */
    FAILS(vfu_sgl_read(dev.ctx, held, 1, bytes, 0), EBUSY);
    moved_inside++;
}

static void look_up_and_copy_inside(void)
{
    held = look_up(RAM_AT, 8, PROT_READ | PROT_WRITE);
    copy_inside();
}

/* Memory that is mapped here can be used in the callbacks that tell of it, and while the device is quiet. */
CASE(rs_memory_in_callbacks_of_a_quiet_device)
{
    ours();
    device();
    dev.on_map = look_up_and_copy_inside;
    map_ram(memory(RAM_SIZE));
    EQ(moved_inside, 1);
    dev.on_reset = copy_inside;
    EQ(call(VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0, NULL), 0);
    EQ(moved_inside, 2);
    dev.on_reset = NULL;
    dev.on_unmap = copy_inside;
    EQ(dma_unmap(RAM_AT, RAM_SIZE), 0);
    EQ(moved_inside, 3);
    dev.on_unmap = NULL;
    free(held);
    device_destroy();
}

/* ---- a request that has to wait, which comes while a callback waits ---- */

static void read_while_busy(void)
{
    uint8_t bytes[8];
    dma_sg_t *entry = look_up(RAM_AT, 8, PROT_READ);

    dev.quiesce_errno = EBUSY;
    EQ(vfu_sgl_read(dev.ctx, entry, 1, bytes, 0), 0);
    free(entry);
}

static void map_twice_then_answer(void)
{
    struct vfio_user_dma_map map = {sizeof(map), 3, 0, 0x100000, 0x1000};
    struct msg command;

    CHECK(wire_receive(dev.sock, &command));
    wire_command(dev.sock, 2, VFIO_USER_DMA_MAP, &map, sizeof(map), NULL, 0);
    while (__atomic_load_n(&dev.quiesces, __ATOMIC_SEQ_CST) < 2)
        sched_yield();
    map.addr = 0x200000;
    wire_command(dev.sock, 3, VFIO_USER_DMA_MAP, &map, sizeof(map), NULL, 0);
    uint8_t reply[16 + 8] = {0};
    memcpy(reply, command.data, 16);
    wire_reply(dev.sock, &command, 0, reply, sizeof(reply));
    wire_free(&command);
}

CASE(rs_requests_that_wait_keep_their_order)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_BAR0_REGION_IDX, 4};
    struct msg reply;

    ours();
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB | LIBVFIO_USER_FLAG_REENTRANT);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_connect(CAPABILITIES);
    map_ram(-1);
    dev.on_access = read_while_busy;
    wire_command(dev.sock, 1, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
    client_thread(map_twice_then_answer);
    run_until(EBUSY);
    client_join();
    EQ(dev.maps, 1);
    dev.quiesce_errno = 0;
    EQ(vfu_device_quiesced(dev.ctx, 0), 0);
    EQ(dev.maps, 3);
    for (int id = 1; id <= 3; id++) {
        while (!wire_readable(dev.sock))
            CHECK(run_once() >= 0);
        CHECK(wire_receive(dev.sock, &reply));
        EQ(reply.header.msg_id, id);
        EQ(reply.header.error_no, 0);
        wire_free(&reply);
    }
    device_destroy();
}

/* ---- a device that is quiet when its DMA has ended ---- */

static int done, done_error;

static void quiet_when_done(vfu_ctx_t *ctx, void *opaque, int error)
{
    (void)opaque;
    done++;
    done_error = error;
    dev.quiesce_errno = 0;
    EQ(vfu_device_quiesced(ctx, 0), 0);
}

static dma_sg_t *sg;
static uint8_t data[8];

static void dma_then_unmap(void)
{
    const struct vfio_user_dma_unmap unmap = {.argsz = sizeof(unmap), .addr = RAM_AT, .size = RAM_SIZE};

    ours();
    device();
    map_ram(-1);
    sg = look_up(RAM_AT, 8, PROT_READ);
    EQ(vfu_rs_sgl_read_async(dev.ctx, sg, 1, data, 0, quiet_when_done, NULL), 0);
    dev.quiesce_errno = EBUSY;
    wire_command(dev.sock, 1, VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap), NULL, 0);
    run_until(EBUSY);
    EQ(dev.unmaps, 0);
}

CASE(rs_quiesce_waits_for_async_dma)
{
    struct msg reply;

    dma_then_unmap();
    memset(client_ram, 0x33, 8);
    serve_dma(1);
    while (done == 0 && (run_once() >= 0 || dev.rc_errno == EBUSY))
        continue;
    EQ(done, 1);
    EQ(done_error, 0);
    EQ(data[7], 0x33);
    EQ(dev.unmaps, 1);
    CHECK(wire_receive(dev.sock, &reply));
    EQ(reply.header.error_no, 0);
    wire_free(&reply);
    EQ(config_read(0, 4), 0x56781234);
    free(sg);
    device_destroy();
}

CASE(rs_quiesce_waits_for_async_dma_and_the_client_goes)
{
    dma_then_unmap();
    disconnect();
    while (run_once() >= 0 || dev.rc_errno == EBUSY)
        continue;
    EQ(dev.rc_errno, ENOTCONN);
    EQ(done, 1);
    EQ(done_error, ENOTCONN);
    EQ(dev.unmaps, 1);
    EQ(dev.quiesces, 2); /* for the map and the unmap: it is quiet already */
    EQ(dev.resets[VFU_RESET_LOST_CONN], 1);
    free(sg);
    device_destroy();
}

/* ---- DMA that is done at once, and starts the next ---- */

#define CHAIN 200000

static void next_in_chain(vfu_ctx_t *ctx, void *opaque, int error)
{
    EQ(error, 0);
    if (++done < CHAIN)
        EQ(vfu_rs_sgl_write_async(ctx, sg, 1, opaque, VFU_SGL_DIRECT_ACCESS, next_in_chain, opaque), 0);
}

CASE(rs_async_in_its_own_callback_needs_no_stack)
{
    ours();
    device();
    map_ram(memory(RAM_SIZE));
    sg = look_up(RAM_AT, 8, PROT_WRITE);
    EQ(vfu_rs_sgl_write_async(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS, next_in_chain, data), 0);
    EQ(done, CHAIN);
    free(sg);
    device_destroy();
}

static void when_done(vfu_ctx_t *ctx, void *opaque, int error)
{
    (void)ctx, (void)opaque, (void)error;
    done++;
}

/* A thread of the library's may be the first to see that the client has gone. */
CASE(rs_async_dma_is_over_when_the_context_is_destroyed)
{
    static uint8_t large[RAM_SIZE];
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_BAR0_REGION_IDX, 4};

    ours();
    for (int i = 0; i < 200; i++) {
        device();
        map_ram(-1);
        sg = look_up(RAM_AT, RAM_SIZE, PROT_WRITE);
        done = 0;
        for (int j = 0; j < 8; j++)
            EQ(vfu_rs_sgl_write_async(dev.ctx, sg, 1, large, 0, when_done, NULL), 0);
        wire_command(dev.sock, 1, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
        EQ(run_once(), 1);
        EQ(done, 0);
        disconnect();
        if (i & 1)
            sched_yield();
        device_destroy();
        EQ(done, 8);
        free(sg);
    }
}

CASE(rs_interrupts_are_checked_after_async_dma_as_before)
{
    ours();
    device();
    map_ram(memory(RAM_SIZE));
    sg = look_up(RAM_AT, 8, PROT_WRITE);
    FAILS(vfu_irq_trigger(dev.ctx, 99), EINVAL);
    FAILS(vfu_irq_trigger(dev.ctx, 0), ENOENT);
    EQ(vfu_rs_sgl_write_async(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS, when_done, NULL), 0);
    EQ(done, 1);
    FAILS(vfu_irq_trigger(dev.ctx, 99), EINVAL);
    FAILS(vfu_irq_trigger(dev.ctx, 0), ENOENT);
    FAILS(vfu_rs_irq_raise(dev.ctx, VFU_DEV_ERR_IRQ, 1), EINVAL);
    FAILS(vfu_rs_irq_raise(dev.ctx, VFU_DEV_ERR_IRQ, 0), ENOENT);
    free(sg);
    device_destroy();
}

/* ---- migration ---- */

static void migratable(void)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_migratable();
    device_connect(CAPABILITIES);
}

static void put_in_unregister(void)
{
    vfu_sgl_put(dev.ctx, sg, NULL, 1);
}

/* SPDK gives entries back when memory goes. What they say counts. */
CASE(dirty_pages_that_are_put_while_memory_goes)
{
    const struct vfio_user_device_feature_dma_logging_control control = {4096, 0, 0};
    struct {
        struct vfio_user_dma_unmap unmap;
        uint64_t page_size, size;
    } ask = {{sizeof(ask) + 8, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, RAM_AT, RAM_SIZE}, 4096, 8};
    struct msg reply;

    migratable();
    map_ram(memory(RAM_SIZE));
    EQ(feature(VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START, &control, sizeof(control), 24, NULL), 0);
    sg = look_up(RAM_AT + 9 * 4096, 1, PROT_WRITE);
    dev.on_unmap = put_in_unregister;
    EQ(call(VFIO_USER_DMA_UNMAP, &ask, sizeof(ask), NULL, 0, &reply), 0);
    EQ(reply.len, sizeof(ask) + 8);
    EQ(reply.data[sizeof(ask) + 1], 1 << 1);
    wire_free(&reply);
    free(sg);
    device_destroy();
}

/* A client that goes amid a migration leaves no device behind that the next one can't use. */
CASE(migration_that_its_client_leaves_can_be_reset)
{
    const uint32_t states[] = {VFIO_USER_DEVICE_STATE_STOP_COPY, VFIO_USER_DEVICE_STATE_RESUMING,
                               VFIO_USER_DEVICE_STATE_PRE_COPY, VFIO_USER_DEVICE_STATE_STOP};
    uint32_t value;

    migratable();
    for (int i = 0; i < 4; i++) {
        EQ(migrate(states[i]), 0);
        disconnect();
        run_until(ENOTCONN);
        device_connect(CAPABILITIES);
        EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0, &value, 4), 0);
        EQ(call(VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0, NULL), 0);
        dev.transitions = 0;
        EQ(migrate(VFIO_USER_DEVICE_STATE_RUNNING), 0);
        EQ(dev.transitions, 0);
    }
    device_destroy();
}
