/* A program that was built for the older interface of the same name: vfu_setup_device_dma takes three arguments, and
 * vfu_sgl_read has no flags. It declares what its header said. */

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

typedef struct vfu_ctx vfu_ctx_t;
typedef struct dma_sg dma_sg_t;
typedef struct {
    struct iovec iova;
    void *vaddr;
    struct iovec mapping;
    size_t page_size;
    uint32_t prot;
} vfu_dma_info_t;
typedef void dma_cb(vfu_ctx_t *, vfu_dma_info_t *);

vfu_ctx_t *vfu_create_ctx(int, const char *, int, void *, int);
int vfu_setup_log(vfu_ctx_t *, void (*)(vfu_ctx_t *, int, const char *), int);
int vfu_pci_init(vfu_ctx_t *, int, int, int);
int vfu_setup_device_dma(vfu_ctx_t *, dma_cb *, dma_cb *);
int vfu_realize_ctx(vfu_ctx_t *);
int vfu_attach_ctx(vfu_ctx_t *);
int vfu_run_ctx(vfu_ctx_t *);
void vfu_destroy_ctx(vfu_ctx_t *);
size_t dma_sg_size(void);
int vfu_addr_to_sgl(vfu_ctx_t *, void *, size_t, dma_sg_t *, size_t, int);
int vfu_sgl_read(vfu_ctx_t *, dma_sg_t *, size_t, void *);
int vfu_sgl_write(vfu_ctx_t *, dma_sg_t *, size_t, void *);

static int registered, unregistered, warned;
static int client;

static void
on_register(vfu_ctx_t *ctx, vfu_dma_info_t *info)
{
    assert(ctx != NULL && info->iova.iov_base == (void *)0x10000 && info->iova.iov_len == 0x1000);
    registered++;
}

static void
on_unregister(vfu_ctx_t *ctx, vfu_dma_info_t *info)
{
    assert(ctx != NULL && info->iova.iov_base == (void *)0x10000);
    unregistered++;
}

static void
on_log(vfu_ctx_t *ctx, int level, const char *text)
{
    (void)ctx;
    printf("log %d: %s\n", level, text);
    if (strstr(text, "build it with the header") || strstr(text, "Build it with the header")) {
        warned++;
    }
}

static void
say(uint16_t id, uint16_t command, uint32_t flags, const void *payload, size_t len)
{
    uint8_t message[256] = { 0 };
    uint32_t size = 16 + len;

    memcpy(message, &id, 2);
    memcpy(message + 2, &command, 2);
    memcpy(message + 4, &size, 4);
    memcpy(message + 8, &flags, 4);
    memcpy(message + 16, payload, len);
    assert(write(client, message, size) == (ssize_t)size);
}

/* Answers one DMA_READ of eight bytes. */
static void *
serve(void *unused)
{
    uint8_t message[256], answer[24] = { 0 };
    uint16_t id;

    assert(read(client, message, sizeof(message)) == 32 && message[2] == 11);
    memcpy(&id, message, 2);
    memcpy(answer, message + 16, 16);
    memcpy(answer + 16, "memories", 8);
    say(id, 11, 1, answer, sizeof(answer));
    return unused;
}

int
main(int argc, char **argv)
{
    assert(argc == 2);
    vfu_ctx_t *ctx = vfu_create_ctx(0, argv[1], 1, NULL, 0);
    assert(ctx != NULL && vfu_setup_log(ctx, on_log, 4) == 0);
    assert(vfu_pci_init(ctx, 0, 0, 0) == 0);

    /* Neither a count nor code: it can't be known which interface this is. */
    assert(vfu_setup_device_dma(ctx, NULL, on_unregister) == -1 && errno == EINVAL && warned == 1);

    assert(vfu_setup_device_dma(ctx, on_register, on_unregister) == 0 && warned == 2);
    assert(vfu_realize_ctx(ctx) == 0);

    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy(address.sun_path, argv[1], sizeof(address.sun_path) - 1);
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    assert(connect(client, (struct sockaddr *)&address, sizeof(address)) == 0);
    uint8_t reply[256];
    say(0, 1, 0, "\0\0\0", 4);
    assert(vfu_attach_ctx(ctx) == 0 && read(client, reply, sizeof(reply)) > 16);

    uint64_t map[4] = { 32 | 3ull << 32, 0, 0x10000, 0x1000 };
    say(1, 2, 0, map, sizeof(map));
    assert(vfu_run_ctx(ctx) == 1 && read(client, reply, sizeof(reply)) == 16);
    assert(registered == 1 && unregistered == 0);

    dma_sg_t *sg = calloc(1, dma_sg_size());
    assert(vfu_addr_to_sgl(ctx, (void *)0x10008, 8, sg, 1, 1) == 1);
    pthread_t thread;
    assert(pthread_create(&thread, NULL, serve, NULL) == 0);
    /* Where the new interface has its flags is whatever the register holds. */
    int (*volatile sgl_read)(vfu_ctx_t *, dma_sg_t *, size_t, void *, int) = (void *)vfu_sgl_read;
    char data[9] = "";
    assert(sgl_read(ctx, sg, 1, data, 0x5a5a) == 0 && strcmp(data, "memories") == 0);
    assert(pthread_join(thread, NULL) == 0);
    free(sg);

    close(client);
    assert(vfu_run_ctx(ctx) == -1 && errno == ENOTCONN);
    assert(registered == 1 && unregistered == 1);
    vfu_destroy_ctx(ctx);
    puts("served");
    return 0;
}
