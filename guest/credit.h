/* How much the host may send on each tunnel (docs/guest-protocol.md, section 5): pure bookkeeping, so that all tunnels together stay bounded. */
#ifndef AK_CREDIT_H
#define AK_CREDIT_H

#include "sys.h"

#define CREDIT_START 16384u      /* of each direction, without a grant */
#define CREDIT_MOST 262144u      /* on the way and held, of one tunnel */
#define CREDIT_AT_ONCE (1u << 20) /* in one frame of the host */
#define CREDIT_EXTRA (12u << 20) /* of all tunnels together, beyond what each starts with */

struct credit_pool {
    unsigned tunnels;
    size_t extra; /* taken of CREDIT_EXTRA */
};

/* One tunnel's direction into the sandbox. */
struct inflow {
    uint32_t window;  /* what may be on the way and held; grows while bytes pass */
    uint32_t allowed; /* what the host may still send */
    uint32_t extra;   /* its part of the pool */
};

void credit_open(struct credit_pool *pool, struct inflow *inflow);
void credit_close(struct credit_pool *pool, struct inflow *inflow);
/* The host sent `n` bytes; false if it was not allowed to. */
bool credit_take(struct inflow *inflow, size_t n);
/* After bytes were passed on and `held` are left: how many more the host may send now, 0 while that is not worth a frame. */
uint32_t credit_grant(struct credit_pool *pool, struct inflow *inflow, size_t held);

#endif
