/* Standard input's bookkeeping: repeats after a resume are cut off, gaps refused. */
#include "intake.h"

uint64_t intake_limit(const struct intake *in)
{
    return in->ring.begin + INTAKE_CAPACITY;
}

int intake_offer(struct intake *in, uint64_t offset, const uint8_t *data, size_t n, bool end)
{
    uint64_t known = in->ring.end, last = offset + n, skip;
    if (offset > known || last < offset || last > intake_limit(in))
        return -EINVAL;
    if (end && last < known)
        return -EINVAL;
    skip = known - offset;
    if (skip < n && in->ended)
        return -EINVAL;
    if (skip < n && !in->closed)
        ring_push(&in->ring, data + skip, n - (size_t)skip);
    if (skip < n && in->closed)
        in->ring.begin = in->ring.end = last;
    in->ended = in->ended || end;
    return 0;
}

bool intake_should_announce(const struct intake *in)
{
    uint64_t moved = in->ring.begin - in->announced;
    return moved >= INTAKE_CAPACITY / 4 || (moved > 0 && in->ring.begin == in->ring.end);
}

void intake_discard(struct intake *in)
{
    in->closed = true;
    in->ring.begin = in->ring.end;
}
