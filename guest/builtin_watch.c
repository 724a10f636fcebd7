/* The watch builtin: inotify events of one path as records. */
#include "builtin.h"

#include "descriptor.h"

#include <linux/inotify.h>

#define RECORD_FIXED 16u
#define NAME_MAX_BYTES 256u
#define WATCHED (IN_CREATE | IN_DELETE | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF)

static sysret write_record(uint32_t mask, uint32_t cookie, const char *name)
{
    uint8_t record[RECORD_FIXED + NAME_MAX_BYTES];
    size_t n = strlen(name);
    n = n < NAME_MAX_BYTES ? n : NAME_MAX_BYTES;
    ak_put_u32(record, (uint32_t)(RECORD_FIXED + n));
    ak_put_u32(record + 4, mask);
    ak_put_u32(record + 8, cookie);
    ak_put_u16(record + 12, (uint16_t)n);
    ak_put_u16(record + 14, 0);
    memcpy(record + RECORD_FIXED, name, n);
    return ak_write_all(1, record, RECORD_FIXED + n);
}

/* Writes all events of one read; 1 when the watch is over. */
static sysret write_records(const char *buffer, size_t filled)
{
    for (size_t at = 0; at < filled;) {
        const struct inotify_event *event = (const void *)(buffer + at);
        sysret error = write_record(event->mask, event->cookie, event->len ? event->name : "");
        if (error)
            return error;
        if (event->mask & IN_IGNORED)
            return 1;
        at += sizeof *event + event->len;
    }
    return 0;
}

int builtin_watch(char *const *argv)
{
    _Alignas(8) char buffer[16384];
    sysret error = 0;
    sysret fd = SYS(inotify_init1, O_CLOEXEC);
    if (fd >= 0)
        error = SYS(inotify_add_watch, fd, argv[0], WATCHED);
    if (fd < 0 || error < 0)
        return (int)-(fd < 0 ? fd : error);
    error = write_record(0, 0, "");
    while (error == 0) {
        sysret n = SYS(read, fd, buffer, sizeof buffer);
        if (n > 0)
            error = write_records(buffer, (size_t)n);
        else if (n != -EINTR)
            error = n ? n : 1;
    }
    return error == 1 ? 0 : (int)-error;
}
