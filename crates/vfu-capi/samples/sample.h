/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What the sample devices share: their command line, their log, and the loop that serves one client after the other. */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <err.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libvfio-user.h>

static volatile sig_atomic_t sample_stopped;

static inline void sample_stop(int signal)
{
    (void)signal;
    sample_stopped = 1;
}

/* What the command line says: [-v] [-1] SOCKET */
struct sample {
    const char *socket;
    int verbose; /* -v: all of the library's log */
    int once;    /* -1: end when the first client has gone */
};

static inline struct sample sample_options(int argc, char **argv)
{
    struct sample sample = {NULL, 0, 0};
    struct sigaction action;
    int option;

    while ((option = getopt(argc, argv, "v1")) != -1) {
        if (option == 'v')
            sample.verbose = 1;
        else if (option == '1')
            sample.once = 1;
        else
            optind = argc;
    }
    if (optind != argc - 1) {
        fprintf(stderr, "usage: %s [-v] [-1] SOCKET\n", argv[0]);
        exit(2);
    }
    sample.socket = argv[optind];
    memset(&action, 0, sizeof(action));
    action.sa_handler = sample_stop;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    return sample;
}

static inline void sample_log(vfu_ctx_t *ctx, int level, const char *text)
{
    (void)ctx;
    fprintf(stderr, "%s%s\n", level <= LOG_ERR ? "error: " : "", text);
}

/* A context that does not block, with a log. */
static inline vfu_ctx_t *sample_create(const struct sample *sample, void *device, int flags)
{
    vfu_ctx_t *ctx = vfu_create_ctx(VFU_TRANS_SOCK, sample->socket, LIBVFIO_USER_FLAG_ATTACH_NB | flags, device,
                                    VFU_DEV_TYPE_PCI);

    if (ctx == NULL)
        err(1, "can't listen at %s", sample->socket);
    if (vfu_setup_log(ctx, sample_log, sample->verbose ? LOG_DEBUG : LOG_ERR) != 0)
        err(1, "no log");
    return ctx;
}

/* Waits until there is something to do; 0 if the program is to end. */
static inline int sample_wait(vfu_ctx_t *ctx)
{
    struct pollfd poll_fd;

    poll_fd.fd = vfu_get_poll_fd(ctx);
    poll_fd.events = POLLIN;
    while (!sample_stopped) {
        if (poll(&poll_fd, 1, -1) >= 0)
            return 1;
        if (errno != EINTR)
            err(1, "poll");
    }
    return 0;
}

/*
 * Serves until SIGTERM, or with -1 until the client has gone, and destroys the context. idle() is called after requests
 * were handled: the place for what a device does outside of its callbacks.
 */
static inline int sample_serve(vfu_ctx_t *ctx, const struct sample *sample, void (*idle)(vfu_ctx_t *))
{
    int attached = 0, clients = 0;

    if (vfu_realize_ctx(ctx) != 0)
        err(1, "the device can't be made");
    while (!(sample->once && clients > 0 && !attached) && sample_wait(ctx)) {
        if (!attached) {
            if (vfu_attach_ctx(ctx) == 0) {
                attached = 1;
                clients++;
            } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                warn("a client could not attach");
            }
            continue;
        }
        if (vfu_run_ctx(ctx) < 0) {
            if (errno == ENOTCONN || errno == ECONNRESET)
                attached = 0;
            else if (errno != EBUSY && errno != EINTR && errno != EAGAIN)
                err(1, "the client can't be served");
        }
        if (attached && idle != NULL)
            idle(ctx);
    }
    vfu_destroy_ctx(ctx);
    return 0;
}

#endif
