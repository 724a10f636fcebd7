/* The table of records. Searches are linear over small, dense arrays: 2,048 entries at most, usually a handful. */
#include "table.h"

struct process *table_find(const struct table *table, uint64_t id)
{
    for (unsigned i = 0; i < table->used && id; i++)
        if (table->ids[i] == id)
            return table->slots[i];
    return NULL;
}

struct process *table_find_supervisor(const struct table *table, int pid)
{
    for (unsigned i = 0; i < table->used; i++)
        if (table->supervisors[i] == pid)
            return table->slots[i];
    return NULL;
}

struct process *table_add(struct table *table, uint64_t id)
{
    unsigned slot = 0;
    struct process *p;
    while (slot < table->used && table->slots[slot])
        slot++;
    if (slot == SLOTS || table->running >= RUNNING_MAX || !(p = ak_map(sizeof *p)))
        return NULL;
    if (slot == table->used)
        table->used++;
    table->slots[slot] = p;
    table->ids[slot] = id;
    table->supervisors[slot] = 0;
    table->running++;
    p->id = id;
    p->slot = slot;
    return p;
}

void table_remove(struct table *table, struct process *p)
{
    if (process_is_over(p))
        table->ended--;
    else
        table->running--;
    table->slots[p->slot] = NULL;
    table->ids[p->slot] = 0;
    table->supervisors[p->slot] = 0;
    while (table->used && !table->slots[table->used - 1])
        table->used--;
    ak_unmap(p, sizeof *p);
}

static struct process *oldest_ended(const struct table *table)
{
    struct process *oldest = NULL;
    for (unsigned i = 0; i < table->used; i++) {
        struct process *p = table->slots[i];
        if (p && process_is_over(p) && (!oldest || p->ended_order < oldest->ended_order))
            oldest = p;
    }
    return oldest;
}

struct process *table_mark_ended(struct table *table, struct process *p)
{
    p->ended_order = ++table->order;
    table->running--;
    table->ended++;
    return table->ended > ENDED_MAX ? oldest_ended(table) : NULL;
}
