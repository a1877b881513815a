/* VERSION, and commands that are not what they should be. */
#define _GNU_SOURCE
#include <sys/socket.h>
#include <unistd.h>

#include "device.h"

/* Lets a client say something first; gives the errno of vfu_attach_ctx(), 0 if it works. */
static int attach(const void *bytes, size_t len)
{
    int rc;

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    dev.sock = dev.dma_sock = wire_connect(SOCKET);
    wire_send(dev.sock, bytes, len, NULL, 0);
    do {
        rc = vfu_attach_ctx(dev.ctx);
    } while (rc != 0 && errno == EAGAIN);
    return rc == 0 ? 0 : errno;
}

static int attach_with(uint16_t major, uint16_t minor, const char *json, size_t len)
{
    uint8_t bytes[16 + 4 + 8192];
    struct vfio_user_header header = {0xfeed, VFIO_USER_VERSION, 16 + 4 + len, 0, 0};
    struct vfio_user_version version = {major, minor};

    CHECK(len <= 8192);
    memcpy(bytes, &header, 16);
    memcpy(bytes + 16, &version, 4);
    memcpy(bytes + 20, json, len);
    return attach(bytes, 20 + len);
}

static void refused(const char *json)
{
    struct msg reply;

    EQ(attach_with(0, 1, json, strlen(json) + 1), EINVAL);
    CHECK(wire_receive(dev.sock, &reply));
    EQ(reply.header.msg_id, 0xfeed);
    EQ(reply.header.error_no, EINVAL);
    wire_free(&reply);
    close(dev.sock);
    device_connect(CAPABILITIES); /* the next one may be better */
    device_destroy();
}

static struct msg accepted(uint16_t minor, const char *json, size_t len)
{
    struct msg reply;

    EQ(attach_with(0, minor, json, len), 0);
    CHECK(wire_receive(dev.sock, &reply));
    EQ(reply.header.error_no, 0);
    EQ(reply.header.cmd, VFIO_USER_VERSION);
    EQ(reply.data[reply.len - 1], 0);
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
    return reply;
}

static void fine(const char *json)
{
    struct msg reply = accepted(1, json, strlen(json) + 1);

    wire_free(&reply);
}

CASE(version_without_capabilities)
{
    struct msg reply = accepted(1, "", 0);
    EQ(((struct vfio_user_version *)reply.data)->major, 0);
    EQ(((struct vfio_user_version *)reply.data)->minor, 1);
    wire_free(&reply);
}

CASE(version_minor_is_the_smaller_one)
{
    struct msg reply = accepted(0, "{}", 3);
    EQ(((struct vfio_user_version *)reply.data)->minor, 0);
    wire_free(&reply);
}

CASE(version_minor_is_never_more_than_ours)
{
    struct msg reply = accepted(77, "{}", 3);
    EQ(((struct vfio_user_version *)reply.data)->minor, 2);
    wire_free(&reply);
}

CASE(version_says_what_the_library_takes)
{
    struct msg reply = accepted(1, CAPABILITIES, strlen(CAPABILITIES) + 1);
    const char *json = (const char *)reply.data + 4;
    CHECK(strstr(json, "max_msg_fds") != NULL);
    CHECK(strstr(json, "max_data_xfer_size") != NULL);
    CHECK(strstr(json, "1048576") != NULL);
    CHECK(strstr(json, "twin_socket") == NULL);
    EQ(reply.nr_fds, 0);
    wire_free(&reply);
}

CASE(version_with_an_empty_object) { fine("{}"); }
CASE(version_with_empty_capabilities) { fine("{\"capabilities\":{}}"); }
CASE(version_with_capabilities_of_others) { fine("{\"capabilities\":{\"teleport\":{\"range\":[1,2]}},\"x\":null}"); }
CASE(version_with_a_page_size) { fine("{\"capabilities\":{\"migration\":{\"pgsize\":4096}}}"); }
CASE(version_with_the_most_descriptors) { fine("{\"capabilities\":{\"max_msg_fds\":1024}}"); }
CASE(version_with_json_that_is_none) { refused("{ nonsense"); }
CASE(version_with_capabilities_that_are_a_number) { refused("{\"capabilities\":23}"); }
CASE(version_with_descriptors_that_are_text) { refused("{\"capabilities\":{\"max_msg_fds\":\"many\"}}"); }
CASE(version_with_negative_descriptors) { refused("{\"capabilities\":{\"max_msg_fds\":-1}}"); }
CASE(version_with_too_many_descriptors) { refused("{\"capabilities\":{\"max_msg_fds\":1025}}"); }
CASE(version_with_a_size_that_is_text) { refused("{\"capabilities\":{\"max_data_xfer_size\":\"big\"}}"); }
CASE(version_with_migration_that_is_a_list) { refused("{\"capabilities\":{\"migration\":[4096]}}"); }

CASE(version_of_another_world)
{
    EQ(attach_with(7, 1, "{}", 3), EINVAL);
    device_destroy();
}

CASE(version_text_without_its_end)
{
    EQ(attach_with(0, 1, "{}", 2), EINVAL);
    device_destroy();
}

CASE(version_that_is_another_command)
{
    struct vfio_user_header header = {1, VFIO_USER_DEVICE_RESET, 16, 0, 0};

    EQ(attach(&header, sizeof(header)), EINVAL);
    device_destroy();
}

CASE(version_that_is_cut_off)
{
    uint8_t bytes[16 + 2] = {0};
    struct vfio_user_header header = {1, VFIO_USER_VERSION, sizeof(bytes), 0, 0};

    memcpy(bytes, &header, 16);
    EQ(attach(bytes, sizeof(bytes)), EINVAL);
    device_destroy();
}

CASE(version_of_a_client_that_goes_at_once)
{
    int rc;

    device_create(LIBVFIO_USER_FLAG_ATTACH_NB);
    device_setup(VFU_PCI_TYPE_CONVENTIONAL);
    EQ(vfu_realize_ctx(dev.ctx), 0);
    close(wire_connect(SOCKET));
    do {
        rc = vfu_attach_ctx(dev.ctx);
    } while (rc != 0 && errno == EAGAIN);
    EQ(rc, -1);
    EQ(errno, ENOMSG);
    device_connect(CAPABILITIES);
    device_destroy();
}

/* ---- commands ---- */

/* The answer to a bare header, at once, though a body never comes. */
static int header_only(uint16_t cmd, uint32_t size, uint32_t flags)
{
    struct vfio_user_header header = {9, cmd, size, flags, 0};
    int error;

    device();
    wire_send(dev.sock, &header, sizeof(header), NULL, 0);
    error = answer(NULL);
    disconnect();
    device_destroy();
    return error;
}

CASE(command_without_its_payload) { EQ(header_only(VFIO_USER_DMA_MAP, 16, 0), EINVAL); }
CASE(command_shorter_than_a_header) { EQ(header_only(VFIO_USER_DEVICE_RESET, 15, 0), EINVAL); }
CASE(command_larger_than_any) { EQ(header_only(VFIO_USER_REGION_WRITE, 0x100000 + 33, 0), EINVAL); }
CASE(command_that_is_a_reply) { EQ(header_only(VFIO_USER_DMA_READ, 16, 1), EINVAL); }
CASE(command_that_nobody_knows) { EQ(header_only(99, 16, 0), EINVAL); }

CASE(command_that_nobody_knows_with_a_body)
{
    uint8_t body[64] = {0};

    device();
    EQ(call(99, body, sizeof(body), NULL, 0, NULL), EINVAL);
    EQ(call(VFIO_USER_DMA_WRITE, body, sizeof(body), NULL, 0, NULL), EINVAL);
    EQ(call(VFIO_USER_VERSION, body, sizeof(body), NULL, 0, NULL), EINVAL);
    EQ(call(VFIO_USER_REGION_WRITE_MULTI, body, sizeof(body), NULL, 0, NULL), EINVAL);
    EQ(config_read(0, 4), 0x56781234);
    device_destroy();
}

CASE(command_with_unknown_bits_in_its_header)
{
    struct vfio_user_device_info info = {16, 0, 0, 0};
    uint8_t bytes[32];
    struct vfio_user_header header = {4, VFIO_USER_DEVICE_GET_INFO, 32, 0xffffff00, 77};

    device();
    memcpy(bytes, &header, 16);
    memcpy(bytes + 16, &info, 16);
    wire_send(dev.sock, bytes, 32, NULL, 0);
    EQ(answer(NULL), 0);
    device_destroy();
}

CASE(command_closes_descriptors_that_it_does_not_want)
{
    int fds[2] = {memory(4096), memory(4096)}, before;
    uint8_t body[16] = {0};

    device();
    before = open_fds();
    EQ(call(99, body, sizeof(body), fds, 2, NULL), EINVAL);
    EQ(call(VFIO_USER_DEVICE_RESET, NULL, 0, fds, 2, NULL), 0);
    EQ(open_fds(), before);
    device_destroy();
}

CASE(info_of_the_device)
{
    struct vfio_user_device_info info = {16, 0, 0, 0};
    struct msg reply;

    device();
    EQ(call(VFIO_USER_DEVICE_GET_INFO, &info, sizeof(info), NULL, 0, &reply), 0);
    EQ(reply.len, 16);
    memcpy(&info, reply.data, 16);
    EQ(info.argsz, 16);
    EQ(info.flags, VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET);
    EQ(info.num_regions, VFU_PCI_DEV_NUM_REGIONS);
    EQ(info.num_irqs, VFU_DEV_NUM_IRQS);
    wire_free(&reply);
    info.argsz = 15;
    EQ(call(VFIO_USER_DEVICE_GET_INFO, &info, sizeof(info), NULL, 0, NULL), EINVAL);
    EQ(call(VFIO_USER_DEVICE_GET_INFO, &info, 15, NULL, 0, NULL), EINVAL);
    device_destroy();
}
