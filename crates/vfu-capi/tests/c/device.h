/* A device with everything, whose callbacks write down what they saw, and the client that drives it. */
#ifndef DEVICE_H
#define DEVICE_H

#include <pthread.h>

#include "case.h"
#include "wire.h"

#define SOCKET "device.sock"
#define BAR0_SIZE 4096
#define RAM_AT 0x10000
#define RAM_SIZE 0x10000

/* An access that reached the device. */
struct access_seen {
    size_t count;
    int64_t offset;
    bool is_write;
};

struct device {
    vfu_ctx_t *ctx;
    int sock;     /* the client's end */
    int dma_sock; /* where commands of the device come: the same, or the second socket */
    uint16_t id;  /* of the client's last command */
    int rc;       /* what vfu_run_ctx() gave last, */
    int rc_errno; /* and errno if that was -1 */

    uint8_t bar0[BAR0_SIZE];
    struct access_seen access;
    int accesses;
    int access_errno; /* what BAR0 fails with, if not 0 */
    void (*on_access)(void);

    int resets[3]; /* by vfu_reset_type_t */
    void (*on_reset)(void);
    int reset_result;
    int quiesces;
    int quiesce_errno; /* what quiescing fails with, if not 0 */
    int maps, unmaps;
    vfu_dma_info_t map, unmap;
    void (*on_map)(void), (*on_unmap)(void);
    int irq_states;
    uint32_t irq_start, irq_count;
    bool irq_mask;
    int logs, log_level;
    char log[8193];

    int transitions;
    vfu_migr_state_t states[16];
    int transition_errno;
    uint8_t state[64]; /* migration data */
    size_t state_len, state_read, state_written;
    int read_errno, write_errno, write_short;
};

extern struct device dev;

/* ---- steps of the setup ---- */
void device_create(int flags);          /* a context at SOCKET */
void device_setup(vfu_pci_type_t type); /* PCI, BAR0, all callbacks, 1 INTx, 4 MSI-X; not migration */
void device_migratable(void);
void device_connect(const char *json); /* realize, connect, VERSION, attach */
void device(void);                     /* all of it, without blocking, conventional PCI */
void device_destroy(void);

/* ---- the client ---- */

/* Lets the device run until it has answered. The answer goes to reply, or is dropped if that is NULL; gives its errno. */
int call(uint16_t cmd, const void *data, size_t len, const int *fds, int nr_fds, struct msg *reply);
int answer(struct msg *reply);
/* Calls vfu_run_ctx() once when there is something to do. */
int run_once(void);
/* Runs until vfu_run_ctx() gives -1 with this errno. */
void run_until(int number);
void disconnect(void);

int region_read(uint32_t region, uint64_t offset, void *to, uint32_t count);
int region_write(uint32_t region, uint64_t offset, const void *from, uint32_t count);
int config_write(uint64_t offset, uint32_t value, uint32_t count);
uint32_t config_read(uint64_t offset, uint32_t count);
int dma_map(uint64_t address, uint64_t size, uint32_t flags, int fd, uint64_t offset);
int dma_unmap(uint64_t address, uint64_t size);
int set_irqs(uint32_t index, uint32_t flags, uint32_t start, uint32_t count, const int *fds, int nr_fds);
int feature(uint32_t flags, const void *data, size_t len, uint32_t argsz, struct msg *reply);
int migrate(uint32_t state);

/* ---- memory ---- */
int memory(size_t size);      /* a memfd */
void map_ram(int fd);         /* RAM_SIZE bytes of it at RAM_AT, read and write; -1: by messages */
dma_sg_t *look_up(uint64_t address, size_t len, int prot); /* one entry, malloc()ed */
int open_fds(void);           /* how many descriptors this process has */

/* ---- a client on a thread of its own, for when the device waits for it ---- */
void client_thread(void (*body)(void));
void client_join(void);
/* Bodies: answer one DMA command with this memory, or with an error. */
extern uint8_t client_ram[RAM_SIZE];
void serve_dma(int commands);

#endif
