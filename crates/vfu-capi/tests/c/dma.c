/* vfu_setup_device_dma, vfu_addr_to_sgl, vfu_sgl_*, vfu_sg_is_mappable, dma_sg_size: the client's memory. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"

#define READ VFIO_USER_F_DMA_REGION_READ
#define WRITE VFIO_USER_F_DMA_REGION_WRITE
#define MMAP VFIO_USER_F_DMA_REGION_MMAP
#define FILE_IO VFIO_USER_F_DMA_REGION_FILE_IO

/* What programs in other languages know of an entry. */
struct entry {
    void *dma_addr;
    int region, pad;
    uint64_t length, offset;
    bool writeable;
};

CASE(sg_is_40_bytes_that_others_can_read)
{
    device();
    map_ram(memory(RAM_SIZE));
    EQ(dma_sg_size(), 40);
    EQ(sizeof(struct entry), 40);
    dma_sg_t *sg = look_up(RAM_AT + 0x100, 0x20, PROT_WRITE);
    struct entry *entry = (struct entry *)sg;
    EQ((uintptr_t)entry->dma_addr, RAM_AT);
    CHECK(entry->region != 0);
    EQ(entry->offset, 0x100);
    EQ(entry->length, 0x20);
    EQ(entry->writeable, true);
    free(sg);
    device_destroy();
}

CASE(map_tells_the_device_where_memory_is)
{
    device();
    map_ram(memory(RAM_SIZE));
    EQ(dev.maps, 1);
    EQ((uintptr_t)dev.map.iova.iov_base, RAM_AT);
    EQ(dev.map.iova.iov_len, RAM_SIZE);
    CHECK(dev.map.vaddr != NULL);
    EQ(dev.map.mapping.iov_len, RAM_SIZE);
    EQ(dev.map.page_size, 4096);
    EQ(dev.map.prot, PROT_READ | PROT_WRITE);
    EQ(dma_unmap(RAM_AT, RAM_SIZE), 0);
    EQ(dev.unmaps, 1);
    EQ((uintptr_t)dev.unmap.iova.iov_base, RAM_AT);
    CHECK(dev.unmap.vaddr == dev.map.vaddr);
    device_destroy();
}

CASE(map_without_a_descriptor)
{
    device();
    map_ram(-1);
    CHECK(dev.map.vaddr == NULL);
    CHECK(dev.map.mapping.iov_base == NULL);
    EQ(dev.map.mapping.iov_len, 0);
    EQ(dev.map.page_size, 4096);
    EQ(dev.map.prot, PROT_READ | PROT_WRITE);
    device_destroy();
}

CASE(map_for_reading_only)
{
    device();
    EQ(dma_map(RAM_AT, RAM_SIZE, READ, memory(RAM_SIZE), 0), 0);
    EQ(dev.map.prot, PROT_READ);
    dma_sg_t *sg = calloc(1, dma_sg_size());
    FAILS(vfu_addr_to_sgl(dev.ctx, (void *)RAM_AT, 8, sg, 1, PROT_WRITE), EACCES);
    EQ(vfu_addr_to_sgl(dev.ctx, (void *)RAM_AT, 8, sg, 1, PROT_READ), 1);
    free(sg);
    device_destroy();
}

CASE(map_flags_that_can_not_be)
{
    device();
    EQ(dma_map(RAM_AT, RAM_SIZE, READ | WRITE | 1 << 8, -1, 0), EINVAL);
    EQ(dma_map(RAM_AT, RAM_SIZE, READ | MMAP, -1, 0), EINVAL);
    EQ(dma_map(RAM_AT, RAM_SIZE, READ | FILE_IO, -1, 0), EINVAL);
    EQ(dma_map(RAM_AT, RAM_SIZE, READ | MMAP | FILE_IO, memory(RAM_SIZE), 0), EINVAL);
    EQ(dev.maps, 0);
    device_destroy();
}

CASE(map_that_is_cut_off)
{
    struct vfio_user_dma_map map = {sizeof(map), READ, 0, RAM_AT, RAM_SIZE};

    device();
    EQ(call(VFIO_USER_DMA_MAP, &map, sizeof(map) - 1, NULL, 0, NULL), EINVAL);
    map.argsz = sizeof(map) - 1;
    EQ(call(VFIO_USER_DMA_MAP, &map, sizeof(map), NULL, 0, NULL), EINVAL);
    device_destroy();
}

CASE(map_over_a_map)
{
    device();
    map_ram(-1);
    CHECK(dma_map(RAM_AT + 4096, 4096, READ, -1, 0) != 0);
    CHECK(dma_map(RAM_AT - 4096, 8192, READ, -1, 0) != 0);
    EQ(dma_map(RAM_AT - 4096, 4096, READ, -1, 0), 0);
    EQ(dma_map(RAM_AT + RAM_SIZE, 4096, READ, -1, 0), 0);
    EQ(dev.maps, 3);
    device_destroy();
}

CASE(maps_up_to_the_limit)
{
    device();
    for (int i = 0; i < 64; i++)
        EQ(dma_map(i * 8192, 4096, READ, -1, 0), 0);
    EQ(dma_map(64 * 8192, 4096, READ, -1, 0), EINVAL);
    EQ(dma_unmap(0, 4096), 0);
    EQ(dma_map(64 * 8192, 4096, READ, -1, 0), 0);
    device_destroy();
}

CASE(map_larger_than_any_memory)
{
    device();
    EQ(dma_map(0, 9ull << 40, READ, -1, 0), ENOSPC);
    device_destroy();
}

CASE(map_beyond_the_end_of_the_file)
{
    device();
    EQ(dma_map(RAM_AT, RAM_SIZE, READ | WRITE, memory(RAM_SIZE / 2), 0), 0);
    CHECK(dev.map.vaddr != NULL);
    device_destroy();
}

CASE(unmap_of_what_is_not_mapped)
{
    device();
    map_ram(-1);
    EQ(dma_unmap(RAM_AT, RAM_SIZE / 2), ENOENT);
    EQ(dma_unmap(RAM_AT + RAM_SIZE, RAM_SIZE), ENOENT);
    EQ(dev.unmaps, 0);
    EQ(dma_unmap(RAM_AT, RAM_SIZE), 0);
    EQ(dma_unmap(RAM_AT, RAM_SIZE), ENOENT);
    device_destroy();
}

CASE(unmap_of_all)
{
    struct vfio_user_dma_unmap unmap = {.argsz = sizeof(unmap), .flags = VFIO_DMA_UNMAP_FLAG_ALL};

    device();
    for (int i = 0; i < 5; i++)
        EQ(dma_map(i * 8192, 4096, READ, -1, 0), 0);
    unmap.size = 4096;
    EQ(call(VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap), NULL, 0, NULL), EINVAL);
    unmap.size = 0;
    EQ(call(VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap), NULL, 0, NULL), 0);
    EQ(dev.unmaps, 5);
    device_destroy();
}

CASE(unmap_says_what_it_was_told)
{
    struct vfio_user_dma_unmap unmap = {.argsz = sizeof(unmap), .addr = RAM_AT, .size = RAM_SIZE};
    struct msg reply;

    device();
    map_ram(-1);
    EQ(call(VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap), NULL, 0, &reply), 0);
    EQ(reply.len, sizeof(unmap));
    EQ(memcmp(reply.data, &unmap, sizeof(unmap)), 0);
    wire_free(&reply);
    device_destroy();
}

CASE(memory_for_a_device_without_dma)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    EQ(vfu_pci_init(dev.ctx, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0), 0);
    device_connect(CAPABILITIES);
    map_ram(-1);
    EQ(dma_unmap(RAM_AT, RAM_SIZE), 0);
    device_destroy();
}

/* ---- looking addresses up ---- */

CASE(look_up_of_what_is_not_mapped)
{
    dma_sg_t *sg = calloc(4, dma_sg_size());

    device();
    map_ram(-1);
    FAILS(vfu_addr_to_sgl(dev.ctx, (void *)(RAM_AT - 1), 1, sg, 4, PROT_READ), ENOENT);
    FAILS(vfu_addr_to_sgl(dev.ctx, (void *)(RAM_AT + RAM_SIZE), 1, sg, 4, PROT_READ), ENOENT);
    FAILS(vfu_addr_to_sgl(dev.ctx, (void *)(RAM_AT + RAM_SIZE - 4), 8, sg, 4, PROT_READ), ENOENT);
    EQ(vfu_addr_to_sgl(dev.ctx, (void *)(RAM_AT + RAM_SIZE - 8), 8, sg, 4, PROT_READ), 1);
    free(sg);
    device_destroy();
}

CASE(look_up_over_three_maps)
{
    dma_sg_t *sg = calloc(4, dma_sg_size());

    device();
    for (int i = 0; i < 3; i++)
        EQ(dma_map(RAM_AT + i * 4096, 4096, READ | WRITE, memory(4096), 0), 0);
    EQ(vfu_addr_to_sgl(dev.ctx, (void *)(RAM_AT + 4000), 4096 + 200, sg, 4, PROT_READ), 3);
    struct entry *entry = (struct entry *)sg;
    EQ(entry[0].length, 96);
    EQ(entry[1].length, 4096);
    EQ(entry[2].length, 104);
    EQ(entry[2].offset, 0);
    errno = 7;
    EQ(vfu_addr_to_sgl(dev.ctx, (void *)(RAM_AT + 4000), 4096 + 200, sg, 1, PROT_READ), -4);
    EQ(errno, 0);
    struct iovec iov[3];
    EQ(vfu_addr_to_sgl(dev.ctx, (void *)(RAM_AT + 4000), 4096 + 200, sg, 3, PROT_WRITE), 3);
    EQ(vfu_sgl_get(dev.ctx, sg, iov, 3, 0), 0);
    EQ(iov[0].iov_len, 96);
    EQ(iov[1].iov_len, 4096);
    memset(iov[2].iov_base, 1, iov[2].iov_len);
    vfu_sgl_put(dev.ctx, sg, iov, 3);
    free(sg);
    device_destroy();
}


static volatile bool stop;
static int found;

static void *look(void *unused)
{
    dma_sg_t *sg = calloc(1, dma_sg_size());

    while (!stop) {
        if (vfu_addr_to_sgl(dev.ctx, (void *)RAM_AT, 64, sg, 1, PROT_READ) == 1)
            found++;
        if (vfu_addr_to_sgl(dev.ctx, (void *)0x4000000, 64, sg, 1, PROT_READ) == 1)
            found++;
    }
    free(sg);
    return unused;
}

CASE(look_up_from_another_thread)
{
    pthread_t thread;

    device();
    map_ram(memory(RAM_SIZE));
    EQ(pthread_create(&thread, NULL, look, NULL), 0);
    for (int i = 0; i < 50; i++) {
        EQ(config_read(0, 4), 0x56781234);
        dma_sg_t *sg = look_up(RAM_AT, 64, PROT_WRITE);
        struct iovec iov;
        EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), 0);
        vfu_sgl_put(dev.ctx, sg, &iov, 1);
        free(sg);
    }
    stop = true;
    pthread_join(thread, NULL);
    device_destroy();
}

/* ---- pointers ---- */

CASE(get_gives_the_client_s_memory)
{
    int fd = memory(RAM_SIZE);
    struct iovec iov;
    uint32_t value = 0xfeedface, got;

    device();
    map_ram(fd);
    EQ(pwrite(fd, &value, 4, 0x1234), 4);
    dma_sg_t *sg = look_up(RAM_AT + 0x1234, 4, PROT_READ | PROT_WRITE);
    EQ(vfu_sg_is_mappable(dev.ctx, sg), true);
    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), 0);
    EQ(iov.iov_len, 4);
    CHECK(iov.iov_base == (char *)dev.map.vaddr + 0x1234);
    EQ(memcmp(iov.iov_base, &value, 4), 0);
    memset(iov.iov_base, 0x11, 4);
    vfu_sgl_put(dev.ctx, sg, &iov, 1);
    EQ(pread(fd, &got, 4, 0x1234), 4);
    EQ(got, 0x11111111);
    free(sg);
    device_destroy();
}

CASE(get_of_memory_at_an_offset_of_the_file)
{
    int fd = memory(0x4000);
    struct iovec iov;

    device();
    EQ(pwrite(fd, "here", 4, 0x3000), 4);
    EQ(dma_map(RAM_AT, 0x2000, READ | WRITE, fd, 0x2000), 0);
    dma_sg_t *sg = look_up(RAM_AT + 0x1000, 4, PROT_READ);
    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), 0);
    EQ(memcmp(iov.iov_base, "here", 4), 0);
    vfu_sgl_put(dev.ctx, sg, &iov, 1);
    free(sg);
    device_destroy();
}

CASE(get_without_a_mapping)
{
    struct iovec iov;

    device();
    map_ram(-1);
    dma_sg_t *sg = look_up(RAM_AT, 4, PROT_READ);
    EQ(vfu_sg_is_mappable(dev.ctx, sg), false);
    FAILS(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), EFAULT);
    free(sg);
    device_destroy();
}

CASE(get_of_memory_that_the_client_takes_away)
{
    int fd = memory(RAM_SIZE), other = memory(RAM_SIZE);
    struct iovec iov;
    char data[8] = "";

    device();
    map_ram(fd);
    EQ(dma_map(RAM_AT + RAM_SIZE, RAM_SIZE, READ | WRITE, other, 0), 0);
    dma_sg_t *sg = look_up(RAM_AT + 0x2000, 8, PROT_READ | PROT_WRITE);
    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), 0);
    volatile char *pointer = iov.iov_base;
    pointer[0] = 7;
    EQ(ftruncate(fd, 0x1000), 0);
    EQ(pointer[0], 0);
    pointer[1] = 7;
    vfu_sgl_put(dev.ctx, sg, &iov, 1);
    EQ(vfu_sg_is_mappable(dev.ctx, sg), false);
    FAILS(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), EFAULT);
    FAILS(vfu_sgl_read(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS), EFAULT);
    FAILS(vfu_sgl_write(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS), EFAULT);
    free(sg);

    /* What is left of the file, and the other one. */
    EQ(pwrite(fd, "rest", 4, 0x100), 4);
    sg = look_up(RAM_AT + 0x100, 4, PROT_READ);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS), 0);
    EQ(memcmp(data, "rest", 4), 0);
    free(sg);
    sg = look_up(RAM_AT + RAM_SIZE, 4, PROT_READ);
    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), 0);
    free(sg);
    void *vaddr = dev.map.vaddr;
    EQ(dma_unmap(RAM_AT, RAM_SIZE), 0);
    CHECK(dev.unmap.vaddr != NULL && dev.unmap.vaddr != vaddr);
    device_destroy();
}

CASE(get_of_an_entry_that_was_never_looked_up)
{
    struct iovec iov;

    device();
    map_ram(memory(RAM_SIZE));
    dma_sg_t *sg = calloc(1, dma_sg_size());
    FAILS(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), EINVAL);
    free(sg);
    device_destroy();
}

static void use_memory(const vfu_dma_info_t *info)
{
    struct iovec iov;
    dma_sg_t *sg = look_up((uintptr_t)info->iova.iov_base, 16, PROT_WRITE);

    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), 0);
    memset(iov.iov_base, 0x33, 16);
    vfu_sgl_put(dev.ctx, sg, &iov, 1);
    free(sg);
}

static void use_map(void) { use_memory(&dev.map); }
static void use_unmap(void) { use_memory(&dev.unmap); }

CASE(memory_works_in_the_callbacks_that_tell_of_it)
{
    device();
    dev.on_map = use_map;
    map_ram(memory(RAM_SIZE));
    dev.on_unmap = use_unmap;
    EQ(dma_unmap(RAM_AT, RAM_SIZE), 0);
    EQ(dev.unmaps, 1);
    device_destroy();
}

/* ---- messages ---- */

static void serve_one(void) { serve_dma(1); }
static void serve_two(void) { serve_dma(2); }

static void read_and_write(const char *json)
{
    uint8_t data[64], more[64];

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_connect(json);
    map_ram(-1);
    for (int i = 0; i < 64; i++)
        client_ram[0x40 + i] = i * 3;
    dma_sg_t *sg = look_up(RAM_AT + 0x40, 64, PROT_READ), *to = look_up(RAM_AT + 0x80, 64, PROT_WRITE);
    client_thread(serve_two);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, 0), 0);
    EQ(memcmp(data, client_ram + 0x40, 64), 0);
    memset(more, 0x99, 64);
    EQ(vfu_sgl_write(dev.ctx, to, 1, more, 0), 0);
    client_join();
    EQ(memcmp(client_ram + 0x80, more, 64), 0);
    EQ(client_ram[0x80 + 64], 0);
    EQ(config_read(0, 4), 0x56781234);
    free(sg);
    free(to);
    device_destroy();
}

CASE(messages_read_and_write) { read_and_write(CAPABILITIES); }

CASE(messages_on_a_second_socket)
{
    read_and_write("{\"capabilities\":{\"max_msg_fds\":8,\"twin_socket\":{\"supported\":true}}}");
    CHECK(dev.dma_sock != dev.sock);
}

CASE(messages_are_as_large_as_the_client_takes)
{
    uint8_t data[4096 + 100];

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_connect("{\"capabilities\":{\"max_data_xfer_size\":4096}}");
    map_ram(-1);
    for (size_t i = 0; i < sizeof(data); i++)
        client_ram[i] = i * 7;
    dma_sg_t *sg = look_up(RAM_AT, sizeof(data), PROT_READ);
    client_thread(serve_two);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, 0), 0);
    client_join();
    EQ(memcmp(data, client_ram, sizeof(data)), 0);
    free(sg);
    device_destroy();
}

CASE(messages_of_mapped_memory_unless_it_is_to_be_direct)
{
    int fd = memory(RAM_SIZE);
    uint8_t data[8];

    device();
    map_ram(fd);
    EQ(pwrite(fd, "DIRECTLY", 8, 0), 8);
    memcpy(client_ram, "MESSAGED", 8);
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_READ | PROT_WRITE);
    client_thread(serve_one);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, 0), 0);
    client_join();
    EQ(memcmp(data, "MESSAGED", 8), 0);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS), 0);
    EQ(memcmp(data, "DIRECTLY", 8), 0);
    EQ(vfu_sgl_write(dev.ctx, sg, 1, "straight", VFU_SGL_DIRECT_ACCESS), 0);
    EQ(pread(fd, data, 8, 0), 8);
    EQ(memcmp(data, "straight", 8), 0);
    CHECK(!wire_readable(dev.sock));
    free(sg);
    device_destroy();
}

CASE(file_io_instead_of_a_mapping)
{
    int fd = memory(RAM_SIZE);
    uint8_t data[8];
    struct iovec iov;

    device();
    EQ(dma_map(RAM_AT, RAM_SIZE, READ | WRITE | FILE_IO, fd, 0), 0);
    CHECK(dev.map.vaddr == NULL);
    EQ(pwrite(fd, "FROMFILE", 8, 0x100), 8);
    dma_sg_t *sg = look_up(RAM_AT + 0x100, 8, PROT_READ | PROT_WRITE);
    EQ(vfu_sg_is_mappable(dev.ctx, sg), false);
    FAILS(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), EFAULT);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, VFU_SGL_DIRECT_ACCESS), 0);
    EQ(memcmp(data, "FROMFILE", 8), 0);
    EQ(vfu_sgl_write(dev.ctx, sg, 1, "INTOFILE", VFU_SGL_DIRECT_ACCESS), 0);
    EQ(pread(fd, data, 8, 0x100), 8);
    EQ(memcmp(data, "INTOFILE", 8), 0);
    free(sg);
    device_destroy();
}

CASE(messages_with_arguments_that_can_not_be)
{
    uint8_t data[8];

    device();
    map_ram(-1);
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_READ);
    FAILS(vfu_sgl_read(dev.ctx, sg, 1, data, 2), EINVAL);
    FAILS(vfu_sgl_write(dev.ctx, sg, 1, data, 1 << 8), EINVAL);
    FAILS(vfu_sgl_read(dev.ctx, sg, 2, data, 0), ENOTSUP);
    FAILS(vfu_sgl_write(dev.ctx, sg, 2, data, 0), ENOTSUP);
    FAILS(vfu_sgl_write(dev.ctx, sg, 1, data, 0), EPERM); /* looked up for reading */
    CHECK(!wire_readable(dev.sock));
    free(sg);
    device_destroy();
}

static int refuse_with;

static void refuse(void)
{
    struct msg command;

    CHECK(wire_receive(dev.dma_sock, &command));
    wire_reply(dev.dma_sock, &command, refuse_with, NULL, 0);
    wire_free(&command);
}

CASE(messages_that_the_client_refuses)
{
    uint8_t data[8] = {0};

    device();
    map_ram(-1);
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_WRITE);
    refuse_with = ENXIO;
    client_thread(refuse);
    FAILS(vfu_sgl_read(dev.ctx, sg, 1, data, 0), ENXIO);
    client_join();
    refuse_with = EROFS;
    client_thread(refuse);
    FAILS(vfu_sgl_write(dev.ctx, sg, 1, data, 0), EROFS);
    client_join();
    client_thread(serve_one);
    EQ(vfu_sgl_read(dev.ctx, sg, 1, data, 0), 0);
    client_join();
    free(sg);
    device_destroy();
}

static void answer_elsewhere(void)
{
    struct msg command;
    uint8_t data[16 + 8] = {0};
    struct vfio_user_dma_region_access access;

    CHECK(wire_receive(dev.sock, &command));
    access = *wire_dma(&command);
    access.addr += 8;
    memcpy(data, &access, 16);
    wire_reply(dev.sock, &command, 0, data, sizeof(data));
    wire_free(&command);
}

CASE(messages_answered_for_another_address)
{
    uint8_t data[8];

    device();
    map_ram(-1);
    dma_sg_t *sg = look_up(RAM_AT, 8, PROT_READ);
    client_thread(answer_elsewhere);
    FAILS(vfu_sgl_read(dev.ctx, sg, 1, data, 0), EINVAL);
    client_join();
    free(sg);
    device_destroy();
}
