/* vfu_setup_device_migration_callbacks, vfu_sgl_mark_dirty, and what moves a device. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"

#define PAGE 4096
#define GET VFIO_DEVICE_FEATURE_GET
#define SET VFIO_DEVICE_FEATURE_SET
#define PROBE VFIO_DEVICE_FEATURE_PROBE

static void migratable(void)
{
    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    device_migratable();
    device_connect(CAPABILITIES);
}

static int nothing(vfu_ctx_t *ctx, vfu_migr_state_t state)
{
    (void)ctx, (void)state;
    return 0;
}

static ssize_t no_data(vfu_ctx_t *ctx, void *buf, uint64_t count)
{
    (void)ctx, (void)buf, (void)count;
    return 0;
}

CASE(migration_callbacks_of_another_version)
{
    vfu_migration_callbacks_t callbacks = {1, nothing, no_data, no_data};

    device_create(0);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    FAILS(vfu_setup_device_migration_callbacks(dev.ctx, &callbacks), EINVAL);
    callbacks.version = VFU_MIGR_CALLBACKS_VERS;
    EQ(vfu_setup_device_migration_callbacks(dev.ctx, &callbacks), 0);
    device_destroy();
}

CASE(migration_callbacks_are_all_needed)
{
    device_create(0);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    for (int missing = 0; missing < 3; missing++) {
        vfu_migration_callbacks_t callbacks = {VFU_MIGR_CALLBACKS_VERS, missing == 0 ? NULL : nothing,
                                               missing == 1 ? NULL : no_data, missing == 2 ? NULL : no_data};
        FAILS(vfu_setup_device_migration_callbacks(dev.ctx, &callbacks), EINVAL);
    }
    device_destroy();
}

static uint32_t state(void)
{
    uint8_t data[8] = {0};
    struct msg reply;

    EQ(feature(GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, data, 0, 16, &reply), 0);
    EQ(reply.len, 16);
    uint32_t got = ((struct vfio_user_device_feature_mig_state *)(reply.data + 8))->device_state;
    wire_free(&reply);
    return got;
}

CASE(migration_begins_as_running)
{
    migratable();
    EQ(state(), VFIO_USER_DEVICE_STATE_RUNNING);
    EQ(dev.transitions, 0);
    device_destroy();
}

CASE(migration_says_what_it_can)
{
    struct msg reply;

    migratable();
    EQ(feature(GET | VFIO_DEVICE_FEATURE_MIGRATION, NULL, 0, 16, &reply), 0);
    EQ(reply.len, 16);
    EQ(*(uint64_t *)(reply.data + 8), VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY);
    wire_free(&reply);
    EQ(feature(GET | VFIO_DEVICE_FEATURE_MIGRATION, NULL, 0, 15, NULL), EINVAL);
    device_destroy();
}

CASE(migration_of_a_device_that_can_not)
{
    device();
    EQ(feature(GET | VFIO_DEVICE_FEATURE_MIGRATION, NULL, 0, 16, NULL), EINVAL);
    EQ(migrate(VFIO_USER_DEVICE_STATE_STOP), EINVAL);
    device_destroy();
}

CASE(migration_features_can_be_probed)
{
    migratable();
    EQ(feature(PROBE | GET | VFIO_DEVICE_FEATURE_MIGRATION, NULL, 0, 8, NULL), 0);
    EQ(feature(PROBE | GET | SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, NULL, 0, 8, NULL), 0);
    EQ(feature(PROBE | SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START, NULL, 0, 8, NULL), 0);
    EQ(feature(PROBE | SET | VFIO_DEVICE_FEATURE_MIGRATION, NULL, 0, 8, NULL), EINVAL);
    EQ(feature(PROBE | GET | 99, NULL, 0, 8, NULL), EINVAL);
    device_destroy();
}

CASE(migration_states_one_by_one)
{
    const uint32_t path[] = {VFIO_USER_DEVICE_STATE_STOP,     VFIO_USER_DEVICE_STATE_STOP_COPY,
                             VFIO_USER_DEVICE_STATE_STOP,     VFIO_USER_DEVICE_STATE_RESUMING,
                             VFIO_USER_DEVICE_STATE_STOP,     VFIO_USER_DEVICE_STATE_RUNNING,
                             VFIO_USER_DEVICE_STATE_PRE_COPY, VFIO_USER_DEVICE_STATE_STOP_COPY};
    const vfu_migr_state_t seen[] = {VFU_MIGR_STATE_STOP,     VFU_MIGR_STATE_STOP_AND_COPY, VFU_MIGR_STATE_STOP,
                                     VFU_MIGR_STATE_RESUME,   VFU_MIGR_STATE_STOP,          VFU_MIGR_STATE_RUNNING,
                                     VFU_MIGR_STATE_PRE_COPY, VFU_MIGR_STATE_STOP_AND_COPY};

    migratable();
    for (int i = 0; i < 8; i++) {
        EQ(migrate(path[i]), 0);
        EQ(dev.transitions, i + 1);
        EQ(dev.states[i], seen[i]);
        EQ(state(), path[i]);
    }
    device_destroy();
}

CASE(migration_states_far_apart_go_through_those_between)
{
    migratable();
    EQ(migrate(VFIO_USER_DEVICE_STATE_STOP_COPY), 0);
    EQ(dev.transitions, 2);
    EQ(dev.states[0], VFU_MIGR_STATE_STOP);
    EQ(dev.states[1], VFU_MIGR_STATE_STOP_AND_COPY);
    EQ(migrate(VFIO_USER_DEVICE_STATE_RUNNING), 0);
    EQ(dev.transitions, 4);
    EQ(dev.states[2], VFU_MIGR_STATE_STOP);
    EQ(dev.states[3], VFU_MIGR_STATE_RUNNING);
    device_destroy();
}

CASE(migration_to_where_it_is)
{
    migratable();
    EQ(migrate(VFIO_USER_DEVICE_STATE_RUNNING), 0);
    EQ(dev.transitions, 0);
    device_destroy();
}

CASE(migration_to_no_state)
{
    migratable();
    for (uint32_t to = 5; to < 12; to++)
        if (to != VFIO_USER_DEVICE_STATE_PRE_COPY)
            EQ(migrate(to), EINVAL);
    EQ(migrate(VFIO_USER_DEVICE_STATE_ERROR), EINVAL);
    EQ(migrate(UINT32_MAX), EINVAL);
    EQ(state(), VFIO_USER_DEVICE_STATE_RUNNING);
    device_destroy();
}

CASE(migration_that_the_device_refuses)
{
    migratable();
    dev.transition_errno = 0xbeef; /* any number reaches the client, and errno keeps it */
    EQ(migrate(VFIO_USER_DEVICE_STATE_STOP), 0xbeef);
    CHECK(dev.rc >= 0);
    dev.transition_errno = 0;
    EQ(state(), VFIO_USER_DEVICE_STATE_RUNNING);
    device_destroy();
}

static int mig_read(uint32_t size, uint32_t argsz, void *to)
{
    struct vfio_user_mig_data ask = {argsz, size};
    struct msg reply;
    int got = -1, error = call(VFIO_USER_MIG_DATA_READ, &ask, sizeof(ask), NULL, 0, &reply);

    if (error == 0) {
        got = ((struct vfio_user_mig_data *)reply.data)->size;
        CHECK(reply.len >= 8u + got);
        memcpy(to, reply.data + 8, got);
    }
    wire_free(&reply);
    errno = error;
    return got;
}

static int mig_write(const void *from, uint32_t size)
{
    uint8_t data[8 + 64];
    struct vfio_user_mig_data head = {8 + size, size};

    memcpy(data, &head, 8);
    memcpy(data + 8, from, size);
    return call(VFIO_USER_MIG_DATA_WRITE, data, 8 + size, NULL, 0, NULL);
}

CASE(migration_data_is_read_until_there_is_no_more)
{
    uint8_t got[64];

    migratable();
    memcpy(dev.state, "state of the device", 19);
    dev.state_len = 19;
    EQ(migrate(VFIO_USER_DEVICE_STATE_STOP_COPY), 0);
    EQ(mig_read(10, 18, got), 10);
    EQ(mig_read(64, 72, got + 10), 9);
    EQ(mig_read(64, 72, got + 19), 0);
    EQ(memcmp(got, "state of the device", 19), 0);
    device_destroy();
}

CASE(migration_data_when_there_is_none)
{
    uint8_t got[64];

    migratable();
    FAILS(mig_read(10, 18, got), EINVAL); /* running */
    EQ(mig_write("x", 1), EINVAL);
    EQ(migrate(VFIO_USER_DEVICE_STATE_STOP_COPY), 0);
    EQ(mig_write("x", 1), EINVAL);
    FAILS(mig_read(10, 17, got), EINVAL); /* no room for it */
    device_destroy();
}

CASE(migration_data_that_can_not_be_read)
{
    uint8_t got[64];

    migratable();
    EQ(migrate(VFIO_USER_DEVICE_STATE_STOP_COPY), 0);
    dev.read_errno = 0xbeef;
    FAILS(mig_read(10, 18, got), 0xbeef);
    dev.read_errno = 0;
    device_destroy();
}

CASE(migration_data_is_written)
{
    migratable();
    EQ(migrate(VFIO_USER_DEVICE_STATE_RESUMING), 0);
    EQ(mig_write("state ", 6), 0);
    EQ(mig_write("restored", 8), 0);
    EQ(dev.state_written, 14);
    EQ(memcmp(dev.state, "state restored", 14), 0);
    dev.write_short = 1;
    EQ(mig_write("x", 1), EINVAL);
    dev.write_errno = 0xbeef;
    EQ(mig_write("x", 1), 0xbeef);
    device_destroy();
}

CASE(migration_state_survives_the_client)
{
    migratable();
    EQ(migrate(VFIO_USER_DEVICE_STATE_STOP), 0);
    disconnect();
    run_until(ENOTCONN);
    device_connect(CAPABILITIES);
    EQ(state(), VFIO_USER_DEVICE_STATE_STOP);
    device_destroy();
}

CASE(migration_callbacks_after_a_client_has_come)
{
    device();
    device_migratable();
    EQ(state(), VFIO_USER_DEVICE_STATE_RUNNING);
    device_destroy();
}

CASE(quiesced_before_a_migration)
{
    migratable();
    EQ(migrate(VFIO_USER_DEVICE_STATE_STOP), 0);
    EQ(dev.quiesces, 1);
    device_destroy();
}

/* ---- dirty pages ---- */

static int start_logging(uint64_t page_size)
{
    struct vfio_user_device_feature_dma_logging_control control = {page_size, 0, 0};

    return feature(SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START, &control, sizeof(control), 24, NULL);
}

static int report(uint64_t address, uint64_t len, uint64_t page_size, uint64_t *bitmap)
{
    struct vfio_user_device_feature_dma_logging_report ask = {address, len, page_size};
    struct msg reply;
    int error = feature(GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, &ask, sizeof(ask), 8 + sizeof(ask) + 8, &reply);

    if (error == 0) {
        EQ(reply.len, 8 + sizeof(ask) + 8);
        memcpy(bitmap, reply.data + 8 + sizeof(ask), 8);
    }
    wire_free(&reply);
    return error;
}

static void logging(void)
{
    migratable();
    map_ram(memory(RAM_SIZE));
    EQ(start_logging(PAGE), 0);
}

CASE(dirty_pages_are_those_that_were_put)
{
    uint64_t bitmap;
    struct iovec iov;

    logging();
    dma_sg_t *written = look_up(RAM_AT + 5 * PAGE - 1, 2, PROT_WRITE), *read = look_up(RAM_AT, PAGE, PROT_READ);
    EQ(vfu_sgl_get(dev.ctx, written, &iov, 1, 0), 0);
    vfu_sgl_put(dev.ctx, written, &iov, 1);
    EQ(vfu_sgl_get(dev.ctx, read, &iov, 1, 0), 0);
    vfu_sgl_put(dev.ctx, read, &iov, 1);
    EQ(report(RAM_AT, RAM_SIZE, PAGE, &bitmap), 0);
    EQ(bitmap, 1 << 4 | 1 << 5);
    EQ(report(RAM_AT, RAM_SIZE, PAGE, &bitmap), 0);
    EQ(bitmap, 0); /* told once */
    free(written);
    free(read);
    device_destroy();
}

CASE(dirty_pages_can_be_marked)
{
    uint64_t bitmap;
    struct iovec iov;

    logging();
    dma_sg_t *sg = look_up(RAM_AT + 3 * PAGE, PAGE, PROT_WRITE);
    EQ(vfu_sgl_get(dev.ctx, sg, &iov, 1, 0), 0);
    vfu_sgl_mark_dirty(dev.ctx, sg, 1);
    EQ(report(RAM_AT, RAM_SIZE, PAGE, &bitmap), 0);
    EQ(bitmap, 1 << 3);
    vfu_sgl_mark_dirty(dev.ctx, sg, 1);
    EQ(report(RAM_AT, RAM_SIZE, PAGE, &bitmap), 0);
    EQ(bitmap, 1 << 3);
    vfu_sgl_put(dev.ctx, sg, &iov, 1);
    free(sg);
    device_destroy();
}

CASE(dirty_pages_of_a_direct_write)
{
    uint64_t bitmap;

    logging();
    dma_sg_t *sg = look_up(RAM_AT + 9 * PAGE, 8, PROT_WRITE);
    EQ(vfu_sgl_write(dev.ctx, sg, 1, "12345678", VFU_SGL_DIRECT_ACCESS), 0);
    EQ(report(RAM_AT, RAM_SIZE, PAGE, &bitmap), 0);
    EQ(bitmap, 1 << 9);
    free(sg);
    device_destroy();
}

CASE(dirty_pages_of_what_is_not_there)
{
    uint64_t bitmap;

    logging();
    EQ(report(RAM_AT + 16 * RAM_SIZE, RAM_SIZE, PAGE, &bitmap), ENOENT);
    EQ(report(RAM_AT + PAGE, PAGE, PAGE, &bitmap), ENOTSUP);
    EQ(report(RAM_AT, RAM_SIZE, 0, &bitmap), EINVAL);
    EQ(report(RAM_AT, RAM_SIZE, 2 * RAM_SIZE, &bitmap), EINVAL);
    device_destroy();
}

CASE(dirty_pages_without_a_log)
{
    uint64_t bitmap;

    migratable();
    map_ram(memory(RAM_SIZE));
    EQ(report(RAM_AT, RAM_SIZE, PAGE, &bitmap) != 0, true);
    device_destroy();
}

CASE(dirty_log_of_no_page_size)
{
    migratable();
    EQ(start_logging(0), EINVAL);
    EQ(start_logging(PAGE), 0);
    EQ(start_logging(PAGE), 0);
    EQ(start_logging(2 * PAGE), EINVAL);
    EQ(feature(SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, NULL, 0, 8, NULL), 0);
    EQ(start_logging(2 * PAGE), 0);
    device_destroy();
}

CASE(dirty_pages_of_memory_that_goes)
{
    uint8_t data[24 + 16 + 8];
    struct vfio_user_dma_unmap unmap = {sizeof(data), VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, RAM_AT, RAM_SIZE};
    uint64_t bitmap[2] = {PAGE, 8};
    struct msg reply;

    logging();
    dma_sg_t *sg = look_up(RAM_AT + 7 * PAGE, 1, PROT_WRITE);
    vfu_sgl_mark_dirty(dev.ctx, sg, 1);
    memset(data, 0, sizeof(data));
    memcpy(data, &unmap, 24);
    memcpy(data + 24, bitmap, 16);
    EQ(call(VFIO_USER_DMA_UNMAP, data, 24 + 16, NULL, 0, &reply), 0);
    EQ(reply.len, sizeof(data));
    EQ(reply.data[24 + 16], 1 << 7);
    wire_free(&reply);
    EQ(dev.unmaps, 1);
    free(sg);
    device_destroy();
}
