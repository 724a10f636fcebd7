/* Unit tests of the plan's reader: what it accepts, and that it refuses everything else at the right step. */
#include "check.h"
#include "kernel.h"
#include "plan.h"

#include <linux/sched.h>
#include <stdarg.h>

#define ALL (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

struct draft {
    uint8_t bytes[1 << 16];
    size_t size;
    uint32_t count;
};

static void put(struct draft *draft, const void *data, size_t n)
{
    if (n)
        memcpy(draft->bytes + draft->size, data, n);
    draft->size += n;
}

static void put_argument(struct draft *draft, const void *data, uint32_t length)
{
    put(draft, &length, sizeof length);
    put(draft, data, length);
}

static void begin(struct draft *draft)
{
    draft->size = draft->count = 0;
    put(draft, "AKPLAN1\n\0\0\0\0", 12);
}

/* Adds a step; `kinds` has a letter per argument: n number, s string, b bytes (a pointer and an int). */
static void add(struct draft *draft, unsigned op, const char *kinds, ...)
{
    uint16_t head[2] = {(uint16_t)op, (uint16_t)strlen(kinds)};
    va_list arguments;
    put(draft, head, sizeof head);
    va_start(arguments, kinds);
    for (; *kinds; kinds++) {
        if (*kinds == 'n') {
            uint64_t number = va_arg(arguments, uint64_t);
            put_argument(draft, &number, sizeof number);
        } else {
            const char *text = va_arg(arguments, const char *);
            put_argument(draft, text, *kinds == 's' ? (uint32_t)strlen(text) + 1 : va_arg(arguments, unsigned));
        }
    }
    va_end(arguments);
    ak_put_u32(draft->bytes + 8, ++draft->count);
}

#define N(value) ((uint64_t)(value))

/* The plan's bytes in memory of just that size, so that the address sanitizer sees any read beyond them. */
static bool check(const struct draft *draft, size_t size, struct plan_fault *fault)
{
    uint8_t *exact = check_copy(draft->bytes, size);
    bool legal = plan_check(exact, size, fault);
    free(exact);
    return legal;
}

static bool is_legal(const struct draft *draft)
{
    struct plan_fault fault;
    return check(draft, draft->size, &fault);
}

/* Is the plan refused at this step? */
static bool is_refused_at(const struct draft *draft, uint32_t step)
{
    struct plan_fault fault;
    return !check(draft, draft->size, &fault) && fault.step == step && fault.offset <= draft->size;
}

static void begin_inside(struct draft *draft, uint64_t flags)
{
    begin(draft);
    add(draft, PLAN_CLONE, "n", N(flags));
    add(draft, PLAN_GO, "");
}

static void begin_root(struct draft *draft, uint64_t flags)
{
    begin_inside(draft, flags);
    add(draft, PLAN_PRIVATE, "");
    add(draft, PLAN_ROOT_TMPFS, "ss", "/mnt", "mode=755");
}

/* Every op once, in a legal place; but for PROGRAM, which stands in the place of AGENT. */
static void full_plan(struct draft *draft)
{
    begin(draft);
    add(draft, PLAN_CGROUP, "ns", N(1), "/sys/fs/cgroup/pids/a");
    add(draft, PLAN_CGROUP, "ns", N(2), "/sys/fs/cgroup/unified/a");
    add(draft, PLAN_IDMAP_TREE, "nsnns", N(1), "/srv", N(MOUNT_ATTR_RDONLY), N(1), "0 100000 65536\n");
    add(draft, PLAN_CLONE, "n", N(ALL));
    add(draft, PLAN_IDMAP, "ssn", "0 100000 65536\n", "0 100000 65536\n", N(0));
    add(draft, PLAN_TREE, "nsnnn", N(0), "/usr", N(MOUNT_ATTR_RDONLY), N(1), N(1));
    add(draft, PLAN_TREE, "nsnnn", N(127), "/", N(0), N(0), N(0));
    add(draft, PLAN_GO, "");
    add(draft, PLAN_PRIVATE, "");
    add(draft, PLAN_SETID, "nn", N(0), N(0));
    add(draft, PLAN_ROOT_TMPFS, "ss", "/mnt", "");
    add(draft, PLAN_ROOT_SLOT, "ns", N(127), "/mnt");
    add(draft, PLAN_ROOT_BIND, "ssn", "/", "/mnt", N(0));
    add(draft, PLAN_ROOT_OVERLAY, "ss", "/mnt/root", "lowerdir=/a:/b");
    add(draft, PLAN_TMPFS, "ssn", "tmp", "size=1m", N(MOUNT_ATTR_NOSUID));
    add(draft, PLAN_BIND, "ssnn", "/dev/null", "dev/null", N(0), N(0));
    add(draft, PLAN_ATTACH, "ns", N(0), "usr");
    add(draft, PLAN_OVERLAY, "ssn", "work", "lowerdir=/a", N(0));
    add(draft, PLAN_PROC, "ssn", "proc", "", N(0));
    add(draft, PLAN_DEVPTS, "ssn", "dev/pts", "newinstance", N(0));
    add(draft, PLAN_MQUEUE, "sn", "dev/mqueue", N(0));
    add(draft, PLAN_BIND_WITHIN, "ssn", "tmp", "var/tmp", N(0));
    add(draft, PLAN_MKDIR, "snnn", "home/u", N(0755), N(1000), N(1000));
    add(draft, PLAN_FILE, "snb", "etc/hosts", N(0644), "a\0b", 3);
    add(draft, PLAN_SYMLINK, "ss", "../x", "etc/y");
    add(draft, PLAN_MASK, "s", "proc/kcore");
    add(draft, PLAN_READ_ONLY, "s", "proc/sys");
    add(draft, PLAN_REMOUNT, "sn", "work", N(MOUNT_ATTR_RDONLY));
    add(draft, PLAN_REMOUNT_ROOT, "n", N(MOUNT_ATTR_RDONLY));
    add(draft, PLAN_SYSCTL, "ss", "net/ipv4/ip_unprivileged_port_start", "0");
    add(draft, PLAN_PIVOT, "");
    add(draft, PLAN_HOSTNAME, "s", "box");
    add(draft, PLAN_LOOPBACK, "");
    add(draft, PLAN_TRANSPARENT, "nn", N(3129), N(65535));
    add(draft, PLAN_RLIMIT, "nnn", N(7), N(1024), N(UINT64_MAX));
    add(draft, PLAN_CAPABILITIES, "n", N(0xe1));
    add(draft, PLAN_NO_NEW_PRIVS, "");
    add(draft, PLAN_LANDLOCK, "nnn", N(0x7fff), N(0), N(3));
    add(draft, PLAN_LANDLOCK_PATH, "sn", "/", N(13));
    add(draft, PLAN_LANDLOCK_APPLY, "");
    add(draft, PLAN_AGENT, "n", N(10));
}

static void test_every_op_is_accepted(void)
{
    static struct draft draft;
    static bool seen[PLAN_OPS];
    struct plan_cursor cursor;
    struct plan_step step;
    full_plan(&draft);
    CHECK(is_legal(&draft));
    CHECK(plan_begin(&cursor, draft.bytes, draft.size));
    for (uint32_t i = 0; i < draft.count; i++) {
        CHECK(plan_next(&cursor, &step));
        CHECK(step.index == i);
        seen[step.op] = true;
    }
    CHECK(!plan_next(&cursor, &step));
    for (unsigned op = 0; op < PLAN_OPS; op++)
        CHECK(seen[op] == (op == 60 || (op >= 1 && op <= 6) || (op >= 10 && op <= 15) || (op >= 20 && op <= 27) || (op >= 30 && op <= 36) ||
                           (op >= 40 && op <= 45) || (op >= 50 && op <= 54)));
}

static void test_values_arrive(void)
{
    static struct draft draft;
    struct plan_cursor cursor;
    struct plan_step step;
    begin(&draft);
    add(&draft, PLAN_TREE, "nsnnn", N(3), "/srv/x", N(5), N(1), N(0));
    add(&draft, PLAN_FILE, "snb", "a/b", N(0600), "x\0y", 3);
    CHECK(plan_begin(&cursor, draft.bytes, draft.size));
    CHECK(plan_next(&cursor, &step));
    CHECK(step.arguments[0].number == 3 && step.arguments[2].number == 5 && step.arguments[3].number == 1 && step.arguments[4].number == 0);
    CHECK(step.arguments[1].length == 6 && ak_streq(step.arguments[1].text, "/srv/x"));
    CHECK(plan_next(&cursor, &step));
    CHECK(step.arguments[2].length == 3 && memcmp(step.arguments[2].text, "x\0y", 3) == 0);
}

static void test_any_cut_is_refused(void)
{
    static struct draft draft;
    struct plan_fault fault;
    full_plan(&draft);
    for (size_t size = 0; size < draft.size; size++)
        CHECK(!check(&draft, size, &fault));
    draft.bytes[draft.size++] = 0;
    CHECK(!is_legal(&draft)); /* and so is any byte more */
}

static void test_head_is_checked(void)
{
    static struct draft draft;
    full_plan(&draft);
    for (unsigned at = 0; at < 8; at++) {
        draft.bytes[at] ^= 1;
        CHECK(is_refused_at(&draft, 0));
        draft.bytes[at] ^= 1;
    }
    ak_put_u32(draft.bytes + 8, draft.count - 1);
    CHECK(is_refused_at(&draft, draft.count - 1));
    ak_put_u32(draft.bytes + 8, draft.count + 1);
    CHECK(is_refused_at(&draft, draft.count));
    ak_put_u32(draft.bytes + 8, UINT32_MAX);
    CHECK(is_refused_at(&draft, draft.count));
    begin(&draft);
    CHECK(is_refused_at(&draft, 0)); /* no step at all */
}

/* Does the reader take this one step (after the head; its place is another test's matter)? */
static bool reads(struct draft *draft)
{
    struct plan_cursor cursor;
    struct plan_step step;
    return plan_begin(&cursor, draft->bytes, draft->size) && plan_next(&cursor, &step);
}

#define READS(...) (begin(&draft), add(&draft, __VA_ARGS__), reads(&draft))

static void test_ops_and_counts(void)
{
    static struct draft draft;
    for (unsigned op = 61; op < 70000; op = op * 2 - 1)
        CHECK(!READS(op & 0xffff, ""));
    CHECK(!READS(0, "") && !READS(7, "") && !READS(16, "") && !READS(28, "") && !READS(37, "") && !READS(45, "") && !READS(55, ""));
    CHECK(READS(PLAN_GO, "") && !READS(PLAN_GO, "n", N(0)));
    CHECK(!READS(PLAN_CLONE, "") && !READS(PLAN_CLONE, "nn", N(0), N(0)));
}

static void test_numbers(void)
{
    static struct draft draft;
    CHECK(READS(PLAN_CLONE, "n", N(ALL)) && READS(PLAN_CLONE, "n", N(0)));
    CHECK(!READS(PLAN_CLONE, "n", N(CLONE_VM)) && !READS(PLAN_CLONE, "n", N(1) << 32) && !READS(PLAN_CLONE, "n", N(17)));
    CHECK(!READS(PLAN_CLONE, "b", "abcd", 4) && !READS(PLAN_CLONE, "b", "abcdefghi", 9) && !READS(PLAN_CLONE, "b", "", 0));
    CHECK(!READS(PLAN_SETID, "nn", N(UINT32_MAX), N(0)) && !READS(PLAN_SETID, "nn", N(0), N(1) << 32) && READS(PLAN_SETID, "nn", N(65534), N(0)));
    CHECK(!READS(PLAN_CGROUP, "ns", N(0), "/a") && !READS(PLAN_CGROUP, "ns", N(4), "/a"));
    CHECK(!READS(PLAN_ROOT_SLOT, "ns", N(128), "/a"));
    CHECK(!READS(PLAN_TREE, "nsnnn", N(0), "/a", N(0), N(2), N(0)) && !READS(PLAN_TREE, "nsnnn", N(0), "/a", N(0), N(0), N(3)));
    CHECK(READS(PLAN_TREE, "nsnnn", N(0), "/a", N(0), N(1), N(2)));
    CHECK(!READS(PLAN_REMOUNT_ROOT, "n", N(MOUNT_ATTR_IDMAP)) && !READS(PLAN_REMOUNT_ROOT, "n", N(1) << 40));
    CHECK(!READS(PLAN_MKDIR, "snnn", "a", N(010000), N(0), N(0)));
    CHECK(!READS(PLAN_RLIMIT, "nnn", N(16), N(0), N(0)));
    CHECK(!READS(PLAN_REMOUNT, "sn", "/work", N(1)) && !READS(PLAN_REMOUNT, "sn", "work", N(1) << 40) && READS(PLAN_REMOUNT, "sn", "work", N(1)));
    CHECK(!READS(PLAN_PROGRAM, "nnsb", N(2), N(13), "/p", "p", 2) && !READS(PLAN_PROGRAM, "nnsb", N(10), N(0), "/p", "p", 2));
    CHECK(!READS(PLAN_PROGRAM, "nnsb", N(10), N(13), "p", "p", 2) && READS(PLAN_PROGRAM, "nnsb", N(10), N(13), "/p", "p", 2));
    CHECK(!READS(PLAN_AGENT, "n", N(2)) && !READS(PLAN_AGENT, "n", N(1) << 31) && READS(PLAN_AGENT, "n", N(3)));
}

static bool reads_path(const char *path)
{
    static struct draft draft;
    return READS(PLAN_MASK, "s", path);
}

static bool reads_source(const char *path)
{
    static struct draft draft;
    return READS(PLAN_LANDLOCK_PATH, "sn", path, N(1));
}

static void test_paths(void)
{
    static const char *const bad[] = {"", "..", ".", "a/..", "a/../b", "a/.", "./a", "../a", "a//b", "a/"};
    static char text[6000] = "/";
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(!reads_path(bad[i]));
        strcpy(text + 1, bad[i]);
        CHECK(!reads_path(text));
        CHECK(reads_source(text) == (i == 0)); /* "/" */
    }
    CHECK(reads_path("a") && reads_path("...") && reads_path("a/..b/.c") && !reads_source("a"));
    memset(text + 1, 'x', 255);
    text[256] = '\0';
    CHECK(reads_source(text) && reads_path(text + 1));
    text[256] = 'x';
    text[257] = '\0';
    CHECK(!reads_source(text) && !reads_path(text + 1)); /* a name of 256 bytes */
    for (unsigned i = 0; i < sizeof text - 1; i += 2)
        memcpy(text + i, "/x", 2);
    text[4096] = '\0';
    CHECK(!reads_source(text));
    text[4095] = '\0';
    CHECK(!reads_source(text)); /* ends in a slash */
    text[4094] = '\0';
    CHECK(reads_source(text) && reads_path(text + 1));
}

static void test_strings(void)
{
    static struct draft draft;
    CHECK(READS(PLAN_HOSTNAME, "s", "") && READS(PLAN_HOSTNAME, "s", "box"));
    CHECK(!READS(PLAN_HOSTNAME, "b", "", 0) && !READS(PLAN_HOSTNAME, "b", "box", 3));
    CHECK(!READS(PLAN_HOSTNAME, "b", "b\0x\0", 4) && !READS(PLAN_HOSTNAME, "b", "box\0\0", 5));
    CHECK(READS(PLAN_FILE, "snb", "a", N(0), "", 0) && READS(PLAN_FILE, "snb", "a", N(0), "a\0b", 3));
}

static void test_lengths_do_not_wrap(void)
{
    static struct draft draft;
    for (uint32_t length = UINT32_MAX; length > UINT32_MAX - 64; length--) {
        begin(&draft);
        add(&draft, PLAN_HOSTNAME, "s", "box");
        ak_put_u32(draft.bytes + 16, length);
        CHECK(!reads(&draft));
    }
}

/* Adds the step to a plan and asks whether the plan goes on. */
#define TAKES(start, ...) (start, add(&draft, __VA_ARGS__), is_refused_at(&draft, draft.count))

static void test_places(void)
{
    static struct draft draft;
    CHECK(TAKES(begin(&draft), PLAN_CGROUP, "ns", N(1), "/a"));
    CHECK(!TAKES(begin(&draft), PLAN_GO, "") && !TAKES(begin(&draft), PLAN_PRIVATE, "") && !TAKES(begin(&draft), PLAN_AGENT, "n", N(3)));
    CHECK(!TAKES(begin_inside(&draft, ALL), PLAN_CGROUP, "ns", N(1), "/a"));
    CHECK(!TAKES(begin_inside(&draft, ALL), PLAN_CLONE, "n", N(0)));
    CHECK(!TAKES(begin_inside(&draft, ALL), PLAN_GO, ""));
    CHECK(!TAKES(begin_inside(&draft, ALL), PLAN_TREE, "nsnnn", N(0), "/a", N(0), N(0), N(0)));
    CHECK(!TAKES(begin_inside(&draft, ALL), PLAN_IDMAP, "ssn", "", "", N(0)));
    CHECK(!TAKES(begin_inside(&draft, ALL), PLAN_ROOT_TMPFS, "ss", "/mnt", "")); /* not private yet */
    CHECK(!TAKES(begin_inside(&draft, ALL), PLAN_TMPFS, "ssn", "a", "", N(0)));  /* no root yet */
    CHECK(TAKES(begin_root(&draft, ALL), PLAN_TMPFS, "ssn", "a", "", N(0)));
    CHECK(!TAKES(begin_root(&draft, ALL), PLAN_AGENT, "n", N(3))); /* not pivoted */
    CHECK(!TAKES(begin_root(&draft, ALL), PLAN_LANDLOCK, "nnn", N(1), N(0), N(0)));
    CHECK(!TAKES((begin_root(&draft, ALL), add(&draft, PLAN_PIVOT, "")), PLAN_TMPFS, "ssn", "a", "", N(0)));
    CHECK(!TAKES((begin_root(&draft, ALL), add(&draft, PLAN_PIVOT, "")), PLAN_PIVOT, ""));
    CHECK(!TAKES((begin_root(&draft, ALL), add(&draft, PLAN_PIVOT, "")), PLAN_ROOT_TMPFS, "ss", "/mnt", ""));
    CHECK(!TAKES((begin_root(&draft, ALL), add(&draft, PLAN_PIVOT, "")), PLAN_SYSCTL, "ss", "net/x", "0"));
    CHECK(!TAKES((begin_inside(&draft, 0), add(&draft, PLAN_AGENT, "n", N(3))), PLAN_NO_NEW_PRIVS, "")); /* nothing after AGENT */
    CHECK((begin_inside(&draft, CLONE_NEWPID), add(&draft, PLAN_PROGRAM, "nnsb", N(10), N(13), "/p", "p", 2), is_legal(&draft)));
    CHECK(!TAKES(begin_inside(&draft, 0), PLAN_PROGRAM, "nnsb", N(10), N(13), "/p", "p", 2)); /* it would outlive the sandbox */
    CHECK(!TAKES(begin_root(&draft, ALL), PLAN_PROGRAM, "nnsb", N(10), N(13), "/p", "p", 2));
}

static void test_nothing_reaches_the_host(void)
{
    static struct draft draft;
    CHECK(!TAKES(begin_inside(&draft, ALL & ~CLONE_NEWNS), PLAN_PRIVATE, ""));
    CHECK(!TAKES(begin_inside(&draft, ALL & ~CLONE_NEWUTS), PLAN_HOSTNAME, "s", "box"));
    CHECK(!TAKES(begin_inside(&draft, ALL & ~CLONE_NEWNET), PLAN_LOOPBACK, ""));
    CHECK(!TAKES(begin_inside(&draft, ALL & ~CLONE_NEWNET), PLAN_TRANSPARENT, "nn", N(3129), N(53)));
    CHECK(TAKES(begin_inside(&draft, CLONE_NEWNET), PLAN_TRANSPARENT, "nn", N(3129), N(53)));
    CHECK(!TAKES(begin_inside(&draft, CLONE_NEWNET), PLAN_TRANSPARENT, "nn", N(0), N(53)));
    CHECK(!TAKES(begin_inside(&draft, CLONE_NEWNET), PLAN_TRANSPARENT, "nn", N(3129), N(65536)));
    CHECK(!TAKES(begin_root(&draft, ALL & ~CLONE_NEWPID), PLAN_PROC, "ssn", "proc", "", N(0)));
    CHECK(!TAKES(begin_root(&draft, ALL & ~CLONE_NEWIPC), PLAN_MQUEUE, "sn", "mqueue", N(0)));
    CHECK(!TAKES((begin(&draft), add(&draft, PLAN_CLONE, "n", N(CLONE_NEWNS))), PLAN_IDMAP, "ssn", "", "", N(0)));
    CHECK(TAKES(begin_inside(&draft, CLONE_NEWNET), PLAN_SYSCTL, "ss", "net/core/somaxconn", "1"));
    CHECK(!TAKES(begin_inside(&draft, ALL & ~CLONE_NEWNET), PLAN_SYSCTL, "ss", "net/core/somaxconn", "1"));
    CHECK(TAKES(begin_inside(&draft, CLONE_NEWIPC), PLAN_SYSCTL, "ss", "kernel/shmmax", "1"));
    CHECK(!TAKES(begin_inside(&draft, ALL), PLAN_SYSCTL, "ss", "kernel/core_pattern", "1"));
    CHECK(!TAKES(begin_inside(&draft, ALL), PLAN_SYSCTL, "ss", "vm/overcommit_memory", "1"));
    CHECK(!TAKES(begin_inside(&draft, ALL), PLAN_SYSCTL, "ss", "net", "1"));
}

static void test_slots(void)
{
    static struct draft draft;
    begin(&draft);
    add(&draft, PLAN_TREE, "nsnnn", N(64), "/a", N(0), N(0), N(0));
    CHECK(!TAKES((void)0, PLAN_TREE, "nsnnn", N(64), "/a", N(0), N(0), N(0))); /* filled twice */
    CHECK(!TAKES(begin_root(&draft, ALL), PLAN_ATTACH, "ns", N(0), "a"));      /* empty */
    begin(&draft);
    add(&draft, PLAN_TREE, "nsnnn", N(64), "/a", N(0), N(0), N(0));
    add(&draft, PLAN_CLONE, "n", N(ALL));
    add(&draft, PLAN_GO, "");
    add(&draft, PLAN_PRIVATE, "");
    add(&draft, PLAN_ROOT_SLOT, "ns", N(64), "/mnt");
    CHECK(is_refused_at(&draft, draft.count));
    CHECK(!TAKES((void)0, PLAN_ATTACH, "ns", N(64), "a"));                                           /* used twice */
    CHECK(!TAKES(begin(&draft), PLAN_TREE, "nsnnn", N(0), "/a", N(0), N(0), N(1)));                  /* no inner process to map as */
    begin(&draft);
    add(&draft, PLAN_CLONE, "n", N(ALL));
    CHECK(!TAKES((void)0, PLAN_TREE, "nsnnn", N(0), "/a", N(0), N(0), N(1))); /* it has no maps yet */
    begin(&draft);
    add(&draft, PLAN_CLONE, "n", N(ALL));
    CHECK(!TAKES((void)0, PLAN_TREE, "nsnnn", N(0), "/a", N(0), N(0), N(2)));
}

static void test_cgroups(void)
{
    static struct draft draft;
    begin(&draft);
    for (int i = 0; i < 8; i++)
        CHECK(TAKES((void)0, PLAN_CGROUP, "ns", N(1), "/a"));
    CHECK(TAKES((void)0, PLAN_CGROUP, "ns", N(2), "/a"));
    CHECK(!TAKES((void)0, PLAN_CGROUP, "ns", N(2), "/a"));
    begin(&draft);
    add(&draft, PLAN_CGROUP, "ns", N(2), "/a");
    CHECK(TAKES((void)0, PLAN_CGROUP, "ns", N(3), "/b"));
    CHECK(!TAKES((void)0, PLAN_CGROUP, "ns", N(3), "/b"));
    begin(&draft);
    for (int i = 0; i < 8; i++)
        add(&draft, PLAN_CGROUP, "ns", N(1), "/a");
    CHECK(!TAKES((void)0, PLAN_CGROUP, "ns", N(1), "/a"));
}

static void test_landlock(void)
{
    static struct draft draft;
    CHECK(!TAKES(begin_inside(&draft, 0), PLAN_LANDLOCK_PATH, "sn", "/", N(1)));
    CHECK(!TAKES((begin_inside(&draft, 0), add(&draft, PLAN_NO_NEW_PRIVS, "")), PLAN_LANDLOCK_APPLY, ""));
    CHECK(!TAKES((begin_inside(&draft, 0), add(&draft, PLAN_LANDLOCK, "nnn", N(1), N(0), N(0))), PLAN_LANDLOCK_APPLY, ""));
    CHECK(!TAKES((begin_inside(&draft, 0), add(&draft, PLAN_LANDLOCK, "nnn", N(1), N(0), N(0))), PLAN_AGENT, "n", N(3)));
    CHECK(!TAKES((begin_inside(&draft, 0), add(&draft, PLAN_LANDLOCK, "nnn", N(1), N(0), N(0))), PLAN_LANDLOCK, "nnn", N(1), N(0), N(0)));
}

static void test_flipped_bits_never_read_beyond(void)
{
    static struct draft draft;
    struct plan_fault fault;
    full_plan(&draft);
    for (size_t bit = 0; bit < draft.size * 8; bit++) {
        draft.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        (void)check(&draft, draft.size, &fault);
        CHECK(fault.offset <= draft.size && fault.step <= draft.count);
        draft.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

int main(void)
{
    test_every_op_is_accepted();
    test_values_arrive();
    test_any_cut_is_refused();
    test_head_is_checked();
    test_ops_and_counts();
    test_numbers();
    test_paths();
    test_strings();
    test_lengths_do_not_wrap();
    test_places();
    test_nothing_reaches_the_host();
    test_slots();
    test_cgroups();
    test_landlock();
    test_flipped_bits_never_read_beyond();
    return CHECK_RESULT();
}
