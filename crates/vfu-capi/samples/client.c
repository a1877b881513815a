/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * client: drives server.c without any library, to show what goes over the socket.
 *
 *     server /tmp/a.sock & server /tmp/b.sock &
 *     client /tmp/a.sock /tmp/b.sock
 *
 * It lets the device at the first socket add up memory that is shared and memory that is not, moves it to the second
 * socket, and goes on there.
 */
#define _GNU_SOURCE 1
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <libvfio-user.h>

enum { MEMORY = 0x10000, SHARED_AT = 0x100000, PRIVATE_AT = 0x200000, BAR0 = VFU_PCI_DEV_BAR0_REGION_IDX };

/* One connection. */
struct client {
    int sock, event;
    uint16_t id;
    uint8_t *shared, *unshared; /* MEMORY bytes each */
    int dma_messages;
};

static void send_all(int sock, const struct vfio_user_header *header, const void *data, size_t len, int fd)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov[2];
    struct msghdr message;

    memset(&message, 0, sizeof(message));
    iov[0].iov_base = (void *)header;
    iov[0].iov_len = sizeof(*header);
    iov[1].iov_base = (void *)data;
    iov[1].iov_len = len;
    message.msg_iov = iov;
    message.msg_iovlen = len > 0 ? 2 : 1;
    if (fd >= 0) { /* descriptors go with the first byte */
        memset(&control, 0, sizeof(control));
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.align), &fd, sizeof(fd));
    }
    if (sendmsg(sock, &message, MSG_NOSIGNAL) != (ssize_t)(sizeof(*header) + len))
        err(1, "the server does not take a message");
}

static void receive_all(int sock, void *to, size_t len)
{
    while (len > 0) {
        ssize_t got = recv(sock, to, len, 0);
        if (got == 0)
            errx(1, "the server has gone");
        if (got < 0)
            err(1, "recv");
        to = (char *)to + got;
        len -= (size_t)got;
    }
}

/* The next message; what follows the header is malloc()ed. */
static uint8_t *receive(int sock, struct vfio_user_header *header, size_t *len)
{
    uint8_t *data;

    receive_all(sock, header, sizeof(*header));
    if (header->msg_size < sizeof(*header) || header->msg_size > 2 * VFIO_USER_DEFAULT_MAX_DATA_XFER_SIZE)
        errx(1, "the server sent a message of %u bytes", header->msg_size);
    *len = header->msg_size - sizeof(*header);
    data = (uint8_t *)calloc(1, *len + 1);
    if (data == NULL)
        err(1, "calloc");
    receive_all(sock, data, *len);
    return data;
}

/* Where the device's address is here; NULL if it is not memory that is reached by messages. */
static uint8_t *address(struct client *client, uint64_t at, uint64_t count)
{
    if (at < PRIVATE_AT || count > MEMORY || at - PRIVATE_AT > MEMORY - count)
        return NULL;
    return client->unshared + (at - PRIVATE_AT);
}

/* Answers the device, which wants to read or to write memory. */
static void serve(struct client *client, const struct vfio_user_header *command, uint8_t *data, size_t len)
{
    struct vfio_user_dma_region_access access;
    struct vfio_user_header reply = *command;
    uint8_t *memory = NULL, *answer = (uint8_t *)malloc(sizeof(access) + MEMORY);
    size_t answer_len = 0;

    if (answer == NULL)
        err(1, "malloc");
    reply.flags = VFIO_USER_F_TYPE_REPLY;
    reply.error_no = 0;
    if (len >= sizeof(access)) {
        memcpy(&access, data, sizeof(access));
        memory = address(client, access.addr, access.count);
    }
    if (memory != NULL && command->cmd == VFIO_USER_DMA_READ) {
        answer_len = sizeof(access) + access.count;
        memcpy(answer, &access, sizeof(access));
        memcpy(answer + sizeof(access), memory, access.count);
    } else if (memory != NULL && command->cmd == VFIO_USER_DMA_WRITE && len == sizeof(access) + access.count) {
        answer_len = sizeof(access);
        memcpy(answer, &access, sizeof(access));
        memcpy(memory, data + sizeof(access), access.count);
    } else {
        reply.flags |= VFIO_USER_F_ERROR;
        reply.error_no = EINVAL;
    }
    client->dma_messages++;
    reply.msg_size = (uint32_t)(sizeof(reply) + answer_len);
    send_all(client->sock, &reply, answer, answer_len, -1);
    free(answer);
}

/*
 * Asks the device, whose own commands may come before the answer. Copies up to room bytes of the answer to reply, and
 * gives its length; an error ends the program.
 */
static size_t ask(struct client *client, uint16_t cmd, const void *data, size_t len, int fd, void *reply, size_t room)
{
    struct vfio_user_header header = {++client->id, cmd, (uint32_t)(sizeof(header) + len), VFIO_USER_F_TYPE_COMMAND, 0};
    size_t got;

    send_all(client->sock, &header, data, len, fd);
    for (;;) {
        uint8_t *payload = receive(client->sock, &header, &got);
        if ((header.flags & VFIO_USER_F_TYPE_MASK) == VFIO_USER_F_TYPE_COMMAND) {
            serve(client, &header, payload, got);
            free(payload);
            continue;
        }
        if (header.msg_id != client->id)
            errx(1, "an answer to %u, not to %u", header.msg_id, client->id);
        if (header.flags & VFIO_USER_F_ERROR)
            errx(1, "command %u: %s", cmd, strerror((int)header.error_no));
        if (reply != NULL)
            memcpy(reply, payload, got < room ? got : room);
        free(payload);
        return got;
    }
}

static void write_register(struct client *client, uint64_t offset, const void *value, uint32_t count)
{
    struct vfio_user_region_access access = {offset, BAR0, count};
    uint8_t data[sizeof(access) + 8];

    memcpy(data, &access, sizeof(access));
    memcpy(data + sizeof(access), value, count);
    ask(client, VFIO_USER_REGION_WRITE, data, sizeof(access) + count, -1, NULL, 0);
}

static uint32_t read_register(struct client *client, uint64_t offset)
{
    struct vfio_user_region_access access = {offset, BAR0, 4};
    uint8_t data[sizeof(access) + 4];
    uint32_t value;

    if (ask(client, VFIO_USER_REGION_READ, &access, sizeof(access), -1, data, sizeof(data)) != sizeof(data))
        errx(1, "a register of another size");
    memcpy(&value, data + sizeof(access), sizeof(value));
    return value;
}

static void map(struct client *client, uint64_t at, int fd)
{
    struct vfio_user_dma_map map = {sizeof(map), VFIO_USER_F_DMA_REGION_READ | VFIO_USER_F_DMA_REGION_WRITE, 0, at, MEMORY};

    ask(client, VFIO_USER_DMA_MAP, &map, sizeof(map), fd, NULL, 0);
}

static void use_event(struct client *client)
{
    uint32_t set[5] = {sizeof(set), VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, VFU_DEV_MSIX_IRQ, 0, 1};

    client->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ask(client, VFIO_USER_DEVICE_SET_IRQS, set, sizeof(set), client->event, NULL, 0);
}

static void attach(struct client *client, const char *path)
{
    static const char json[] = "{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576}}";
    struct vfio_user_version version = {0, 1};
    struct vfio_user_device_info info = {sizeof(info), 0, 0, 0};
    struct sockaddr_un name;
    uint8_t data[sizeof(version) + sizeof(json)];

    memset(&name, 0, sizeof(name));
    name.sun_family = AF_UNIX;
    strncpy(name.sun_path, path, sizeof(name.sun_path) - 1);
    client->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->sock < 0 || connect(client->sock, (struct sockaddr *)&name, sizeof(name)) != 0)
        err(1, "%s", path);
    memcpy(data, &version, sizeof(version));
    memcpy(data + sizeof(version), json, sizeof(json));
    ask(client, VFIO_USER_VERSION, data, sizeof(data), -1, NULL, 0);
    if (ask(client, VFIO_USER_DEVICE_GET_INFO, &info, sizeof(info), -1, &info, sizeof(info)) < sizeof(info))
        errx(1, "half an answer");
    printf("%s: %u regions, %u kinds of interrupts\n", path, info.num_regions, info.num_irqs);
}

/* Waits for the interrupt; the device asks for memory until it raises it. */
static void wait_for_event(struct client *client)
{
    uint64_t count;

    for (;;) {
        struct pollfd polls[2];
        polls[0].fd = client->event;
        polls[1].fd = client->sock;
        polls[0].events = polls[1].events = POLLIN;
        if (poll(polls, 2, -1) < 0)
            err(1, "poll");
        if (polls[1].revents != 0) {
            struct vfio_user_header header;
            size_t len;
            uint8_t *data = receive(client->sock, &header, &len);
            serve(client, &header, data, len);
            free(data);
        } else if (read(client->event, &count, sizeof(count)) == (ssize_t)sizeof(count)) {
            return;
        }
    }
}

/* Has memory added up, and checks the sum. */
static void add_up(struct client *client, uint64_t at, uint8_t *memory, uint32_t length)
{
    uint32_t sum = 0, written, one = 1;

    for (uint32_t i = 0; i < length; i++) {
        memory[i] = (uint8_t)(i * 7 + at / 4096);
        sum += memory[i];
    }
    write_register(client, 0x00, &at, 8);
    write_register(client, 0x08, &length, 4);
    write_register(client, 0x0c, &one, 4);
    wait_for_event(client);
    memcpy(&written, memory + length, sizeof(written));
    if (read_register(client, 0x14) != 0)
        errx(1, "the device can't reach memory: %s", strerror((int)read_register(client, 0x14)));
    if (read_register(client, 0x10) != sum || written != sum)
        errx(1, "the sum is %u, not %u", written, sum);
    printf("%u bytes at %#lx add up to %u\n", length, (unsigned long)at, sum);
}

/* ---- moving ---- */

static void set_state(struct client *client, uint32_t state)
{
    struct vfio_user_device_feature_mig_state data = {state, 0};
    struct vfio_user_device_feature head = {
        sizeof(head) + sizeof(data), VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE};
    uint8_t all[sizeof(head) + sizeof(data)];

    memcpy(all, &head, sizeof(head));
    memcpy(all + sizeof(head), &data, sizeof(data));
    ask(client, VFIO_USER_DEVICE_FEATURE, all, sizeof(all), -1, NULL, 0);
}

static void move(struct client *from, struct client *to)
{
    enum { PIECE = 16 }; /* small, so that there are several */
    uint8_t data[sizeof(struct vfio_user_mig_data) + PIECE];
    struct vfio_user_mig_data head;
    unsigned total = 0;

    set_state(from, VFIO_USER_DEVICE_STATE_STOP_COPY);
    set_state(to, VFIO_USER_DEVICE_STATE_RESUMING);
    for (;;) {
        memset(data, 0, sizeof(data));
        head.argsz = sizeof(data);
        head.size = PIECE;
        if (ask(from, VFIO_USER_MIG_DATA_READ, &head, sizeof(head), -1, data, sizeof(data)) < sizeof(head))
            errx(1, "half an answer");
        memcpy(&head, data, sizeof(head));
        if (head.size == 0) /* that was all */
            break;
        if (head.size > PIECE)
            errx(1, "more state than was asked for");
        ask(to, VFIO_USER_MIG_DATA_WRITE, data, sizeof(head) + head.size, -1, NULL, 0);
        total += head.size;
    }
    set_state(to, VFIO_USER_DEVICE_STATE_RUNNING);
    printf("moved, with %u bytes of state\n", total);
}

/* Memory that the device can map, and memory that it has to ask for. */
static void offer_memory(struct client *client, int fd)
{
    map(client, SHARED_AT, fd);
    map(client, PRIVATE_AT, -1);
    use_event(client);
}

int main(int argc, char **argv)
{
    struct client here, there;
    uint32_t sum;
    int fd;

    if (argc != 3) {
        fprintf(stderr, "usage: %s SOCKET SOCKET\n", argv[0]);
        return 2;
    }
    memset(&here, 0, sizeof(here));
    fd = memfd_create("memory", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, MEMORY) != 0)
        err(1, "memfd_create");
    here.shared = (uint8_t *)mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    here.unshared = (uint8_t *)calloc(1, MEMORY);
    if (here.shared == MAP_FAILED || here.unshared == NULL)
        err(1, "no memory");
    there = here;

    attach(&here, argv[1]);
    offer_memory(&here, fd);
    add_up(&here, SHARED_AT, here.shared, 3000);
    if (here.dma_messages != 0)
        errx(1, "the device asks for memory that it has");
    add_up(&here, PRIVATE_AT, here.unshared, 5000);
    sum = read_register(&here, 0x10);
    printf("%d DMA messages\n", here.dma_messages);

    attach(&there, argv[2]);
    offer_memory(&there, fd);
    move(&here, &there);
    if (read_register(&there, 0x10) != sum)
        errx(1, "the sum was lost on the way");
    add_up(&there, PRIVATE_AT, there.unshared, 60000);

    close(here.sock);
    close(there.sock);
    close(here.event);
    close(there.event);
    close(fd);
    munmap(here.shared, MEMORY);
    free(here.unshared);
    return 0;
}
