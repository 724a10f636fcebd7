/* Bytes between a command's pipes and its rings; a full ring leaves them in the pipe, which slows the command down. */
#include "process.h"

#include "descriptor.h"
#include "terminal.h"

#include <linux/uio.h>

#define READ_MAX 262144u
#define PIPE_USUAL 65536u
#define PIPE_LARGE 1048576u

static uint8_t scratch[PIPE_USUAL];

/* Whether old bytes may be dropped for new ones: nobody waits for them. */
static bool may_drop(const struct process *p)
{
    return (p->flags & START_DETACHED && !p->subscribed) || p->exit_told;
}

/* A host that is attached misses nothing of a detached command: of its ring only what was sent makes room. */
static size_t sent_room(const struct process *p, const struct outlet *outlet)
{
    if (!(p->flags & START_DETACHED) || outlet->sent <= outlet->ring.begin)
        return 0;
    return (size_t)(outlet->sent - outlet->ring.begin);
}

/* How many bytes may be read into the ring now without dropping any that somebody waits for. */
static size_t readable_room(const struct process *p, const struct outlet *outlet)
{
    size_t room = ring_space(&outlet->ring) + sent_room(p, outlet);
    if (!p->stops_known || may_drop(p))
        return room;
    if (outlet->ring.end >= outlet->stop)
        return 0; /* what follows is the survivors'; it must not push out what the host has not seen */
    return outlet->stop - outlet->ring.end < room ? (size_t)(outlet->stop - outlet->ring.end) : room;
}

static void outlet_end(struct outlet *outlet)
{
    descriptor_close(&outlet->fd);
    outlet->readable = false;
    if (outlet->stop > outlet->ring.end)
        outlet->stop = outlet->ring.end;
    if (outlet->until > outlet->ring.end)
        outlet->until = outlet->ring.end;
}

static void read_result(struct outlet *outlet, sysret n)
{
    if (n == -EAGAIN)
        outlet->readable = false;
    else if (n != -EINTR && n <= 0)
        outlet_end(outlet); /* a terminal says EIO when its last user is gone */
}

/* Reads at most `most` bytes over the oldest ones: into the scratch first, because only then is it known how many must go. */
static void read_dropping(struct process *p, struct outlet *outlet, size_t most)
{
    sysret n = SYS(read, outlet->fd, scratch, most < sizeof scratch ? most : sizeof scratch);
    uint64_t begin = outlet->ring.begin;
    read_result(outlet, n);
    if (n <= 0 || !outlet->ring.memory)
        return;
    ring_push(&outlet->ring, scratch, (size_t)n);
    if (begin != outlet->ring.begin && outlet->ring.begin > outlet->sent_most && !p->stops_known)
        p->output_lost = true;
}

void pump_output(struct process *p, struct outlet *outlet)
{
    struct iovec parts[2];
    unsigned count;
    sysret n;
    size_t room;
    if (outlet->fd < 0 || !outlet->readable)
        return;
    room = outlet->ring.memory ? readable_room(p, outlet) : 0;
    if (room == 0) {
        if (may_drop(p))
            read_dropping(p, outlet, sizeof scratch);
        return;
    }
    if (ring_space(&outlet->ring) == 0) {
        read_dropping(p, outlet, room);
        return;
    }
    if (room > ring_space(&outlet->ring))
        room = ring_space(&outlet->ring);
    count = ring_free_parts(&outlet->ring, room < READ_MAX ? room : READ_MAX, parts);
    n = SYS(readv, outlet->fd, parts, count);
    read_result(outlet, n);
    if (n <= 0)
        return;
    ring_commit(&outlet->ring, (size_t)n);
    /* A stream that fills its pipe gets a larger one: fewer switches. Not for all, since there is an allowance per user. */
    if (!outlet->grown && (size_t)n >= PIPE_USUAL) {
        outlet->grown = true;
        (void)SYS(fcntl, outlet->fd, F_SETPIPE_SZ, PIPE_LARGE);
    }
}

void pump_input_closed(struct process *p)
{
    if (p->input < 0)
        return;
    descriptor_close(&p->input);
    if (!p->intake.closed)
        p->owed |= OWE_STDIN;
    intake_discard(&p->intake);
}

static void input_ended(struct process *p)
{
    char keys[2];
    size_t n;
    if (p->terminal) {
        n = terminal_end(p->input, p->line_start, keys);
        if (SYS(write, p->input, keys, n) == -EAGAIN) {
            p->input_writable = false;
            return;
        }
    }
    descriptor_close(&p->input);
}

void pump_input(struct process *p)
{
    struct ring *ring = &p->intake.ring;
    while (p->input >= 0 && p->input_writable && ring->begin < ring->end) {
        struct iovec parts[2];
        unsigned count = ring_held_parts(ring, ring->begin, INTAKE_CAPACITY, parts);
        sysret n = SYS(writev, p->input, parts, count);
        if (n > 0) {
            p->line_start = ring->memory[(ring->begin + (uint64_t)n - 1) % ring->capacity] == '\n';
            ring_consume(ring, ring->begin + (uint64_t)n);
        } else if (n == -EAGAIN) {
            p->input_writable = false;
        } else if (n != -EINTR) {
            pump_input_closed(p);
        }
    }
    if (p->input >= 0 && p->input_writable && p->intake.ended && ring->begin == ring->end)
        input_ended(p);
    if (!p->intake.closed && intake_should_announce(&p->intake))
        p->owed |= OWE_STDIN;
}

static bool outlet_has_work(const struct process *p, const struct outlet *outlet)
{
    if (outlet->fd < 0 || !outlet->readable)
        return false;
    return may_drop(p) || (outlet->ring.memory && readable_room(p, outlet) > 0);
}

bool pump_has_work(const struct process *p)
{
    if (outlet_has_work(p, &p->outlets[0]) || outlet_has_work(p, &p->outlets[1]))
        return true;
    return p->input >= 0 && p->input_writable && (p->intake.ring.begin < p->intake.ring.end || p->intake.ended);
}
