/* The offsets of one process's standard input: what the host sent, what the process took. Pure; the bytes lie in a ring. */
#ifndef AK_INTAKE_H
#define AK_INTAKE_H

#include "ring.h"

#define INTAKE_CAPACITY 262144u

struct intake {
    struct ring ring;   /* [begin, end): received, not yet written to the process */
    uint64_t announced; /* `consumed` of the last STDIN_CONSUMED */
    bool ended;         /* the host said that nothing follows */
    bool closed;        /* the process does not read any more: what comes is discarded */
};

/* Takes STDIN of the host. Bytes before the known end were taken already and are cut off. 0, or -EINVAL (a gap, beyond the limit, after the end). */
int intake_offer(struct intake *in, uint64_t offset, const uint8_t *data, size_t n, bool end);
uint64_t intake_limit(const struct intake *in);
/* Whether the host should hear about progress now: a quarter of the capacity moved, or all was taken. */
bool intake_should_announce(const struct intake *in);
/* The process closed its input: everything held is dropped. */
void intake_discard(struct intake *in);

#endif
