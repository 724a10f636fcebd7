/* Reads the launch plan: lengths, argument kinds, values. Pure: touches nothing but the bytes it is given. */
#include "plan.h"

#include "kernel.h"

#include <linux/sched.h>

#define PLAN_HEAD_BYTES 12u
#define PLAN_NAME_MAX 255u

static const char magic[8] = {'A', 'K', 'P', 'L', 'A', 'N', '1', '\n'};

/*
 * The kinds of each op's arguments, a letter each:
 * integers: n any, f flag (0 or 1), o flag or 2 (where possible), l slot, m mode, i uid or gid, t mount attributes, c clone flags, k cgroup kind, r resource, d descriptor, x port;
 * texts: s any string, a absolute path, p path relative to the new root, b bytes.
 */
static const char *const kinds[PLAN_OPS] = {
    [PLAN_CLONE] = "c",
    [PLAN_IDMAP] = "ssf",
    [PLAN_TREE] = "latfo",
    [PLAN_IDMAP_TREE] = "latfs",
    [PLAN_CGROUP] = "ka",
    [PLAN_GO] = "",
    [PLAN_PRIVATE] = "",
    [PLAN_SETID] = "ii",
    [PLAN_ROOT_TMPFS] = "as",
    [PLAN_ROOT_SLOT] = "la",
    [PLAN_ROOT_OVERLAY] = "as",
    [PLAN_ROOT_BIND] = "aat",
    [PLAN_TMPFS] = "pst",
    [PLAN_BIND] = "aptf",
    [PLAN_ATTACH] = "lp",
    [PLAN_OVERLAY] = "pst",
    [PLAN_PROC] = "pst",
    [PLAN_DEVPTS] = "pst",
    [PLAN_MQUEUE] = "pt",
    [PLAN_BIND_WITHIN] = "ppt",
    [PLAN_MKDIR] = "pmii",
    [PLAN_FILE] = "pmb",
    [PLAN_SYMLINK] = "sp",
    [PLAN_MASK] = "p",
    [PLAN_READ_ONLY] = "p",
    [PLAN_REMOUNT_ROOT] = "t",
    [PLAN_REMOUNT] = "pt",
    [PLAN_PIVOT] = "",
    [PLAN_HOSTNAME] = "s",
    [PLAN_LOOPBACK] = "",
    [PLAN_RLIMIT] = "rnn",
    [PLAN_SYSCTL] = "ps",
    [PLAN_TRANSPARENT] = "xx",
    [PLAN_CAPABILITIES] = "n",
    [PLAN_NO_NEW_PRIVS] = "",
    [PLAN_LANDLOCK] = "nnn",
    [PLAN_LANDLOCK_PATH] = "an",
    [PLAN_LANDLOCK_APPLY] = "",
    [PLAN_AGENT] = "d",
    [PLAN_PROGRAM] = "ddab",
};

static bool only_bits(uint64_t value, uint64_t allowed)
{
    return (value & ~allowed) == 0;
}

static bool is_number_legal(char kind, uint64_t value)
{
    switch (kind) {
    case 'n': return true;
    case 'f': return value <= 1;
    case 'o': return value <= 2;
    case 'l': return value < PLAN_SLOTS;
    case 'm': return value <= 07777;
    case 'i': return value < UINT32_MAX; /* the highest means "no change" to the kernel */
    case 'k': return value >= 1 && value <= 3;
    case 'r': return value < 16;
    case 'd': return value > 2 && value <= INT32_MAX;
    case 'x': return value >= 1 && value <= UINT16_MAX;
    case 'c':
        return only_bits(value, CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET);
    case 't':
        return only_bits(value, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR__ATIME |
                                    MOUNT_ATTR_NODIRATIME | MOUNT_ATTR_NOSYMFOLLOW);
    default: return false;
    }
}

/* Names joined by single slashes, none of them "." or "..". */
static bool is_relative_path(const char *text)
{
    for (;;) {
        size_t n = 0;
        while (text[n] && text[n] != '/')
            n++;
        if (n == 0 || n > PLAN_NAME_MAX || (text[0] == '.' && (n == 1 || (n == 2 && text[1] == '.'))))
            return false;
        if (!text[n])
            return true;
        text += n + 1;
    }
}

static bool is_text_legal(char kind, const char *text, uint32_t length)
{
    switch (kind) {
    case 's': return true;
    case 'a': return length < PLAN_PATH_MAX && text[0] == '/' && (!text[1] || is_relative_path(text + 1));
    case 'p': return length < PLAN_PATH_MAX && is_relative_path(text);
    default: return false;
    }
}

static bool read_value(char kind, const uint8_t *bytes, uint32_t length, struct plan_value *value)
{
    value->text = (const char *)bytes;
    value->length = length;
    if (kind == 'b')
        return true;
    if (kind == 's' || kind == 'a' || kind == 'p') {
        if (length == 0)
            return false;
        for (uint32_t i = 0; i < length; i++)
            if ((bytes[i] == 0) != (i == length - 1))
                return false;
        value->length = length - 1;
        return is_text_legal(kind, value->text, value->length);
    }
    if (length != sizeof(uint64_t))
        return false;
    value->number = ak_get_u64(bytes);
    return is_number_legal(kind, value->number);
}

static bool read_argument(struct plan_cursor *cursor, char kind, struct plan_value *value)
{
    uint32_t length;
    if (cursor->size - cursor->at < sizeof length)
        return false;
    length = ak_get_u32(cursor->bytes + cursor->at);
    cursor->at += sizeof length;
    if (cursor->size - cursor->at < length)
        return false;
    if (!read_value(kind, cursor->bytes + cursor->at, length, value))
        return false;
    cursor->at += length;
    return true;
}

bool plan_begin(struct plan_cursor *cursor, const uint8_t *bytes, size_t size)
{
    *cursor = (struct plan_cursor){.bytes = bytes, .size = size};
    if (size < PLAN_HEAD_BYTES || size > PLAN_BYTES_MAX || memcmp(bytes, magic, sizeof magic) != 0)
        return false;
    cursor->count = ak_get_u32(bytes + sizeof magic);
    cursor->at = PLAN_HEAD_BYTES;
    return true;
}

bool plan_next(struct plan_cursor *cursor, struct plan_step *step)
{
    const char *kind;
    uint16_t op, count;
    if (cursor->next >= cursor->count || cursor->size - cursor->at < sizeof op + sizeof count)
        return false;
    op = ak_get_u16(cursor->bytes + cursor->at);
    count = ak_get_u16(cursor->bytes + cursor->at + sizeof op);
    if (op >= PLAN_OPS || !kinds[op] || strlen(kinds[op]) != count)
        return false;
    cursor->at += sizeof op + sizeof count;
    *step = (struct plan_step){.index = cursor->next, .op = op};
    kind = kinds[op];
    for (unsigned i = 0; i < count; i++)
        if (!read_argument(cursor, kind[i], &step->arguments[i]))
            return false;
    cursor->next++;
    return true;
}

bool plan_check(const uint8_t *bytes, size_t size, struct plan_fault *fault)
{
    struct plan_cursor cursor;
    struct plan_order order = {0};
    struct plan_step step;
    bool legal = plan_begin(&cursor, bytes, size);
    while (legal && cursor.next < cursor.count) {
        uint32_t index = cursor.next;
        size_t start = cursor.at;
        legal = plan_next(&cursor, &step) && plan_order_accepts(&order, &step);
        if (!legal) {
            *fault = (struct plan_fault){.step = index, .offset = (uint32_t)start};
            return false;
        }
    }
    *fault = (struct plan_fault){.step = cursor.next, .offset = (uint32_t)cursor.at};
    return legal && order.finished && cursor.at == size;
}
