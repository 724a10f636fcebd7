/* Buffered stream to the host. Memory is mapped once per link and only the pages that are used cost anything. */
#include "link.h"

#include "descriptor.h"

#include <linux/mman.h>

bool link_open(struct link *link, int in, int out, bool boundless)
{
    *link = (struct link){.in = in, .out = out, .boundless = boundless, .readable = true, .writable = true};
    link->in_memory = ak_map(LINK_IN);
    link->out_memory = ak_map(LINK_OUT);
    if (!link->in_memory || !link->out_memory) {
        link_close(link);
        return false;
    }
    (void)SYS(madvise, link->in_memory, LINK_IN, MADV_DONTFORK);
    (void)SYS(madvise, link->out_memory, LINK_OUT, MADV_DONTFORK);
    return true;
}

void link_close(struct link *link)
{
    if (link->out != link->in)
        descriptor_close(&link->out);
    descriptor_close(&link->in);
    if (link->in_memory)
        ak_unmap(link->in_memory, LINK_IN);
    if (link->out_memory)
        ak_unmap(link->out_memory, LINK_OUT);
    *link = (struct link){.in = -1, .out = -1};
}

static void compact(uint8_t *memory, size_t *start, size_t *end)
{
    if (*start == 0)
        return;
    memmove(memory, memory + *start, *end - *start);
    *end -= *start;
    *start = 0;
}

enum link_event link_fill(struct link *link)
{
    sysret n;
    if (link->in_start == link->in_end)
        link->in_start = link->in_end = 0;
    if (LINK_IN - link->in_start < MAX_FRAME)
        compact(link->in_memory, &link->in_start, &link->in_end);
    if (!link->readable || link->in_end == LINK_IN)
        return LINK_NOTHING;
    n = SYS(read, link->in, link->in_memory + link->in_end, LINK_IN - link->in_end);
    if (n > 0) {
        link->in_end += (size_t)n;
        return LINK_NOTHING;
    }
    if (n == -EINTR)
        return LINK_NOTHING;
    link->readable = false;
    return n == -EAGAIN ? LINK_NOTHING : LINK_LOST;
}

static enum link_event next_attach(struct link *link, struct hello *hello)
{
    bool found;
    link->in_start += attach_scan(link->in_memory + link->in_start, link->in_end - link->in_start, hello, &found);
    return found ? LINK_ATTACH : LINK_NOTHING;
}

/* A HELLO where a frame should be; what only looks like one ends the attach. */
static enum link_event attach_within(struct link *link, struct hello *hello)
{
    bool found;
    size_t used;
    if (link->in_end - link->in_start < HELLO_SIZE)
        return LINK_NOTHING;
    used = attach_scan(link->in_memory + link->in_start, HELLO_SIZE, hello, &found);
    link->in_start += found ? used : 1;
    return found ? LINK_ATTACH : LINK_BROKEN;
}

enum link_event link_next(struct link *link, struct frame *frame, struct hello *hello)
{
    size_t n = link->in_end - link->in_start;
    if (!link->attached)
        return next_attach(link, hello);
    switch (frame_parse(link->in_memory + link->in_start, n, link->tag, frame)) {
    case FRAME_PARTIAL:
        return LINK_NOTHING;
    case FRAME_HELLO:
        return attach_within(link, hello);
    case FRAME_COMPLETE:
        link->in_start += FRAME_HEADER + frame->length + FRAME_TAG;
        return LINK_FRAME;
    case FRAME_BAD_TAG: /* a frame that an earlier host did not finish: nothing in it is a HELLO */
        link->in_start += FRAME_HEADER + frame->length + FRAME_TAG;
        return LINK_BROKEN;
    default:
        link->in_start++;
        return LINK_BROKEN;
    }
}

void link_drop_output(struct link *link)
{
    link->out_start = link->out_end = link->tunnel_left = 0;
}

size_t link_room(const struct link *link)
{
    return LINK_OUT - (link->out_end - link->out_start);
}

uint8_t *link_reserve(struct link *link, size_t n)
{
    if (LINK_OUT - link->out_end < n)
        compact(link->out_memory, &link->out_start, &link->out_end);
    return LINK_OUT - link->out_end < n ? NULL : link->out_memory + link->out_end;
}

void link_commit(struct link *link, size_t n)
{
    link->out_end += n;
}

size_t link_tunnel_room(const struct link *link)
{
    size_t queued = link->out_end - link->out_start;
    return queued < LINK_SHARED ? LINK_SHARED - queued : 0;
}

void link_commit_tunnel(struct link *link, size_t n)
{
    link_commit(link, n);
    link->tunnel_left = link->out_end - link->out_start;
}

bool link_takes_output(const struct link *link)
{
    if (link->tunnel_left)
        return link_tunnel_room(link) >= FRAME_HEADER + sizeof(uint64_t) + MAX_OUTPUT + FRAME_TAG;
    return link->writable && link->out_start == link->out_end;
}

static void mark_sent(struct link *link, size_t n)
{
    link->out_start += n;
    link->tunnel_left -= n < link->tunnel_left ? n : link->tunnel_left;
}

bool link_flush(struct link *link)
{
    while (link->writable && link->out_start < link->out_end) {
        sysret n = SYS(write, link->out, link->out_memory + link->out_start, link->out_end - link->out_start);
        if (n > 0)
            mark_sent(link, (size_t)n);
        else if (n == -EAGAIN)
            link->writable = false;
        else if (n != -EINTR)
            return false;
    }
    if (link->out_start == link->out_end)
        link_drop_output(link);
    return true;
}

bool link_send(struct link *link, struct iovec *parts, unsigned count)
{
    sysret sent = 0;
    if (link->writable && link->out_start == link->out_end)
        do
            sent = SYS(writev, link->out, parts, count);
        while (sent == -EINTR);
    if (sent == -EAGAIN) {
        link->writable = false;
        sent = 0;
    }
    if (sent < 0)
        return false;
    for (unsigned i = 0; i < count; i++) {
        size_t skip = (size_t)sent < parts[i].iov_len ? (size_t)sent : parts[i].iov_len;
        size_t rest = parts[i].iov_len - skip;
        uint8_t *at = link_reserve(link, rest);
        sent -= (sysret)skip;
        if (rest && at) {
            memcpy(at, (uint8_t *)parts[i].iov_base + skip, rest);
            link_commit(link, rest);
        }
    }
    return true;
}
