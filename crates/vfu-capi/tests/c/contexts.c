/* vfu_create_ctx, _realize_ctx, _attach_ctx, _run_ctx, _get_poll_fd, _destroy_ctx, _get_private, and the log. */
#define _GNU_SOURCE
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"

static vfu_ctx_t *create(const char *path, int flags)
{
    return vfu_create_ctx(VFU_TRANS_SOCK, path, flags, NULL, VFU_DEV_TYPE_PCI);
}

CASE(create_makes_a_socket_that_destroy_removes)
{
    struct stat st;
    vfu_ctx_t *ctx = create(SOCKET, 0);

    CHECK(ctx != NULL);
    EQ(stat(SOCKET, &st), 0);
    CHECK(S_ISSOCK(st.st_mode));
    vfu_destroy_ctx(ctx);
    EQ(stat(SOCKET, &st), -1);
}

CASE(create_listens_at_once)
{
    vfu_ctx_t *ctx = create(SOCKET, 0);

    close(wire_connect(SOCKET));
    vfu_destroy_ctx(ctx);
}

CASE(create_refuses_other_transports)
{
    errno = 0;
    CHECK(vfu_create_ctx((vfu_trans_t)17, SOCKET, 0, NULL, VFU_DEV_TYPE_PCI) == NULL);
    EQ(errno, ENOTSUP);
}

CASE(create_refuses_other_devices)
{
    errno = 0;
    CHECK(vfu_create_ctx(VFU_TRANS_SOCK, SOCKET, 0, NULL, (vfu_dev_type_t)4) == NULL);
    EQ(errno, ENOTSUP);
}

CASE(create_refuses_unknown_flags)
{
    errno = 0;
    CHECK(create(SOCKET, 1 << 30) == NULL);
    EQ(errno, EINVAL);
}

CASE(create_where_something_is)
{
    vfu_ctx_t *ctx = create(SOCKET, 0);

    errno = 0;
    CHECK(create(SOCKET, 0) == NULL);
    EQ(errno, EADDRINUSE);
    close(wire_connect(SOCKET)); /* the first one is unhurt */
    vfu_destroy_ctx(ctx);
}

CASE(create_with_too_long_a_path)
{
    char path[300];

    memset(path, 'x', sizeof(path));
    path[sizeof(path) - 1] = 0;
    errno = 0;
    CHECK(create(path, 0) == NULL);
    EQ(errno, ENAMETOOLONG);
}

CASE(create_where_there_is_no_folder)
{
    errno = 0;
    CHECK(create("missing/device.sock", 0) == NULL);
    EQ(errno, ENOENT);
}

CASE(create_without_a_path_takes_an_address_of_the_kernel)
{
    vfu_ctx_t *ctx = create("", 0);

    CHECK(ctx != NULL);
    EQ(vfu_pci_init(ctx, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0), 0);
    EQ(vfu_realize_ctx(ctx), 0);
    vfu_destroy_ctx(ctx);
}

CASE(destroy_takes_null)
{
    vfu_destroy_ctx(NULL);
}

CASE(destroy_resets_even_if_nobody_came)
{
    device_create(0);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_destroy();
    EQ(dev.resets[VFU_RESET_LOST_CONN], 1);
    EQ(dev.quiesces, 0);
}

CASE(destroy_takes_memory_away_then_resets)
{
    device();
    map_ram(memory(RAM_SIZE));
    EQ(dma_map(RAM_AT + RAM_SIZE, RAM_SIZE, 3, -1, 0), 0);
    int quiesces = dev.quiesces;
    device_destroy();
    EQ(dev.unmaps, 2);
    EQ(dev.resets[VFU_RESET_LOST_CONN], 1);
    EQ(dev.quiesces, quiesces);
}

CASE(destroy_closes_everything)
{
    int before = open_fds();

    device();
    int ram = memory(RAM_SIZE);
    map_ram(ram);
    close(ram);
    device_destroy();
    EQ(open_fds(), before);
}

CASE(private_data_is_given_back)
{
    int mine;
    vfu_ctx_t *ctx = vfu_create_ctx(VFU_TRANS_SOCK, SOCKET, 0, &mine, VFU_DEV_TYPE_PCI);

    CHECK(vfu_get_private(ctx) == &mine);
    vfu_destroy_ctx(ctx);
    ctx = create(SOCKET, 0);
    CHECK(vfu_get_private(ctx) == NULL);
    vfu_destroy_ctx(ctx);
}

CASE(realize_twice)
{
    device_create(0);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    device_destroy();
}

CASE(realize_makes_the_default_configuration_space)
{
    device_create(0);
    EQ(vfu_pci_init(dev.ctx, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0), 0);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    EQ(vfu_pci_get_config_space(dev.ctx)->hdr.intr.ipin, 0);
    EQ(vfu_pci_get_config_space(dev.ctx)->hdr.sts.cl, 0);
    device_destroy();
}

CASE(realize_shows_the_interrupt_pin)
{
    device_create(0);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    EQ(vfu_pci_get_config_space(dev.ctx)->hdr.intr.ipin, 1);
    device_destroy();
}

CASE(run_before_realize)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    FAILS(vfu_run_ctx(dev.ctx), EINVAL);
    device_destroy();
}

CASE(run_before_attach)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    FAILS(vfu_run_ctx(dev.ctx), ENOTCONN);
    device_destroy();
}

CASE(attach_while_nobody_connects)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    FAILS(vfu_attach_ctx(dev.ctx), EAGAIN);
    FAILS(vfu_attach_ctx(dev.ctx), EAGAIN);
    device_destroy();
}

CASE(attach_twice)
{
    device();
    FAILS(vfu_attach_ctx(dev.ctx), EINVAL);
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

static void connect_and_speak(void)
{
    dev.sock = dev.dma_sock = wire_connect(SOCKET);
    wire_version(dev.sock, CAPABILITIES);
}

CASE(attach_waits_in_a_blocking_context)
{
    struct msg reply;

    device_create(0);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    client_thread(connect_and_speak);
    EQ(vfu_attach_ctx(dev.ctx), 0);
    client_join();
    CHECK(wire_receive(dev.sock, &reply));
    wire_free(&reply);
    device_destroy();
}

static void read_ids_and_go(void)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_CFG_REGION_IDX, 4};
    struct msg reply;

    for (int i = 0; i < 3; i++) {
        wire_command(dev.sock, i, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
        CHECK(wire_receive(dev.sock, &reply));
        EQ(reply.header.msg_id, i);
        wire_free(&reply);
    }
    close(dev.sock);
    dev.sock = dev.dma_sock = -1;
}

CASE(run_serves_until_the_client_goes_in_a_blocking_context)
{
    device_create(0);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_connect(CAPABILITIES);
    client_thread(read_ids_and_go);
    FAILS(vfu_run_ctx(dev.ctx), ENOTCONN);
    client_join();
    EQ(dev.resets[VFU_RESET_LOST_CONN], 1);
    device_destroy();
}

CASE(run_with_nothing_to_do)
{
    device();
    EQ(vfu_run_ctx(dev.ctx), 0);
    EQ(vfu_run_ctx(dev.ctx), 0);
    device_destroy();
}

CASE(run_counts_what_it_handled)
{
    uint32_t value = 0;
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_CFG_REGION_IDX, 4};
    struct msg reply;
    int handled = 0;

    device();
    for (int i = 0; i < 5; i++)
        wire_command(dev.sock, i, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
    for (int i = 0; i < 5 && handled < 5; i++) {
        EQ(run_once() > 0, true);
        handled += dev.rc;
    }
    EQ(handled, 5);
    EQ(vfu_run_ctx(dev.ctx), 0);
    for (int i = 0; i < 5; i++) {
        CHECK(wire_receive(dev.sock, &reply));
        EQ(reply.header.msg_id, i);
        wire_free(&reply);
    }
    (void)value;
    device_destroy();
}

/* One run for each time that poll() says so is enough, whatever had arrived: nothing is left where poll can't see it. */
CASE(one_run_for_each_wakeup_answers_everything)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_CFG_REGION_IDX, 4};
    struct msg reply;

    device();
    for (int i = 0; i < 20; i++)
        wire_command(dev.sock, i, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
    for (;;) {
        struct pollfd poll_fd = {.fd = vfu_get_poll_fd(dev.ctx), .events = POLLIN};
        if (poll(&poll_fd, 1, 0) == 0)
            break;
        CHECK(vfu_run_ctx(dev.ctx) >= 0);
    }
    for (int i = 0; i < 20; i++) {
        CHECK(wire_readable(dev.sock));
        CHECK(wire_receive(dev.sock, &reply));
        EQ(reply.header.msg_id, i);
        wire_free(&reply);
    }
    device_destroy();
}

CASE(run_after_the_client_went)
{
    device();
    map_ram(memory(RAM_SIZE));
    disconnect();
    run_until(ENOTCONN);
    FAILS(vfu_run_ctx(dev.ctx), ENOTCONN);
    FAILS(vfu_run_ctx(dev.ctx), ENOTCONN);
    EQ(dev.resets[VFU_RESET_LOST_CONN], 1);
    EQ(dev.unmaps, 1);
    device_destroy();
}

CASE(the_next_client_finds_the_device_as_it_was)
{
    device();
    EQ(config_write(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2), 0);
    disconnect();
    run_until(ENOTCONN);
    device_connect(CAPABILITIES);
    EQ(config_read(PCI_COMMAND, 2), PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    map_ram(-1); /* its own memory, where the other's was */
    device_destroy();
}

CASE(a_reply_that_nobody_takes_is_no_error_yet)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_CFG_REGION_IDX, 4};

    device();
    wire_command(dev.sock, 1, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
    disconnect();
    EQ(run_once() >= 0 || dev.rc_errno == ENOTCONN, true);
    run_until(ENOTCONN);
    EQ(dev.resets[VFU_RESET_LOST_CONN], 1);
    device_destroy();
}

CASE(poll_fd_is_the_listening_socket_then_the_client)
{
    int listening, is_listening, connected;
    socklen_t len = sizeof(int);

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    listening = vfu_get_poll_fd(dev.ctx);
    EQ(getsockopt(listening, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &len), 0);
    EQ(is_listening, 1);
    device_connect(CAPABILITIES);
    connected = vfu_get_poll_fd(dev.ctx);
    CHECK(connected != listening);
    disconnect();
    run_until(ENOTCONN);
    EQ(vfu_get_poll_fd(dev.ctx), listening);
    device_destroy();
}

/* SPDK asks the socket who is behind it. */
CASE(poll_fd_is_a_socket_that_knows_its_peer)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    device();
    EQ(getsockopt(vfu_get_poll_fd(dev.ctx), SOL_SOCKET, SO_PEERCRED, &peer, &len), 0);
    EQ(peer.pid, getpid());
    device_destroy();
}

CASE(poll_fd_wakes_for_a_client_and_for_a_command)
{
    struct pollfd poll_fd = {.events = POLLIN};

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    poll_fd.fd = vfu_get_poll_fd(dev.ctx);
    EQ(poll(&poll_fd, 1, 0), 0);
    device_connect(CAPABILITIES);
    poll_fd.fd = vfu_get_poll_fd(dev.ctx);
    EQ(poll(&poll_fd, 1, 0), 0);
    wire_command(dev.sock, 1, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0);
    EQ(poll(&poll_fd, 1, 0), 1);
    EQ(answer(NULL), 0);
    EQ(poll(&poll_fd, 1, 0), 0);
    device_destroy();
}

/* ---- the log ---- */

static int logged, logged_level;
static char logged_text[16384];

static void log_line(vfu_ctx_t *ctx, int level, const char *text)
{
    (void)ctx;
    logged++;
    logged_level = level;
    CHECK(strlen(text) < sizeof(logged_text));
    strcpy(logged_text, text);
    errno = EXDEV;
}

CASE(log_levels_outside_of_syslog_s)
{
    vfu_ctx_t *ctx = create(SOCKET, 0);

    FAILS(vfu_setup_log(ctx, log_line, LOG_EMERG - 1), EINVAL);
    FAILS(vfu_setup_log(ctx, log_line, LOG_DEBUG + 1), EINVAL);
    for (int level = LOG_EMERG; level <= LOG_DEBUG; level++)
        EQ(vfu_setup_log(ctx, log_line, level), 0);
    vfu_destroy_ctx(ctx);
}

CASE(log_up_to_a_level)
{
    vfu_ctx_t *ctx = create(SOCKET, 0);

    EQ(vfu_setup_log(ctx, log_line, LOG_WARNING), 0);
    vfu_log(ctx, LOG_INFO, "no");
    EQ(logged, 0);
    vfu_log(ctx, LOG_WARNING, "yes %d %s %#lx %.2f", 7, "seven", 0x77ul, 0.5);
    EQ(logged, 1);
    EQ(logged_level, LOG_WARNING);
    EQ(strcmp(logged_text, "yes 7 seven 0x77 0.50"), 0);
    vfu_destroy_ctx(ctx);
}

CASE(log_with_many_arguments)
{
    vfu_ctx_t *ctx = create(SOCKET, 0);

    EQ(vfu_setup_log(ctx, log_line, LOG_DEBUG), 0);
    vfu_log(ctx, LOG_ERR, "%d %d %d %d %d %d %d %d %g %g %g %g %g %g %g %g %g %s", 1, 2, 3, 4, 5, 6, 7, 8, 1.0, 2.0, 3.0,
            4.0, 5.0, 6.0, 7.0, 8.0, 9.0, "end");
    EQ(strcmp(logged_text, "1 2 3 4 5 6 7 8 1 2 3 4 5 6 7 8 9 end"), 0);
    vfu_destroy_ctx(ctx);
}

CASE(log_leaves_errno_alone)
{
    vfu_ctx_t *ctx = create(SOCKET, 0);

    EQ(vfu_setup_log(ctx, log_line, LOG_DEBUG), 0);
    errno = EBADMSG;
    vfu_log(ctx, LOG_ERR, "x");
    EQ(errno, EBADMSG);
    EQ(logged, 1);
    vfu_destroy_ctx(ctx);
}

CASE(log_to_nowhere)
{
    vfu_ctx_t *ctx = create(SOCKET, 0);

    vfu_log(ctx, LOG_ERR, "x"); /* no log yet */
    EQ(vfu_setup_log(ctx, log_line, LOG_DEBUG), 0);
    EQ(vfu_setup_log(ctx, NULL, LOG_DEBUG), 0);
    vfu_log(ctx, LOG_ERR, "x");
    EQ(logged, 0);
    vfu_destroy_ctx(ctx);
}

CASE(log_of_a_long_line)
{
    vfu_ctx_t *ctx = create(SOCKET, 0);
    char *line = malloc(20000);

    memset(line, 'x', 20000);
    line[19999] = 0;
    EQ(vfu_setup_log(ctx, log_line, LOG_DEBUG), 0);
    vfu_log(ctx, LOG_ERR, "%s", line);
    EQ(logged, 1);
    CHECK(strlen(logged_text) >= 8000);
    free(line);
    vfu_destroy_ctx(ctx);
}

CASE(errno_is_the_program_s_whatever_the_log_does)
{
    device(); /* its log sets errno */
    FAILS(vfu_attach_ctx(dev.ctx), EINVAL);
    FAILS(vfu_irq_trigger(dev.ctx, 99), EINVAL);
    dev.access_errno = EBADF;
    EQ(config_read(0, 4), 0x56781234);
    uint32_t value = 0;
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0, &value, 4), EBADF);
    device_destroy();
}
