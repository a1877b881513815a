/* Threads of the program that work while another one serves the client. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"
#include "extensions.h"

enum { WORKERS = 4, ROUNDS = 50, LENGTH = 512 };

static pthread_t workers[WORKERS];
static volatile int running;

static void start(void *(*body)(void *))
{
    running = WORKERS;
    for (intptr_t i = 0; i < WORKERS; i++)
        EQ(pthread_create(&workers[i], NULL, body, (void *)i), 0);
}

static void join(void)
{
    for (int i = 0; i < WORKERS; i++)
        EQ(pthread_join(workers[i], NULL), 0);
}

/* ---- pointers: what SPDK does from its pollers ---- */

static volatile bool stop;

static void *use_pointers(void *which)
{
    const uint64_t at = RAM_AT + (uintptr_t)which * 4096;
    dma_sg_t *sg = calloc(1, dma_sg_size());
    int used = 0;

    while (!stop || used == 0) {
        struct iovec iov;
        if (vfu_addr_to_sgl(dev.ctx, (void *)(uintptr_t)at, LENGTH, sg, 1, PROT_WRITE) != 1) {
            EQ(errno, ENOENT);
            continue;
        }
        EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), 0);
        memset(iov.iov_base, (int)(uintptr_t)which + 1, LENGTH);
        EQ(((char *)iov.iov_base)[LENGTH - 1], (uintptr_t)which + 1);
        vfu_sgl_put(dev.ctx, sg, &iov, 1);
        used++;
    }
    free(sg);
    return NULL;
}

CASE(threads_use_pointers_while_other_memory_comes_and_goes)
{
    device();
    map_ram(memory(RAM_SIZE));
    start(use_pointers);
    for (int round = 0; round < ROUNDS; round++) {
        EQ(dma_map(16 * RAM_AT, RAM_SIZE, 3, memory(RAM_SIZE), 0), 0);
        EQ(dma_unmap(16 * RAM_AT, RAM_SIZE), 0);
        EQ(config_read(0, 4), 0x56781234);
    }
    stop = true;
    join();
    device_destroy();
}

/* ---- messages ---- */

static void *read_by_message(void *which)
{
    const size_t at = (uintptr_t)which * LENGTH;
    uint8_t data[LENGTH];

    for (int round = 0; round < ROUNDS; round++) {
        dma_sg_t *sg = look_up(RAM_AT + at, LENGTH, PROT_READ);
        memset(data, 0, sizeof(data));
        EQ(vfu_sgl_read(dev.ctx, sg, 1, data, 0), 0);
        EQ(memcmp(data, client_ram + at, LENGTH), 0);
        free(sg);
    }
    __sync_fetch_and_sub(&running, 1);
    return NULL;
}

static void serve_all(void) { serve_dma(WORKERS * ROUNDS); }

static void read_by_threads(const char *json)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB | LIBVFIO_USER_FLAG_THREAD_SAFE);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_connect(json);
    map_ram(-1);
    for (size_t i = 0; i < sizeof(client_ram); i++)
        client_ram[i] = (uint8_t)(i * 13 + i / 253);
    client_thread(serve_all);
    start(read_by_message);
    while (running > 0)
        CHECK(run_once() >= 0);
    join();
    client_join();
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

CASE(rs_threads_read_by_messages)
{
    if (!is_ours())
        case_skip("another library");
    read_by_threads(CAPABILITIES);
}

CASE(rs_threads_read_by_messages_on_a_second_socket)
{
    if (!is_ours())
        case_skip("another library");
    read_by_threads("{\"capabilities\":{\"max_msg_fds\":8,\"twin_socket\":{\"supported\":true}}}");
}

/* The client reads registers all the time while threads of the device read its memory. */
static void serve_and_ask(void)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_CFG_REGION_IDX, 4};
    int left = WORKERS * ROUNDS, asked = 0, answered = 0;

    while (left > 0 || answered < asked) {
        struct msg message;
        if (left > 0 && asked - answered < 8)
            wire_command(dev.sock, (uint16_t)(1000 + asked++), VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
        CHECK(wire_receive(dev.sock, &message));
        if ((message.header.flags & VFIO_USER_F_TYPE_MASK) == VFIO_USER_F_TYPE_REPLY) {
            EQ(message.header.msg_id, 1000 + answered); /* in order */
            answered++;
        } else {
            const struct vfio_user_dma_region_access *dma = wire_dma(&message);
            uint8_t reply[sizeof(*dma) + LENGTH];
            memcpy(reply, dma, sizeof(*dma));
            memcpy(reply + sizeof(*dma), client_ram + (dma->addr - RAM_AT), LENGTH);
            wire_reply(dev.sock, &message, 0, reply, sizeof(reply));
            left--;
        }
        wire_free(&message);
    }
}

CASE(rs_threads_and_a_client_that_speak_at_once)
{
    if (!is_ours())
        case_skip("another library");
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB | LIBVFIO_USER_FLAG_THREAD_SAFE);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_connect(CAPABILITIES);
    map_ram(-1);
    for (size_t i = 0; i < sizeof(client_ram); i++)
        client_ram[i] = (uint8_t)(i * 13 + i / 253);
    client_thread(serve_and_ask);
    start(read_by_message);
    while (running > 0)
        CHECK(run_once() >= 0);
    join();
    while (run_once() > 0)
        ;
    client_join();
    device_destroy();
}

/* Both ends at once, without threads of the device: a request before each answer. */
CASE(rs_reads_outside_of_callbacks_serve_requests)
{
    if (!is_ours())
        case_skip("another library");
    device();
    map_ram(-1);
    client_thread(serve_and_ask);
    for (intptr_t i = 0; i < WORKERS; i++)
        read_by_message((void *)i);
    while (run_once() > 0)
        ;
    client_join();
    CHECK(dev.accesses == 0);
    device_destroy();
}
