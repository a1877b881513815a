/* A client that says what it is told to, byte by byte. Everything ends the case if it does not work. */
#ifndef WIRE_H
#define WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libvfio-user.h>

#define MAX_FDS 32

struct msg {
    struct vfio_user_header header;
    uint8_t *data; /* what follows the header; never NULL */
    size_t len;
    int fds[MAX_FDS];
    int nr_fds;
};

/* What the client says in VERSION unless a case has something else to say. */
extern const char *const CAPABILITIES;

int wire_connect(const char *path);

/* One sendmsg(), whole. */
void wire_send(int sock, const void *bytes, size_t len, const int *fds, int nr_fds);
void wire_command(int sock, uint16_t id, uint16_t cmd, const void *data, size_t len, const int *fds, int nr_fds);
void wire_version(int sock, const char *json);

/* Answers a command, with an error if error_no is not 0. */
void wire_reply(int sock, const struct msg *command, int error_no, const void *data, size_t len);

/* The next message; false if the other end has closed. Waits for long, then fails the case. */
bool wire_receive(int sock, struct msg *message);
/* Whether something can be received at once. */
bool wire_readable(int sock);
void wire_free(struct msg *message);

/* The DMA_READ or DMA_WRITE in a message. */
const struct vfio_user_dma_region_access *wire_dma(const struct msg *message);

#endif
