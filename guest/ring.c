/* The ring: offsets never wrap in practice (2^64 bytes), positions are offsets modulo the capacity. */
#include "ring.h"

#include <linux/mman.h>

bool ring_open(struct ring *ring, size_t capacity)
{
    *ring = (struct ring){.memory = ak_map(capacity), .capacity = capacity};
    if (!ring->memory)
        return false;
    (void)SYS(madvise, ring->memory, capacity, MADV_DONTFORK);
    return true;
}

void ring_close(struct ring *ring)
{
    if (ring->memory)
        ak_unmap(ring->memory, ring->capacity);
    ring->memory = NULL;
    ring->capacity = 0;
}

size_t ring_space(const struct ring *ring)
{
    return ring->capacity - (size_t)(ring->end - ring->begin);
}

static unsigned ring_parts(const struct ring *ring, uint64_t offset, size_t n, struct iovec parts[2])
{
    size_t at, first;
    if (n == 0)
        return 0;
    at = (size_t)(offset % ring->capacity);
    first = ring->capacity - at < n ? ring->capacity - at : n;
    parts[0] = (struct iovec){.iov_base = ring->memory + at, .iov_len = first};
    if (first == n)
        return 1;
    parts[1] = (struct iovec){.iov_base = ring->memory, .iov_len = n - first};
    return 2;
}

unsigned ring_free_parts(const struct ring *ring, size_t limit, struct iovec parts[2])
{
    size_t space = ring_space(ring);
    return ring_parts(ring, ring->end, limit < space ? limit : space, parts);
}

void ring_commit(struct ring *ring, size_t n)
{
    ring->end += n;
}

unsigned ring_held_parts(const struct ring *ring, uint64_t offset, size_t limit, struct iovec parts[2])
{
    uint64_t held;
    if (offset < ring->begin || offset >= ring->end)
        return 0;
    held = ring->end - offset;
    return ring_parts(ring, offset, limit < held ? limit : (size_t)held, parts);
}

bool ring_consume(struct ring *ring, uint64_t offset)
{
    if (offset > ring->end)
        return false;
    if (offset > ring->begin)
        ring->begin = offset;
    return true;
}

void ring_push(struct ring *ring, const void *bytes, size_t n)
{
    const uint8_t *from = bytes;
    struct iovec parts[2];
    unsigned count;
    if (n > ring->capacity) {
        from += n - ring->capacity;
        ring->end += n - ring->capacity;
        ring->begin = ring->end;
        n = ring->capacity;
    }
    if (n > ring_space(ring))
        ring->begin = ring->end + n - ring->capacity;
    count = ring_parts(ring, ring->end, n, parts);
    for (unsigned i = 0; i < count; i++) {
        memcpy(parts[i].iov_base, from, parts[i].iov_len);
        from += parts[i].iov_len;
    }
    ring->end += n;
}
