/* The table of tunnels. Ids are searched linearly in a small dense array: 1,024 entries at most, usually a handful. */
#include "tunnel.h"

#define SLOT_BITS 10

struct tunnel *tunnels_find(struct tunnels *tunnels, uint64_t id)
{
    for (unsigned i = 0; i < tunnels->used && id; i++)
        if (tunnels->ids[i] == id)
            return &tunnels->slots[i];
    return NULL;
}

uint64_t tunnels_new_id(struct tunnels *tunnels)
{
    return TUNNEL_AGENTS | ++tunnels->last_id;
}

struct tunnel *tunnels_add(struct tunnels *tunnels, uint64_t id, int fd)
{
    unsigned slot = 0;
    struct tunnel *t;
    if (tunnels->count >= tunnels->most)
        return NULL;
    while (slot < tunnels->used && tunnels->ids[slot])
        slot++;
    if (slot == tunnels->used)
        tunnels->used++;
    tunnels->count++;
    tunnels->generation++;
    tunnels->ids[slot] = id;
    t = &tunnels->slots[slot];
    *t = (struct tunnel){.id = id, .slot = slot, .generation = tunnels->generation << SLOT_BITS, .fd = fd, .credit = CREDIT_START};
    credit_open(&tunnels->pool, &t->inflow);
    return t;
}

static void leave_queue(struct tunnels *tunnels, struct tunnel *t)
{
    struct tunnel **at = &tunnels->active_first, *before = NULL;
    for (; *at && *at != t; at = &(*at)->next_active)
        before = *at;
    if (!*at)
        return;
    *at = t->next_active;
    if (tunnels->active_last == t)
        tunnels->active_last = before;
    t->active = false;
}

void tunnels_remove(struct tunnels *tunnels, struct tunnel *t)
{
    if (t->active)
        leave_queue(tunnels, t);
    store_drop(&tunnels->store, &t->held, t->held.size);
    credit_close(&tunnels->pool, &t->inflow);
    tunnels->ids[t->slot] = t->id = 0;
    while (tunnels->used && !tunnels->ids[tunnels->used - 1])
        tunnels->used--;
    if (--tunnels->count == 0)
        store_close(&tunnels->store);
}

void tunnels_activate(struct tunnels *tunnels, struct tunnel *t)
{
    if (t->active)
        return;
    t->active = true;
    t->next_active = NULL;
    if (tunnels->active_last)
        tunnels->active_last->next_active = t;
    else
        tunnels->active_first = t;
    tunnels->active_last = t;
}

struct tunnel *tunnels_next(struct tunnels *tunnels)
{
    struct tunnel *t = tunnels->active_first;
    if (!t)
        return NULL;
    tunnels->active_first = t->next_active;
    if (!tunnels->active_first)
        tunnels->active_last = NULL;
    t->active = false;
    return t;
}

unsigned tunnels_key(const struct tunnel *t)
{
    return t->generation | t->slot;
}

struct tunnel *tunnels_by_key(struct tunnels *tunnels, unsigned key)
{
    struct tunnel *t = &tunnels->slots[key % TUNNELS_MAX];
    return t->id && tunnels_key(t) == key ? t : NULL;
}
