/* vfu_setup_device_nr_irqs, vfu_setup_irq_state_callback, vfu_irq_trigger, and how clients set interrupts up. */
#define _GNU_SOURCE
#include <sys/eventfd.h>
#include <unistd.h>

#include "device.h"

#define NONE VFIO_IRQ_SET_DATA_NONE
#define BOOL VFIO_IRQ_SET_DATA_BOOL
#define EVENTFD VFIO_IRQ_SET_DATA_EVENTFD
#define TRIGGER VFIO_IRQ_SET_ACTION_TRIGGER
#define MASK VFIO_IRQ_SET_ACTION_MASK
#define UNMASK VFIO_IRQ_SET_ACTION_UNMASK

static int event(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

/* How often an eventfd was signalled since it was asked last. */
static int count(int fd)
{
    uint64_t value;

    return read(fd, &value, sizeof(value)) == sizeof(value) ? (int)value : 0;
}

CASE(irq_types_that_do_not_exist)
{
    device_create(0);
    FAILS(vfu_setup_device_nr_irqs(dev.ctx, VFU_DEV_NUM_IRQS, 1), EINVAL);
    FAILS(vfu_setup_irq_state_callback(dev.ctx, VFU_DEV_NUM_IRQS, NULL), EINVAL);
    device_destroy();
}

static int info(uint32_t index, uint32_t argsz, struct vfio_irq_info *got)
{
    struct vfio_irq_info ask = {.argsz = argsz, .index = index};
    struct msg reply;
    int error = call(VFIO_USER_DEVICE_GET_IRQ_INFO, &ask, sizeof(ask), NULL, 0, &reply);

    if (error == 0) {
        EQ(reply.len, sizeof(*got));
        memcpy(got, reply.data, sizeof(*got));
    }
    wire_free(&reply);
    return error;
}

CASE(irq_info_says_how_many_vectors)
{
    const uint32_t counts[VFU_DEV_NUM_IRQS] = {1, 0, 4, 1, 1};
    struct vfio_irq_info got;

    device();
    for (uint32_t index = 0; index < VFU_DEV_NUM_IRQS; index++) {
        EQ(info(index, 16, &got), 0);
        EQ(got.argsz, 16);
        EQ(got.index, index);
        EQ(got.count, counts[index]);
        EQ(got.flags & VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_EVENTFD);
    }
    EQ(info(VFU_DEV_NUM_IRQS, 16, &got), EINVAL);
    EQ(info(0, 15, &got), EINVAL);
    device_destroy();
}

CASE(irq_reaches_the_client)
{
    int fd = event();

    device();
    EQ(set_irqs(VFU_DEV_INTX_IRQ, EVENTFD | TRIGGER, 0, 1, &fd, 1), 0);
    EQ(vfu_irq_trigger(dev.ctx, 0), 0);
    EQ(vfu_irq_trigger(dev.ctx, 0), 0);
    EQ(count(fd), 2);
    device_destroy();
}

CASE(irq_that_nobody_listens_to)
{
    device();
    FAILS(vfu_irq_trigger(dev.ctx, 0), ENOENT);
    FAILS(vfu_irq_trigger(dev.ctx, 4), EINVAL);
    FAILS(vfu_irq_trigger(dev.ctx, UINT32_MAX), EINVAL);
    device_destroy();
}

CASE(irq_of_each_vector)
{
    int fds[4];

    device();
    for (int i = 0; i < 4; i++)
        fds[i] = event();
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, EVENTFD | TRIGGER, 0, 4, fds, 4), 0);
    for (int i = 0; i < 4; i++) {
        EQ(vfu_irq_trigger(dev.ctx, i), 0);
        for (int j = 0; j < 4; j++)
            EQ(count(fds[j]), i == j);
    }
    device_destroy();
}

CASE(irq_descriptor_that_is_replaced)
{
    int first = event(), second = event();

    device();
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, EVENTFD | TRIGGER, 1, 1, &first, 1), 0);
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, EVENTFD | TRIGGER, 1, 1, &second, 1), 0);
    EQ(vfu_irq_trigger(dev.ctx, 1), 0);
    EQ(count(first), 0);
    EQ(count(second), 1);
    device_destroy();
}

CASE(irq_type_that_is_turned_off)
{
    int fds[4];

    device();
    for (int i = 0; i < 4; i++)
        fds[i] = event();
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, EVENTFD | TRIGGER, 0, 4, fds, 4), 0);
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, NONE | TRIGGER, 0, 0, NULL, 0), 0);
    for (int i = 0; i < 4; i++)
        FAILS(vfu_irq_trigger(dev.ctx, i), ENOENT);
    device_destroy();
}

CASE(irq_that_the_client_tries)
{
    int fds[2] = {event(), event()};

    device();
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, EVENTFD | TRIGGER, 1, 2, fds, 2), 0);
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, NONE | TRIGGER, 2, 1, NULL, 0), 0);
    EQ(count(fds[0]), 0);
    EQ(count(fds[1]), 1);
    device_destroy();
}

CASE(irq_that_the_client_tries_by_bytes)
{
    int fds[3] = {event(), event(), event()};
    uint8_t data[20 + 3];
    uint32_t head[5] = {sizeof(data), BOOL | TRIGGER, VFU_DEV_MSIX_IRQ, 0, 3};

    device();
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, EVENTFD | TRIGGER, 0, 3, fds, 3), 0);
    memcpy(data, head, 20);
    memcpy(data + 20, "\1\0\1", 3);
    EQ(call(VFIO_USER_DEVICE_SET_IRQS, data, sizeof(data), NULL, 0, NULL), 0);
    EQ(count(fds[0]), 1);
    EQ(count(fds[1]), 0);
    EQ(count(fds[2]), 1);
    device_destroy();
}

CASE(irq_states_reach_the_device)
{
    device();
    EQ(set_irqs(VFU_DEV_INTX_IRQ, NONE | MASK, 0, 1, NULL, 0), 0);
    EQ(dev.irq_states, 1);
    EQ(dev.irq_start, 0);
    EQ(dev.irq_count, 1);
    EQ(dev.irq_mask, true);
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, NONE | UNMASK, 1, 3, NULL, 0), 0);
    EQ(dev.irq_states, 2);
    EQ(dev.irq_start, 1);
    EQ(dev.irq_count, 3);
    EQ(dev.irq_mask, false);
    device_destroy();
}

/* Everything that SET_IRQS can be told and must refuse. */
static void refused(uint32_t index, uint32_t flags, uint32_t start, uint32_t number)
{
    device();
    EQ(set_irqs(index, flags, start, number, NULL, 0), EINVAL);
    EQ(dev.irq_states, 0);
    device_destroy();
}

CASE(irq_set_of_no_type) { refused(VFU_DEV_NUM_IRQS, NONE | TRIGGER, 0, 1); }
CASE(irq_set_without_data_bits) { refused(VFU_DEV_INTX_IRQ, TRIGGER, 0, 1); }
CASE(irq_set_with_two_data_bits) { refused(VFU_DEV_INTX_IRQ, NONE | EVENTFD | TRIGGER, 0, 1); }
CASE(irq_set_without_an_action) { refused(VFU_DEV_INTX_IRQ, NONE, 0, 1); }
CASE(irq_set_with_two_actions) { refused(VFU_DEV_INTX_IRQ, NONE | MASK | UNMASK, 0, 1); }
CASE(irq_set_from_behind_the_end) { refused(VFU_DEV_MSIX_IRQ, NONE | TRIGGER, 4, 1); }
CASE(irq_set_over_the_end) { refused(VFU_DEV_MSIX_IRQ, NONE | TRIGGER, 2, 3); }
CASE(irq_set_that_wraps) { refused(VFU_DEV_MSIX_IRQ, NONE | TRIGGER, 2, UINT32_MAX); }
CASE(irq_set_of_none_from_the_middle) { refused(VFU_DEV_MSIX_IRQ, NONE | TRIGGER, 2, 0); }
CASE(irq_set_that_masks_none) { refused(VFU_DEV_MSIX_IRQ, NONE | MASK, 0, 0); }
CASE(irq_set_that_masks_errors) { refused(VFU_DEV_ERR_IRQ, NONE | MASK, 0, 1); }
CASE(irq_set_of_two_requests) { refused(VFU_DEV_REQ_IRQ, NONE | TRIGGER, 0, 2); }
CASE(irq_set_with_bytes_that_are_missing) { refused(VFU_DEV_INTX_IRQ, BOOL | TRIGGER, 0, 1); }

CASE(irq_set_with_descriptors_that_are_not_wanted)
{
    int fds[2] = {event(), event()}, before;

    device();
    before = open_fds();
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, NONE | TRIGGER, 0, 1, fds, 1), EINVAL);
    EQ(set_irqs(VFU_DEV_MSIX_IRQ, EVENTFD | TRIGGER, 0, 3, fds, 2), EINVAL);
    EQ(open_fds(), before);
    device_destroy();
}

CASE(irq_set_that_is_cut_off)
{
    uint32_t data[5] = {20, NONE | TRIGGER, VFU_DEV_INTX_IRQ, 0, 1};

    device();
    EQ(call(VFIO_USER_DEVICE_SET_IRQS, data, 19, NULL, 0, NULL), EINVAL);
    data[0] = 19;
    EQ(call(VFIO_USER_DEVICE_SET_IRQS, data, 20, NULL, 0, NULL), EINVAL);
    device_destroy();
}

CASE(irq_descriptors_go_with_the_client)
{
    int fd = event();

    device();
    EQ(set_irqs(VFU_DEV_INTX_IRQ, EVENTFD | TRIGGER, 0, 1, &fd, 1), 0);
    disconnect();
    run_until(ENOTCONN);
    FAILS(vfu_irq_trigger(dev.ctx, 0), ENOENT);
    EQ(count(fd), 0);
    device_destroy();
}

static void *trigger(void *unused)
{
    for (int i = 0; i < 1000; i++)
        EQ(vfu_irq_trigger(dev.ctx, 0), 0);
    return unused;
}

CASE(irq_from_another_thread)
{
    int fd = event();
    pthread_t thread;

    device();
    EQ(set_irqs(VFU_DEV_INTX_IRQ, EVENTFD | TRIGGER, 0, 1, &fd, 1), 0);
    EQ(pthread_create(&thread, NULL, trigger, NULL), 0);
    for (int i = 0; i < 50; i++)
        EQ(config_read(0, 4), 0x56781234);
    pthread_join(thread, NULL);
    EQ(count(fd), 1000);
    device_destroy();
}
