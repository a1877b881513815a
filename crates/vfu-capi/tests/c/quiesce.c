/* vfu_setup_device_quiesce_cb, vfu_device_quiesced, vfu_setup_device_reset_cb. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"

static const struct vfio_user_dma_map map = {sizeof(map), 3, 0, RAM_AT, RAM_SIZE};
static const struct vfio_user_dma_unmap unmap = {.argsz = sizeof(unmap), .addr = RAM_AT, .size = RAM_SIZE};

/* Sends a command that makes the device quiesce, which takes it a while. */
static void pending(uint16_t cmd, const void *data, size_t len)
{
    dev.quiesce_errno = EBUSY;
    wire_command(dev.sock, ++dev.id, cmd, data, len, NULL, 0);
    EQ(run_once(), -1);
    EQ(dev.rc_errno, EBUSY);
    FAILS(vfu_run_ctx(dev.ctx), EBUSY);
    CHECK(!wire_readable(dev.sock));
    dev.quiesce_errno = 0;
}

static int pending_reply(void)
{
    struct msg reply;
    int error;

    CHECK(wire_readable(dev.sock));
    CHECK(wire_receive(dev.sock, &reply));
    EQ(reply.header.msg_id, dev.id);
    error = reply.header.error_no;
    wire_free(&reply);
    return error;
}

CASE(quiesced_before_memory_comes_and_goes)
{
    device();
    map_ram(-1);
    EQ(dev.quiesces, 1);
    EQ(dma_unmap(RAM_AT, RAM_SIZE), 0);
    EQ(dev.quiesces, 2);
    device_destroy();
}

CASE(quiesced_before_a_reset)
{
    device();
    EQ(call(VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0, NULL), 0);
    EQ(dev.quiesces, 1);
    EQ(dev.resets[VFU_RESET_DEVICE], 1);
    device_destroy();
}

CASE(quiesced_before_the_client_s_memory_is_lost)
{
    device();
    map_ram(-1);
    disconnect();
    run_until(ENOTCONN);
    EQ(dev.quiesces, 2);
    EQ(dev.unmaps, 1);
    device_destroy();
}

CASE(quiesced_for_nothing_else)
{
    uint32_t value = 0;
    struct vfio_irq_info ask = {.argsz = sizeof(ask)};

    device();
    EQ(region_write(VFU_PCI_DEV_BAR0_REGION_IDX, 0, &value, 4), 0);
    EQ(config_write(PCI_COMMAND, 2, 2), 0);
    EQ(call(VFIO_USER_DEVICE_GET_IRQ_INFO, &ask, sizeof(ask), NULL, 0, NULL), 0);
    EQ(dev.quiesces, 0);
    device_destroy();
}

CASE(quiesce_that_fails_fails_the_request)
{
    device();
    dev.quiesce_errno = ENOTTY;
    EQ(dma_map(RAM_AT, RAM_SIZE, 3, -1, 0), ENOTTY);
    EQ(call(VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0, NULL), ENOTTY);
    EQ(dev.maps, 0);
    EQ(dev.resets[VFU_RESET_DEVICE], 0);
    dev.quiesce_errno = 0;
    map_ram(-1);
    device_destroy();
}

CASE(quiesce_later_maps_in_the_call_that_says_so)
{
    device();
    pending(VFIO_USER_DMA_MAP, &map, sizeof(map));
    EQ(dev.maps, 0);
    EQ(vfu_device_quiesced(dev.ctx, 0), 0);
    EQ(dev.maps, 1);
    EQ(pending_reply(), 0);
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

CASE(quiesce_later_unmaps)
{
    device();
    map_ram(-1);
    pending(VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap));
    EQ(dev.unmaps, 0);
    EQ(vfu_device_quiesced(dev.ctx, 0), 0);
    EQ(dev.unmaps, 1);
    EQ(pending_reply(), 0);
    device_destroy();
}

CASE(quiesce_later_resets)
{
    device();
    pending(VFIO_USER_DEVICE_RESET, NULL, 0);
    EQ(dev.resets[VFU_RESET_DEVICE], 0);
    EQ(vfu_device_quiesced(dev.ctx, 0), 0);
    EQ(dev.resets[VFU_RESET_DEVICE], 1);
    EQ(pending_reply(), 0);
    device_destroy();
}

CASE(quiesce_later_and_the_client_waits_for_its_turn)
{
    struct vfio_user_region_access access = {0, VFU_PCI_DEV_CFG_REGION_IDX, 4};
    struct msg reply;

    device();
    pending(VFIO_USER_DMA_MAP, &map, sizeof(map));
    wire_command(dev.sock, 500, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);
    FAILS(vfu_run_ctx(dev.ctx), EBUSY);
    CHECK(!wire_readable(dev.sock));
    EQ(vfu_device_quiesced(dev.ctx, 0), 0);
    EQ(pending_reply(), 0);
    EQ(answer(&reply), 0);
    EQ(reply.header.msg_id, 500);
    wire_free(&reply);
    device_destroy();
}

/* SPDK: a client that is killed in the middle of its work. */
CASE(quiesce_later_lets_go_of_a_lost_client)
{
    device();
    map_ram(-1);
    dev.quiesce_errno = EBUSY;
    disconnect();
    run_until(EBUSY);
    EQ(dev.unmaps, 0);
    dev.quiesce_errno = 0;
    EQ(vfu_device_quiesced(dev.ctx, 0), 0);
    EQ(dev.unmaps, 1);
    EQ(dev.resets[VFU_RESET_LOST_CONN], 1);
    FAILS(vfu_run_ctx(dev.ctx), ENOTCONN);
    device_connect(CAPABILITIES);
    device_destroy();
}

CASE(quiesce_later_and_destroyed_before)
{
    device();
    map_ram(-1);
    pending(VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap));
    device_destroy();
    EQ(dev.unmaps, 1);
    EQ(dev.resets[VFU_RESET_LOST_CONN], 1);
}

CASE(quiesced_that_nobody_asked_for)
{
    device();
    FAILS(vfu_device_quiesced(dev.ctx, 0), EINVAL);
    map_ram(-1);
    FAILS(vfu_device_quiesced(dev.ctx, 0), EINVAL);
    device_destroy();
}

static void use_memory_in_reset(void)
{
    struct iovec iov;
    dma_sg_t *sg = look_up(RAM_AT, 16, PROT_WRITE);

    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), 0);
    vfu_sgl_put(dev.ctx, sg, &iov, 1);
    free(sg);
}

CASE(reset_may_use_memory)
{
    device();
    map_ram(memory(RAM_SIZE));
    dev.on_reset = use_memory_in_reset;
    EQ(call(VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0, NULL), 0);
    EQ(dev.resets[VFU_RESET_DEVICE], 1);
    dev.on_reset = NULL;
    device_destroy();
}

static void fail_reset(void)
{
    errno = EREMOTEIO;
}

CASE(reset_that_fails)
{
    device();
    dev.on_reset = fail_reset;
    dev.reset_result = -1;
    EQ(call(VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0, NULL), EREMOTEIO);
    dev.reset_result = 0;
    EQ(call(VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0, NULL), 0);
    device_destroy();
}

CASE(reset_keeps_memory_and_interrupts)
{
    device();
    map_ram(memory(RAM_SIZE));
    EQ(call(VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0, NULL), 0);
    EQ(dev.unmaps, 0);
    free(look_up(RAM_AT, 8, PROT_READ));
    device_destroy();
}

CASE(reset_of_a_device_that_has_nothing_to_do)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    EQ(vfu_pci_init(dev.ctx, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0), 0);
    device_connect(CAPABILITIES);
    EQ(call(VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0, NULL), 0);
    device_destroy();
}
