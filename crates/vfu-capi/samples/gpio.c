/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * gpio: the ACCES PCI-IDIO-16, 16 inputs and 16 outputs, for Linux's driver gpio-pci-idio-16.
 *
 *     gpio /tmp/gpio.sock &
 *     qemu-system-x86_64 ... -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/gpio.sock"}}'
 *     guest# gpioset -t0 -c gpiochip0 3=1; gpioget -c gpiochip0 19
 *
 * Here each input is wired to the output of its number.
 */
#define _GNU_SOURCE 1
#include "sample.h"

/* Registers of one byte, in BAR2, an I/O BAR. */
enum {
    OUT_LOW,     /* outputs 0 to 7 */
    IN_LOW,      /* inputs 0 to 7; a write takes the interrupt back */
    IRQ_CONTROL, /* a read enables interrupts, a write disables them */
    FILTER_CONTROL,
    OUT_HIGH,   /* outputs 8 to 15 */
    IN_HIGH,    /* inputs 8 to 15 */
    IRQ_STATUS, /* bits 0 and 1: which half has changed; bit 2: an interrupt waits */
    FILTERS,
    REGISTERS
};

struct card {
    uint8_t out_low, out_high, filters, status;
    int enabled; /* interrupts */
    int pin;     /* of INTx */
};

/* Raises or lowers the pin, as registers and status say. */
static void update_pin(vfu_ctx_t *ctx, struct card *card)
{
    int pin = card->enabled && (card->status & 4);

    if (pin && !card->pin)
        vfu_irq_trigger(ctx, 0); /* nobody may listen yet: then the client asks when it does */
    card->pin = pin;
    vfu_pci_get_config_space(ctx)->hdr.sts.is = pin;
}

static void set_outputs(struct card *card, uint8_t *half, uint8_t value, uint8_t changed)
{
    if (*half != value && card->enabled)
        card->status |= changed | 4;
    *half = value;
}

static uint8_t read_register(struct card *card, int at)
{
    switch (at) {
    case OUT_LOW:
    case IN_LOW:
        return card->out_low;
    case OUT_HIGH:
    case IN_HIGH:
        return card->out_high;
    case IRQ_CONTROL:
        card->enabled = 1;
        return 0;
    case IRQ_STATUS:
        return card->status;
    case FILTERS:
        return card->filters;
    default:
        return 0;
    }
}

static void write_register(struct card *card, int at, uint8_t value)
{
    switch (at) {
    case OUT_LOW:
        set_outputs(card, &card->out_low, value, 1);
        break;
    case OUT_HIGH:
        set_outputs(card, &card->out_high, value, 2);
        break;
    case IN_LOW:
        card->status = 0;
        break;
    case IRQ_CONTROL:
        card->enabled = 0;
        break;
    case FILTERS:
        card->filters = value;
        break;
    default:
        break;
    }
}

static ssize_t access_bar2(vfu_ctx_t *ctx, char *buf, size_t count, int64_t offset, bool is_write)
{
    struct card *card = (struct card *)vfu_get_private(ctx);

    for (size_t i = 0; i < count; i++) {
        if (is_write)
            write_register(card, (int)offset + (int)i, (uint8_t)buf[i]);
        else
            buf[i] = (char)read_register(card, (int)offset + (int)i);
    }
    update_pin(ctx, card);
    return (ssize_t)count;
}

/* INTx is a level: a client that listens again hears of an interrupt that still waits. */
static void irq_state(vfu_ctx_t *ctx, uint32_t start, uint32_t count, bool mask)
{
    struct card *card = (struct card *)vfu_get_private(ctx);

    (void)start, (void)count;
    if (!mask && card->pin)
        vfu_irq_trigger(ctx, 0);
}

static int reset(vfu_ctx_t *ctx, vfu_reset_type_t type)
{
    if (type != VFU_RESET_LOST_CONN) {
        memset(vfu_get_private(ctx), 0, sizeof(struct card));
        vfu_pci_get_config_space(ctx)->hdr.sts.is = 0;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct sample sample = sample_options(argc, argv);
    struct card card;
    vfu_ctx_t *ctx;

    memset(&card, 0, sizeof(card));
    ctx = sample_create(&sample, &card, 0);
    if (vfu_pci_init(ctx, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0) != 0)
        err(1, "vfu_pci_init");
    vfu_pci_set_id(ctx, 0x494f, 0x0dc8, 0, 0);
    vfu_pci_set_class(ctx, 0x06, 0x80, 0);
    if (vfu_setup_region(ctx, VFU_PCI_DEV_BAR2_REGION_IDX, REGISTERS, access_bar2, VFU_REGION_FLAG_RW, NULL, 0, -1, 0) != 0)
        err(1, "vfu_setup_region");
    if (vfu_setup_device_nr_irqs(ctx, VFU_DEV_INTX_IRQ, 1) != 0 ||
        vfu_setup_irq_state_callback(ctx, VFU_DEV_INTX_IRQ, irq_state) != 0)
        err(1, "vfu_setup_device_nr_irqs");
    if (vfu_setup_device_reset_cb(ctx, reset) != 0)
        err(1, "vfu_setup_device_reset_cb");
    return sample_serve(ctx, &sample, NULL);
}
