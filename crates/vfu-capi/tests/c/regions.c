/* vfu_setup_region, vfu_create_ioeventfd, and what clients see of regions. */
#define _GNU_SOURCE
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"
#include "extensions.h"

#define MEM_RW (VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM)

static void created(void)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
}

static int setup(int index, size_t size, int flags)
{
    return vfu_setup_region(dev.ctx, index, size, NULL, flags, NULL, 0, -1, 0);
}

static int info(uint32_t index, uint32_t argsz, struct msg *reply)
{
    struct vfio_region_info ask = {.argsz = argsz, .index = index};

    return call(VFIO_USER_DEVICE_GET_REGION_INFO, &ask, sizeof(ask), NULL, 0, reply);
}

CASE(region_sizes_of_bars_are_powers_of_two)
{
    created();
    FAILS(setup(VFU_PCI_DEV_BAR1_REGION_IDX, 0x1800, MEM_RW), EINVAL);
    EQ(setup(VFU_PCI_DEV_BAR1_REGION_IDX, 0x2000, MEM_RW), 0);
    device_destroy();
}

CASE(region_that_does_not_exist)
{
    created();
    FAILS(setup(-1, 4096, MEM_RW), EINVAL);
    FAILS(setup(VFU_PCI_DEV_NUM_REGIONS, 4096, MEM_RW), EINVAL);
    device_destroy();
}

CASE(region_with_unknown_flags)
{
    created();
    FAILS(setup(VFU_PCI_DEV_BAR1_REGION_IDX, 4096, MEM_RW | 1 << 10), EINVAL);
    device_destroy();
}

CASE(region_that_nobody_may_read_or_write)
{
    created();
    FAILS(setup(VFU_PCI_DEV_BAR1_REGION_IDX, 4096, VFU_REGION_FLAG_MEM), EINVAL);
    device_destroy();
}

CASE(region_areas_without_a_descriptor)
{
    struct iovec areas[1] = {{(void *)0, 4096}};

    created();
    FAILS(vfu_setup_region(dev.ctx, VFU_PCI_DEV_BAR1_REGION_IDX, 8192, NULL, MEM_RW, areas, 1, -1, 0), EINVAL);
    device_destroy();
}

CASE(region_areas_and_their_number_go_together)
{
    struct iovec areas[1] = {{(void *)0, 4096}};
    int fd = memory(8192);

    created();
    FAILS(vfu_setup_region(dev.ctx, VFU_PCI_DEV_BAR1_REGION_IDX, 8192, NULL, MEM_RW, NULL, 1, fd, 0), EINVAL);
    FAILS(vfu_setup_region(dev.ctx, VFU_PCI_DEV_BAR1_REGION_IDX, 8192, NULL, MEM_RW, areas, 0, fd, 0), EINVAL);
    device_destroy();
}

CASE(region_area_outside_of_the_region)
{
    struct iovec areas[1] = {{(void *)8192, 4096}};
    int fd = memory(16384);

    created();
    FAILS(vfu_setup_region(dev.ctx, VFU_PCI_DEV_BAR1_REGION_IDX, 8192, NULL, MEM_RW, areas, 1, fd, 0), EINVAL);
    device_destroy();
}

CASE(region_of_size_zero_is_gone)
{
    struct msg reply;

    created();
    EQ(setup(VFU_PCI_DEV_BAR1_REGION_IDX, 8192, MEM_RW), 0);
    EQ(setup(VFU_PCI_DEV_BAR1_REGION_IDX, 0, MEM_RW), 0);
    device_connect(CAPABILITIES);
    EQ(info(VFU_PCI_DEV_BAR1_REGION_IDX, 32, &reply), 0);
    EQ(((struct vfio_region_info *)reply.data)->size, 0);
    wire_free(&reply);
    device_destroy();
}

CASE(region_info_says_size_and_flags)
{
    struct msg reply;

    device();
    EQ(info(VFU_PCI_DEV_BAR0_REGION_IDX, 32, &reply), 0);
    struct vfio_region_info *got = (void *)reply.data;
    EQ(reply.len, 32);
    EQ(got->argsz, 32);
    EQ(got->size, BAR0_SIZE);
    EQ(got->flags, VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE);
    EQ(got->cap_offset, 0);
    EQ(reply.nr_fds, 0);
    wire_free(&reply);
    device_destroy();
}

CASE(region_info_of_no_region)
{
    device();
    EQ(info(VFU_PCI_DEV_NUM_REGIONS, 32, NULL), EINVAL);
    EQ(info(VFU_PCI_DEV_BAR0_REGION_IDX, 31, NULL), EINVAL);
    device_destroy();
}

static int region_fd;

static void mappable(void)
{
    struct iovec areas[2] = {{(void *)0, 4096}, {(void *)8192, 4096}};

    region_fd = memory(0x8000);
    created();
    EQ(vfu_setup_region(dev.ctx, VFU_PCI_DEV_BAR1_REGION_IDX, 0x4000, NULL, MEM_RW, areas, 2, region_fd, 0x4000), 0);
    device_connect(CAPABILITIES);
}

CASE(region_info_has_areas_and_a_descriptor)
{
    struct msg reply;

    mappable();
    EQ(info(VFU_PCI_DEV_BAR1_REGION_IDX, 128, &reply), 0);
    struct vfio_region_info *got = (void *)reply.data;
    struct vfio_region_info_cap_sparse_mmap *sparse = (void *)(reply.data + 32);
    EQ(got->argsz, 80);
    EQ(got->flags, VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE | VFIO_REGION_INFO_FLAG_MMAP |
                       VFIO_REGION_INFO_FLAG_CAPS);
    EQ(got->cap_offset, 32);
    EQ(got->offset, 0x4000);
    EQ(reply.len, 80);
    EQ(sparse->header.id, VFIO_REGION_INFO_CAP_SPARSE_MMAP);
    EQ(sparse->nr_areas, 2);
    EQ(sparse->areas[1].offset, 8192);
    EQ(sparse->areas[1].size, 4096);
    EQ(reply.nr_fds, 1);
    uint32_t mark = 0x11223344, there = 0;
    EQ(pwrite(reply.fds[0], &mark, 4, 0x4000), 4);
    EQ(pread(region_fd, &there, 4, 0x4000), 4);
    EQ(there, mark);
    wire_free(&reply);
    device_destroy();
}

CASE(region_info_without_room_for_the_areas)
{
    struct msg reply;

    mappable();
    EQ(info(VFU_PCI_DEV_BAR1_REGION_IDX, 32, &reply), 0);
    struct vfio_region_info *got = (void *)reply.data;
    EQ(reply.len, 32);
    EQ(got->argsz, 80);
    EQ(got->flags & VFIO_REGION_INFO_FLAG_CAPS, 0);
    EQ(got->cap_offset, 0);
    EQ(reply.nr_fds, 0);
    wire_free(&reply);
    device_destroy();
}

CASE(region_that_can_be_mapped_whole)
{
    struct msg reply;
    int fd = memory(0x4000);

    created();
    EQ(vfu_setup_region(dev.ctx, VFU_PCI_DEV_BAR1_REGION_IDX, 0x4000, NULL, MEM_RW, NULL, 0, fd, 0), 0);
    device_connect(CAPABILITIES);
    EQ(info(VFU_PCI_DEV_BAR1_REGION_IDX, 128, &reply), 0);
    EQ(((struct vfio_region_info *)reply.data)->flags & VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_MMAP);
    EQ(reply.nr_fds, 1);
    wire_free(&reply);
    device_destroy();
}

CASE(region_set_up_while_a_client_is_there)
{
    struct msg reply;

    device();
    EQ(setup(VFU_PCI_DEV_BAR2_REGION_IDX, 8192, MEM_RW), 0);
    EQ(info(VFU_PCI_DEV_BAR2_REGION_IDX, 32, &reply), 0);
    EQ(((struct vfio_region_info *)reply.data)->size, 8192);
    wire_free(&reply);
    device_destroy();
}

/* ---- accesses ---- */

CASE(access_of_every_size_keeps_it)
{
    uint64_t value = 0x8877665544332211, got;

    device();
    for (uint32_t count = 1; count <= 8; count *= 2) {
        EQ(region_write(VFU_PCI_DEV_BAR0_REGION_IDX, 0x100, &value, count), 0);
        EQ(dev.access.count, count);
        EQ(dev.access.offset, 0x100);
        EQ(dev.access.is_write, true);
        got = 0;
        EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0x100, &got, count), 0);
        EQ(dev.access.is_write, false);
        EQ(memcmp(&got, &value, count), 0);
    }
    device_destroy();
}

CASE(access_of_odd_sizes_and_places)
{
    uint8_t data[37], got[37];

    device();
    for (int i = 0; i < 37; i++)
        data[i] = i;
    EQ(region_write(VFU_PCI_DEV_BAR0_REGION_IDX, 0x123, data, 37), 0);
    EQ(dev.access.count, 37);
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0x123, got, 37), 0);
    EQ(memcmp(data, got, 37), 0);
    device_destroy();
}

CASE(access_beyond_the_end)
{
    uint32_t value = 0;

    device();
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, BAR0_SIZE - 2, &value, 4), EINVAL);
    EQ(region_write(VFU_PCI_DEV_BAR0_REGION_IDX, BAR0_SIZE, &value, 4), EINVAL);
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, UINT64_MAX - 1, &value, 4), EINVAL);
    EQ(region_read(VFU_PCI_DEV_NUM_REGIONS, 0, &value, 4), EINVAL);
    EQ(region_read(VFU_PCI_DEV_BAR3_REGION_IDX, 0, &value, 4), EINVAL);
    EQ(dev.accesses, 0);
    device_destroy();
}

CASE(access_of_nothing)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_BAR0_REGION_IDX, 0};

    device();
    EQ(call(VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0, NULL), 0);
    EQ(dev.accesses, 0);
    device_destroy();
}

CASE(access_larger_than_a_message)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_BAR0_REGION_IDX, 0x100001};

    created();
    EQ(setup(VFU_PCI_DEV_BAR0_REGION_IDX, 0x400000, MEM_RW), 0);
    device_connect(CAPABILITIES);
    EQ(call(VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0, NULL), EINVAL);
    device_destroy();
}

CASE(access_that_says_another_length_than_it_has)
{
    uint8_t data[16 + 4] = {0};
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_BAR0_REGION_IDX, 8};

    device();
    memcpy(data, &access, sizeof(access));
    EQ(call(VFIO_USER_REGION_WRITE, data, sizeof(data), NULL, 0, NULL), EINVAL);
    EQ(call(VFIO_USER_REGION_READ, data, 15, NULL, 0, NULL), EINVAL);
    EQ(dev.accesses, 0);
    device_destroy();
}

CASE(access_that_the_device_refuses)
{
    uint32_t value = 0;

    device();
    dev.access_errno = ENODATA;
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0, &value, 4), ENODATA);
    EQ(region_write(VFU_PCI_DEV_BAR0_REGION_IDX, 0, &value, 4), ENODATA);
    dev.access_errno = 0;
    EQ(region_read(VFU_PCI_DEV_BAR0_REGION_IDX, 0, &value, 4), 0);
    device_destroy();
}

CASE(access_without_an_answer)
{
    uint8_t bytes[16 + 16 + 4];
    struct vfio_user_header header = {5, VFIO_USER_REGION_WRITE, sizeof(bytes), VFIO_USER_F_NO_REPLY, 0};
    struct vfio_user_region_access access = {0x20, VFU_PCI_DEV_BAR0_REGION_IDX, 4};
    uint32_t value = 0x01020304;

    device();
    memcpy(bytes, &header, 16);
    memcpy(bytes + 16, &access, 16);
    memcpy(bytes + 32, &value, 4);
    wire_send(dev.sock, bytes, sizeof(bytes), NULL, 0);
    EQ(run_once(), 1);
    EQ(memcmp(dev.bar0 + 0x20, &value, 4), 0);
    CHECK(!wire_readable(dev.sock));
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

/* ---- ioeventfds ---- */

static int io_fds(uint32_t index, uint32_t argsz, struct msg *reply)
{
    struct vfio_user_region_io_fds_request ask = {.argsz = argsz, .index = index};

    return call(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &ask, sizeof(ask), NULL, 0, reply);
}

CASE(ioeventfd_places_that_can_not_be)
{
    int fd = eventfd(0, EFD_CLOEXEC);

    created();
    FAILS(vfu_create_ioeventfd(dev.ctx, VFU_PCI_DEV_NUM_REGIONS, fd, 0, 4, 0, 0, -1, 0), EINVAL);
    FAILS(vfu_create_ioeventfd(dev.ctx, VFU_PCI_DEV_BAR0_REGION_IDX, fd, BAR0_SIZE - 2, 4, 0, 0, -1, 0), EINVAL);
    EQ(vfu_create_ioeventfd(dev.ctx, VFU_PCI_DEV_BAR0_REGION_IDX, fd, BAR0_SIZE - 4, 4, 0, 0, -1, 0), 0);
    device_destroy();
}

CASE(ioeventfds_are_offered)
{
    struct msg reply;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    created();
    EQ(vfu_create_ioeventfd(dev.ctx, VFU_PCI_DEV_BAR0_REGION_IDX, fd, 0x10, 4, 0, 0, -1, 0), 0);
    EQ(vfu_create_ioeventfd(dev.ctx, VFU_PCI_DEV_BAR0_REGION_IDX, -1, 0x20, 8, 1, 0x99, -1, 0), 0);
    device_connect(CAPABILITIES);
    EQ(io_fds(VFU_PCI_DEV_BAR0_REGION_IDX, 512, &reply), 0);
    struct vfio_user_region_io_fds_reply *got = (void *)reply.data;
    EQ(got->count, 2);
    EQ(reply.nr_fds, 1);
    struct vfio_user_sub_region_ioeventfd *newest = &got->sub_regions[0].ioeventfd, *oldest = &got->sub_regions[1].ioeventfd;
    EQ(newest->gpa_offset, 0x20);
    EQ(newest->size, 8);
    EQ(newest->fd_index, UINT32_MAX);
    EQ(newest->datamatch, 0x99);
    EQ(newest->flags, 1);
    EQ(oldest->gpa_offset, 0x10);
    EQ(oldest->fd_index, 0);
    EQ(oldest->type, VFIO_USER_IO_FD_TYPE_IOEVENTFD);
    uint64_t one = 1, seen = 0;
    EQ(write(reply.fds[0], &one, 8), 8);
    EQ(read(fd, &seen, 8), 8);
    EQ(seen, 1);
    wire_free(&reply);
    device_destroy();
}

/* Linux sends no more with one message: the client would get none. */
CASE(rs_more_ioeventfds_than_a_message_takes_are_refused)
{
    struct msg reply;

    if (vfu_rs_version == NULL)
        case_skip("another library");
    created();
    int shared = eventfd(0, EFD_CLOEXEC);
    for (int i = 0; i < 253; i++) {
        int fd = i == 0 ? shared : eventfd(0, EFD_CLOEXEC);
        EQ(vfu_create_ioeventfd(dev.ctx, VFU_PCI_DEV_BAR0_REGION_IDX, fd, 4 * i, 4, 0, 0, -1, 0), 0);
    }
    FAILS(vfu_create_ioeventfd(dev.ctx, VFU_PCI_DEV_BAR0_REGION_IDX, eventfd(0, EFD_CLOEXEC), 0x800, 4, 0, 0, -1, 0), ENOSPC);
    EQ(vfu_create_ioeventfd(dev.ctx, VFU_PCI_DEV_BAR0_REGION_IDX, shared, 0x804, 4, 0, 0, -1, 0), 0);
    device_connect(CAPABILITIES);
    EQ(io_fds(VFU_PCI_DEV_BAR0_REGION_IDX, 1 << 16, &reply), 0);
    EQ(((struct vfio_user_region_io_fds_reply *)reply.data)->count, 254);
    wire_free(&reply);
    device_destroy();
}

CASE(ioeventfds_without_room_are_counted)
{
    struct msg reply;

    created();
    EQ(vfu_create_ioeventfd(dev.ctx, VFU_PCI_DEV_BAR0_REGION_IDX, eventfd(0, EFD_CLOEXEC), 0, 4, 0, 0, -1, 0), 0);
    device_connect(CAPABILITIES);
    EQ(io_fds(VFU_PCI_DEV_BAR0_REGION_IDX, 16, &reply), 0);
    EQ(((struct vfio_user_region_io_fds_reply *)reply.data)->argsz, 16 + 48);
    EQ(reply.nr_fds, 0);
    wire_free(&reply);
    device_destroy();
}

CASE(ioeventfds_of_a_region_without_any)
{
    struct msg reply;

    device();
    EQ(io_fds(VFU_PCI_DEV_BAR0_REGION_IDX, 512, &reply), 0);
    EQ(((struct vfio_user_region_io_fds_reply *)reply.data)->count, 0);
    wire_free(&reply);
    EQ(io_fds(VFU_PCI_DEV_BAR4_REGION_IDX, 512, NULL), EINVAL);
    EQ(io_fds(VFU_PCI_DEV_NUM_REGIONS, 512, NULL), EINVAL);
    device_destroy();
}
