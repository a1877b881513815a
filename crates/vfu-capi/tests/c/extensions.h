/* The extensions as symbols that another library may lack: then the cases about them are skipped. */
#ifndef EXTENSIONS_H
#define EXTENSIONS_H

#include <stdbool.h>

#include <libvfio-user.h>

#pragma weak vfu_rs_version
#pragma weak vfu_rs_log_enabled
#pragma weak vfu_rs_log_text
#pragma weak vfu_rs_irq_raise
#pragma weak vfu_rs_setup_irq_masking
#pragma weak vfu_rs_get_limits
#pragma weak vfu_rs_set_limits
#pragma weak vfu_rs_set_memory_policy
#pragma weak vfu_rs_sgl_read_async
#pragma weak vfu_rs_sgl_write_async
#pragma weak vfu_rs_get_timeout
#pragma weak vfu_rs_get_dma_poll_fd
#pragma weak vfu_rs_get_counters

static inline bool is_ours(void)
{
    return vfu_rs_version != NULL;
}

#endif
