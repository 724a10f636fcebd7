/* A bounded byte buffer addressed by stream offset: the bytes [begin, end) of one stream, of which the newest are kept. */
#ifndef AK_RING_H
#define AK_RING_H

#include "sys.h"

#include <linux/uio.h>

struct ring {
    uint8_t *memory;
    size_t capacity;
    uint64_t begin, end;
};

/* False without memory. The pages are kept out of forked children, which have no business with other processes' output. */
bool ring_open(struct ring *ring, size_t capacity);
void ring_close(struct ring *ring);
size_t ring_space(const struct ring *ring);
/* Points `parts` at up to `limit` free bytes after `end`; returns how many parts (0-2). ring_commit() then adds what was written there. */
unsigned ring_free_parts(const struct ring *ring, size_t limit, struct iovec parts[2]);
void ring_commit(struct ring *ring, size_t n);
/* Points `parts` at the held bytes from `offset` on, at most `limit`; returns how many parts. */
unsigned ring_held_parts(const struct ring *ring, uint64_t offset, size_t limit, struct iovec parts[2]);
/* Forgets the bytes before `offset`; false if that is beyond the end. An offset before the begin changes nothing. */
bool ring_consume(struct ring *ring, uint64_t offset);
/* Appends all of `bytes`; the oldest bytes make room. */
void ring_push(struct ring *ring, const void *bytes, size_t n);

#endif
