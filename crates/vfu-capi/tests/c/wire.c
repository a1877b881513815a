#define _GNU_SOURCE
#include "wire.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "case.h"

#define LONG_MS 30000

const char *const CAPABILITIES =
    "{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576,\"migration\":{\"pgsize\":4096}}}";

int wire_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK(strlen(path) < sizeof(address.sun_path));
    strcpy(address.sun_path, path);
    EQ(connect(sock, (struct sockaddr *)&address, sizeof(address)), 0);
    return sock;
}

void wire_send(int sock, const void *bytes, size_t len, const int *fds, int nr_fds)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    } control;
    struct iovec iov = {(void *)bytes, len};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (nr_fds > 0) {
        memset(&control, 0, sizeof(control));
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * nr_fds);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * nr_fds);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * nr_fds);
    }
    EQ(sendmsg(sock, &message, MSG_NOSIGNAL), len);
}

static void send_two(int sock, const struct vfio_user_header *header, const void *data, size_t len, const int *fds,
                     int nr_fds)
{
    char *bytes = malloc(sizeof(*header) + len);

    memcpy(bytes, header, sizeof(*header));
    if (len > 0)
        memcpy(bytes + sizeof(*header), data, len);
    wire_send(sock, bytes, sizeof(*header) + len, fds, nr_fds);
    free(bytes);
}

void wire_command(int sock, uint16_t id, uint16_t cmd, const void *data, size_t len, const int *fds, int nr_fds)
{
    struct vfio_user_header header = {id, cmd, sizeof(header) + len, VFIO_USER_F_TYPE_COMMAND, 0};

    send_two(sock, &header, data, len, fds, nr_fds);
}

void wire_version(int sock, const char *json)
{
    char data[4096] = {0};
    struct vfio_user_version version = {0, 1};

    memcpy(data, &version, sizeof(version));
    CHECK(strlen(json) + 1 + sizeof(version) <= sizeof(data));
    strcpy(data + sizeof(version), json);
    wire_command(sock, 0xfeed, VFIO_USER_VERSION, data, sizeof(version) + strlen(json) + 1, NULL, 0);
}

void wire_reply(int sock, const struct msg *command, int error_no, const void *data, size_t len)
{
    struct vfio_user_header header = command->header;

    header.msg_size = sizeof(header) + len;
    header.flags = VFIO_USER_F_TYPE_REPLY | (error_no != 0 ? VFIO_USER_F_ERROR : 0);
    header.error_no = error_no;
    send_two(sock, &header, data, len, NULL, 0);
}

bool wire_readable(int sock)
{
    struct pollfd poll_fd = {.fd = sock, .events = POLLIN};

    return poll(&poll_fd, 1, 0) == 1;
}

static bool receive(int sock, void *to, size_t len, struct msg *message)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    } control;
    char *at = to;

    while (len > 0) {
        struct iovec iov = {at, len};
        struct msghdr header = {
            .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
        struct pollfd poll_fd = {.fd = sock, .events = POLLIN};

        EQ(poll(&poll_fd, 1, LONG_MS), 1);
        ssize_t got = recvmsg(sock, &header, MSG_CMSG_CLOEXEC);
        if (got == 0 || (got < 0 && errno == ECONNRESET))
            return false;
        CHECK(got > 0);
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c != NULL; c = CMSG_NXTHDR(&header, c)) {
            int count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            CHECK(c->cmsg_type == SCM_RIGHTS && message->nr_fds + count <= MAX_FDS);
            memcpy(message->fds + message->nr_fds, CMSG_DATA(c), count * sizeof(int));
            message->nr_fds += count;
        }
        at += got;
        len -= got;
    }
    return true;
}

bool wire_receive(int sock, struct msg *message)
{
    memset(message, 0, sizeof(*message));
    if (!receive(sock, &message->header, sizeof(message->header), message)) {
        message->data = malloc(1);
        return false;
    }
    CHECK(message->header.msg_size >= sizeof(message->header));
    message->len = message->header.msg_size - sizeof(message->header);
    message->data = calloc(1, message->len + 1);
    return receive(sock, message->data, message->len, message);
}

void wire_free(struct msg *message)
{
    for (int i = 0; i < message->nr_fds; i++)
        close(message->fds[i]);
    free(message->data);
    memset(message, 0, sizeof(*message));
}

const struct vfio_user_dma_region_access *wire_dma(const struct msg *message)
{
    CHECK(message->header.cmd == VFIO_USER_DMA_READ || message->header.cmd == VFIO_USER_DMA_WRITE);
    CHECK(message->len >= sizeof(struct vfio_user_dma_region_access));
    return (const void *)message->data;
}
