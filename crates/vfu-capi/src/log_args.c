/* The part of vfu_log that only C can do: fetching the arguments behind the format. */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

struct vfu_ctx;

int vfu_rs_log_enabled(struct vfu_ctx *ctx, int level);
void vfu_rs_log_text(struct vfu_ctx *ctx, int level, const char *text);

__attribute__((visibility("hidden"))) void
vfu_rs_log_args(struct vfu_ctx *ctx, int level, const char *format, ...)
{
    char text[8192];
    int saved = errno;
    va_list args;

    if (format != NULL && vfu_rs_log_enabled(ctx, level)) {
        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        vfu_rs_log_text(ctx, level, text);
    }
    errno = saved;
}
