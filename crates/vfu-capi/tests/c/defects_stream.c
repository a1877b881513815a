/*
 * Defects of the C library that this one must not have, D1 to D10: how the stream is read and written. Each of these
 * cases fails with the C library.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device.h"

#define BIG (1024 * 1024)

static uint8_t big[BIG];
static size_t big_seen;

static ssize_t big_bar(vfu_ctx_t *ctx, char *buf, size_t count, int64_t offset, bool is_write)
{
    (void)ctx;
    CHECK(is_write && offset + count <= BIG);
    EQ(memcmp(buf, big + offset, count), 0);
    big_seen += count;
    return count;
}

static void send_big(void)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_BAR1_REGION_IDX, BIG};
    uint8_t *data = malloc(sizeof(access) + BIG);

    memcpy(data, &access, sizeof(access));
    memcpy(data + sizeof(access), big, BIG);
    wire_command(dev.sock, 1, VFIO_USER_REGION_WRITE, data, sizeof(access) + BIG, NULL, 0);
    free(data);
}

/* The write of the size that the library itself says it takes. */
CASE(d01_a_write_of_one_mebibyte_arrives)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_setup_region(dev.ctx, VFU_PCI_DEV_BAR1_REGION_IDX, BIG, big_bar, VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM,
                        NULL, 0, -1, 0),
       0);
    device_connect(CAPABILITIES);
    for (size_t i = 0; i < BIG; i++)
        big[i] = i * 7 + i / 251;
    client_thread(send_big);
    EQ(answer(NULL), 0);
    client_join();
    EQ(big_seen, BIG);
    device_destroy();
}

/* A command in pieces: bytes up to `at`, then the rest. */
static void in_two_pieces(size_t at)
{
    uint8_t bytes[16 + 16 + 4];
    struct vfio_user_header header = {77, VFIO_USER_REGION_WRITE, sizeof(bytes), 0, 0};
    struct vfio_user_region_access access = {0x40, VFU_PCI_DEV_BAR0_REGION_IDX, 4};
    uint32_t value = 0xabcd1234;
    struct msg reply;

    device();
    memcpy(bytes, &header, 16);
    memcpy(bytes + 16, &access, 16);
    memcpy(bytes + 32, &value, 4);
    wire_send(dev.sock, bytes, at, NULL, 0);
    EQ(run_once(), 0);
    EQ(dev.accesses, 0);
    wire_send(dev.sock, bytes + at, sizeof(bytes) - at, NULL, 0);
    EQ(answer(&reply), 0);
    EQ(reply.header.msg_id, 77);
    wire_free(&reply);
    EQ(dev.accesses, 1);
    EQ(memcmp(dev.bar0 + 0x40, &value, 4), 0);
    device_destroy();
}

CASE(d01_a_body_in_two_pieces) { in_two_pieces(34); }
CASE(d01_a_body_behind_its_header) { in_two_pieces(16); }
CASE(d02_a_header_in_two_pieces) { in_two_pieces(7); }
CASE(d02_a_header_that_begins_with_one_byte) { in_two_pieces(1); }

/* What follows a command that is refused is a command again. */
static void then_goes_on(const struct vfio_user_header *header, size_t body, int error)
{
    uint8_t bytes[256] = {0};
    struct msg reply;

    device();
    memcpy(bytes, header, sizeof(*header));
    memset(bytes + sizeof(*header), 0xee, body);
    wire_send(dev.sock, bytes, sizeof(*header) + body, NULL, 0);
    EQ(answer(&reply), error);
    EQ(reply.header.msg_id, header->msg_id);
    EQ(reply.len, 0);
    wire_free(&reply);
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

CASE(d03_the_body_of_a_reply_to_nothing_is_skipped)
{
    then_goes_on(&(struct vfio_user_header){5, VFIO_USER_DMA_READ, 16 + 64, VFIO_USER_F_TYPE_REPLY, 0}, 64, EINVAL);
}

/* ---- DMA by messages ---- */

static void read_register_then_answer(void)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_CFG_REGION_IDX, 4};
    struct msg command;

    CHECK(wire_receive(dev.sock, &command));
    wire_command(dev.sock, 50, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
    uint8_t data[16 + 8];
    memcpy(data, wire_dma(&command), 16);
    memset(data + 16, 0x5a, 8);
    wire_reply(dev.sock, &command, 0, data, sizeof(data));
    wire_free(&command);
}

CASE(d04_a_command_that_comes_before_the_answer_is_not_lost)
{
    uint8_t data[8];
    struct msg reply;

    device();
    map_ram(-1);
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_READ);
    client_thread(read_register_then_answer);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, 0), 0);
    client_join();
    EQ(data[7], 0x5a);
    if (!wire_readable(dev.sock)) /* it may have been served while the device waited */
        run_once();
    CHECK(wire_receive(dev.sock, &reply));
    EQ(reply.header.msg_id, 50);
    EQ(reply.header.flags, VFIO_USER_F_TYPE_REPLY);
    EQ(reply.len, 16 + 4);
    wire_free(&reply);
    free(sg);
    device_destroy();
}

static void refuse_with_payload_then_serve(void)
{
    struct msg command;

    CHECK(wire_receive(dev.sock, &command));
    wire_reply(dev.sock, &command, EIO, command.data, command.len);
    wire_free(&command);
    serve_dma(1);
}

CASE(d05_an_error_reply_may_have_a_payload)
{
    uint8_t data[16];

    device();
    map_ram(-1);
    dma_sg_t *sg = look_up(RAM_AT, sizeof(data), PROT_READ);
    memset(client_ram, 0x77, sizeof(data));
    client_thread(refuse_with_payload_then_serve);
    FAILS(vfu_sgl_read(dev.ctx, sg, 1, data, 0), EIO);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, 0), 0);
    client_join();
    EQ(data[15], 0x77);
    EQ(config_read(0, 4), 0x56781234);
    free(sg);
    device_destroy();
}

CASE(d06_descriptors_of_half_a_header_are_closed)
{
    int before, fds[3];

    device();
    before = open_fds();
    for (int i = 0; i < 3; i++)
        fds[i] = memory(4096);
    wire_send(dev.sock, "\1\0\2\0\60\0\0\0", 8, fds, 3);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    disconnect();
    run_until(ENOTCONN);
    EQ(open_fds(), before - 2); /* both ends of the connection */
    device_destroy();
}

/* ---- a client that goes, or is silent, while the device waits ---- */

static int dma_result, dma_errno, unmaps_meanwhile;

static void read_in_access(void)
{
    uint8_t data[8];
    dma_sg_t *sg = look_up(RAM_AT, sizeof(data), PROT_READ);

    dma_result = vfu_sgl_read(dev.ctx, sg, 1, data, 0);
    dma_errno = errno;
    unmaps_meanwhile = dev.unmaps;
    free(sg);
}

static void go_when_asked(void)
{
    struct msg command;

    CHECK(wire_receive(dev.sock, &command));
    wire_free(&command);
    shutdown(dev.sock, SHUT_RDWR);
}

CASE(d07_a_client_that_goes_while_a_callback_waits_for_it)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_BAR0_REGION_IDX, 4};

    device();
    map_ram(-1);
    dev.on_access = read_in_access;
    wire_command(dev.sock, 3, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
    client_thread(go_when_asked);
    run_until(ENOTCONN);
    client_join();
    EQ(dma_result, -1);
    EQ(dma_errno, ENOTCONN);
    EQ(unmaps_meanwhile, 0); /* memory is not taken away under a callback */
    EQ(dev.unmaps, 1);
    EQ(dev.resets[VFU_RESET_LOST_CONN], 1);
    device_destroy();
}

CASE(d08_dma_that_nobody_answers_ends)
{
    uint8_t data[8];
    struct msg command;

    device();
    map_ram(-1);
    dma_sg_t *sg = look_up(RAM_AT, sizeof(data), PROT_READ);
    FAILS(vfu_sgl_read(dev.ctx, sg, 1, data, 0), ETIMEDOUT);
    CHECK(wire_receive(dev.sock, &command));
    EQ(wire_dma(&command)->addr, RAM_AT);
    EQ(config_read(0, 4), 0x56781234);
    uint8_t late[16 + 8] = {0};
    memcpy(late, command.data, 16);
    wire_reply(dev.sock, &command, 0, late, sizeof(late)); /* is dropped */
    EQ(config_read(0, 4), 0x56781234);
    wire_free(&command);
    free(sg);
    device_destroy();
}

CASE(d09_a_silent_client_does_not_stop_attach)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    dev.sock = dev.dma_sock = wire_connect(SOCKET);
    FAILS(vfu_attach_ctx(dev.ctx), EAGAIN);
    FAILS(vfu_attach_ctx(dev.ctx), EAGAIN);
    wire_version(dev.sock, CAPABILITIES);
    while (vfu_attach_ctx(dev.ctx) != 0)
        EQ(errno, EAGAIN);
    device_destroy();
}

CASE(d09_a_client_that_reads_nothing_does_not_stop_run)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_BAR0_REGION_IDX, BAR0_SIZE};
    int sent = 0;

    device();
    while (sent < 400) { /* answers of 4 KiB, more than a socket holds */
        for (int i = 0; i < 4; i++, sent++)
            wire_command(dev.sock, sent, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
        EQ(run_once() >= 0, true);
    }
    for (int got = 0; got < sent; got++) {
        struct msg reply;
        while (!wire_readable(dev.sock))
            EQ(vfu_run_ctx(dev.ctx) >= 0, true);
        CHECK(wire_receive(dev.sock, &reply));
        EQ(reply.header.msg_id, got);
        EQ(reply.len, sizeof(access) + BAR0_SIZE);
        wire_free(&reply);
    }
    device_destroy();
}

static int late_replies;
static volatile bool all_received;

static void receive_all(void)
{
    struct msg reply;

    for (int i = 0; i < late_replies; i++) {
        CHECK(wire_receive(dev.sock, &reply));
        EQ(reply.header.msg_id, i);
        wire_free(&reply);
    }
    all_received = true;
    wire_command(dev.sock, 999, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0);
}

/* What could not be sent goes out by itself when there is room: poll() need not tell the program about it. */
CASE(d09_a_client_that_reads_late_gets_every_answer)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_BAR0_REGION_IDX, BAR0_SIZE};

    device();
    for (late_replies = 0; late_replies < 200; late_replies++)
        wire_command(dev.sock, late_replies, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
    while (dev.accesses < 200)
        CHECK(vfu_run_ctx(dev.ctx) >= 0);
    client_thread(receive_all);
    while (dev.resets[VFU_RESET_DEVICE] == 0) {
        struct pollfd poll_fd = {.fd = vfu_get_poll_fd(dev.ctx), .events = POLLIN};
        EQ(poll(&poll_fd, 1, 30000), 1); /* else the client waits for ever */
        CHECK(vfu_run_ctx(dev.ctx) >= 0);
    }
    CHECK(all_received);
    client_join();
    device_destroy();
}

CASE(d10_a_client_that_takes_no_data_is_not_asked_for_ever)
{
    uint8_t data[8];
    int rc;

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    dev.sock = dev.dma_sock = wire_connect(SOCKET);
    wire_version(dev.sock, "{\"capabilities\":{\"max_data_xfer_size\":0}}");
    do {
        rc = vfu_attach_ctx(dev.ctx);
    } while (rc != 0 && errno == EAGAIN);
    if (rc != 0) { /* refused, as good as any */
        EQ(errno, EINVAL);
    } else {
        struct msg reply;
        CHECK(wire_receive(dev.sock, &reply));
        wire_free(&reply);
        map_ram(-1);
        dma_sg_t *sg = look_up(RAM_AT, sizeof(data), PROT_READ);
        EQ(vfu_sgl_read(dev.ctx, sg, 1, data, 0), -1);
        free(sg);
    }
    device_destroy();
}

CASE(d10_a_negative_limit_is_refused)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    dev.sock = dev.dma_sock = wire_connect(SOCKET);
    wire_version(dev.sock, "{\"capabilities\":{\"max_data_xfer_size\":-4096}}");
    int rc;
    do {
        rc = vfu_attach_ctx(dev.ctx);
    } while (rc != 0 && errno == EAGAIN);
    EQ(rc, -1);
    EQ(errno, EINVAL);
    device_destroy();
}
