/* Reading /proc: each file is opened, read and closed at once, since processes come and go meanwhile. */
#include "process_table.h"

#include "descriptor.h"

#include <linux/magic.h>

#define FIELD_STATE 3
#define FIELD_PARENT 4
#define FIELD_RESIDENT 24

struct directory_entry {
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

/* A workload could have made a /proc of its own, or an operator bound another namespace's: both would name the wrong processes. */
int process_table_open(void)
{
    long status[32] = {0}; /* struct statfs: f_type comes first */
    char link[24];
    uint64_t pid = 0;
    sysret proc = SYS(openat, AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), n;
    if (proc < 0)
        return -1;
    n = SYS(readlinkat, proc, "self", link, sizeof link - 1);
    if (n > 0)
        link[n] = '\0';
    if (n > 0 && SYS(fstatfs, proc, status) == 0 && status[0] == PROC_SUPER_MAGIC && ak_parse_u64(link, 10, &pid) && pid == (uint64_t)SYS(getpid))
        return (int)proc;
    (void)SYS(close, proc);
    return -1;
}

/* Joins "PID" and the texts behind it; `out` has room for 64 bytes, which is enough for two pids and the names used here. */
static void path_of(char out[64], int pid, const char *middle, int thread, const char *last)
{
    size_t n = ak_format_u64(out, (uint64_t)pid);
    memcpy(out + n, middle, strlen(middle) + 1);
    n += strlen(middle);
    if (!last)
        return;
    n += ak_format_u64(out + n, (uint64_t)thread);
    memcpy(out + n, last, strlen(last) + 1);
}

static sysret read_file(int proc, const char *path, char *text, size_t room)
{
    sysret n, fd = SYS(openat, proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fd;
    n = SYS(read, fd, text, room - 1);
    (void)SYS(close, fd);
    text[n > 0 ? n : 0] = '\0';
    return n;
}

static uint64_t number_at(const char *text)
{
    uint64_t number = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        number = number * 10 + (uint64_t)(*text - '0');
    return number;
}

bool process_table_stat(int proc, int pid, struct process_stat *stat)
{
    char path[64], text[512];
    const char *at;
    sysret n;
    path_of(path, pid, "/stat", 0, NULL);
    n = read_file(proc, path, text, sizeof text);
    if (n <= 0)
        return false;
    /* The command's name may hold anything, also parentheses: the last one counts. */
    for (at = text + n; at > text && *at != ')'; at--)
        ;
    if (at == text || at[1] != ' ' || !at[2])
        return false;
    at += 2;
    *stat = (struct process_stat){.state = *at};
    for (int field = FIELD_STATE; *at; at++) {
        if (*at != ' ')
            continue;
        field++;
        if (field == FIELD_PARENT)
            stat->parent = (int)number_at(at + 1);
        if (field == FIELD_RESIDENT)
            stat->resident_pages = number_at(at + 1);
    }
    return true;
}

int process_table_descends(int proc, int pid, int ancestor)
{
    struct process_stat stat;
    if (!process_table_stat(proc, pid, &stat))
        return -1;
    /* Bounded, because what is read is not one moment's truth. */
    for (int steps = 0; steps < 4096 && stat.parent > 0; steps++) {
        if (stat.parent == ancestor)
            return 1;
        if (!process_table_stat(proc, stat.parent, &stat))
            return 0;
    }
    return 0;
}

bool pid_reader_open(struct pid_reader *reader, int proc, const char *path)
{
    /* Opened anew each time: the agent and its supervisors share the descriptor of /proc and with it the position. */
    sysret fd = proc < 0 ? -EBADF : SYS(openat, proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    reader->fd = fd < 0 ? -1 : (int)fd;
    reader->at = reader->filled = 0;
    return fd >= 0;
}

int pid_reader_next(struct pid_reader *reader)
{
    while (reader->fd >= 0) {
        const struct directory_entry *entry;
        if (reader->at >= reader->filled) {
            sysret n = SYS(getdents64, reader->fd, reader->buffer, sizeof reader->buffer);
            reader->at = 0;
            reader->filled = n > 0 ? (size_t)n : 0;
            if (n <= 0)
                descriptor_close(&reader->fd);
            continue;
        }
        entry = (const void *)(reader->buffer + reader->at);
        reader->at += entry->length;
        if (entry->name[0] >= '1' && entry->name[0] <= '9')
            return (int)number_at(entry->name);
    }
    return 0;
}

bool process_table_children(int proc, int pid, int thread, void (*visit)(void *context, int child), void *context)
{
    char path[64], text[4096];
    int number = 0;
    sysret n, fd;
    path_of(path, pid, "/task/", thread, "/children");
    fd = SYS(openat, proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    while ((n = SYS(read, fd, text, sizeof text)) > 0)
        for (sysret i = 0; i < n; i++) {
            if (text[i] >= '0' && text[i] <= '9') {
                number = number * 10 + (text[i] - '0');
                continue;
            }
            if (number)
                visit(context, number);
            number = 0;
        }
    if (number)
        visit(context, number);
    (void)SYS(close, fd);
    return true;
}
