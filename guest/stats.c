/* The answers to LIST and STATS. */
#include "state.h"

#include "clock.h"

#include <linux/mman.h>
#include <linux/resource.h>

#define PROCESS_FIXED 32u
#define STATS_SIZE 40u
#define STAT_FIELD_RSS 24 /* of /proc/PID/stat, in pages */

/* LIST of many records fits into one frame because the command lines are cut shorter then. */
static uint32_t command_share(const struct table *table)
{
    uint32_t records = table->running + table->ended;
    uint32_t share = records ? MAX_PAYLOAD / records : MAX_PAYLOAD;
    share = share > FIELD_HEADER + PROCESS_FIXED ? share - FIELD_HEADER - PROCESS_FIXED : 0;
    return share < COMMAND_MAX ? share : COMMAND_MAX;
}

static void add_process(struct builder *b, const struct process *p, uint32_t share)
{
    uint32_t length = p->command_length < share ? p->command_length : share;
    builder_field(b, FIELD_PROCESS, PROCESS_FIXED + length);
    builder_u64(b, p->id);
    builder_u32(b, (uint32_t)p->main);
    builder_u32(b, process_is_over(p));
    builder_u32(b, p->flags);
    builder_u32(b, 0);
    builder_u64(b, p->started_unix_ms);
    builder_bytes(b, p->command, length);
}

void reply_list(struct agent *agent, uint64_t id)
{
    uint8_t *memory = link_reserve(agent->current, MAX_FRAME);
    uint32_t share = command_share(&agent->table);
    struct builder b;
    if (!memory)
        return;
    builder_begin(&b, memory, MAX_FRAME, FRAME_REPLY, 0, id);
    for (unsigned i = 0; i < agent->table.used; i++)
        if (agent->table.slots[i] && agent->table.ids[i])
            add_process(&b, agent->table.slots[i], share);
    link_commit(agent->current, builder_end(&b, agent->current->tag));
}

/* The program header that would say it is not at hand; the kernel refuses addresses that do not start a page. */
static uint64_t page_size(void)
{
    static uint64_t size;
    uint8_t *memory = size ? NULL : ak_map(131072);
    if (memory) {
        uint8_t *aligned = (uint8_t *)(((uintptr_t)memory + 65535) & ~(uintptr_t)65535);
        for (size = 4096; size < 65536 && SYS(madvise, aligned + size, 0, MADV_NORMAL) != 0;)
            size *= 2;
        ak_unmap(memory, 131072);
    }
    return size ? size : 4096;
}

static uint64_t resident_bytes(int proc, int pid)
{
    char name[24], text[512];
    const char *at;
    uint64_t pages = 0;
    ak_format_u64(name, (uint64_t)pid);
    if (!tree_read_stat(proc, name, text, sizeof text, &at))
        return 0;
    for (int field = 3; *at && field < STAT_FIELD_RSS; at++)
        field += *at == ' ';
    for (; *at >= '0' && *at <= '9'; at++)
        pages = pages * 10 + (uint64_t)(*at - '0');
    return pages * page_size();
}

static uint64_t children_cpu_us(void)
{
    struct rusage usage;
    if (SYS(getrusage, RUSAGE_CHILDREN, &usage))
        return 0;
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000u + (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

void reply_stats(struct agent *agent, uint64_t id)
{
    struct tree tree = {.proc = agent->proc};
    uint8_t *memory = link_reserve(agent->current, 128);
    uint64_t pids = 0, rss = 0;
    struct builder b;
    if (!memory)
        return;
    if (tree_scan(&tree)) {
        pids = tree.count;
        for (size_t i = 0; i < tree.count; i++)
            rss += resident_bytes(agent->proc, tree.entries[i].pid);
    }
    tree_free(&tree);
    builder_begin(&b, memory, 128, FRAME_REPLY, 0, id);
    builder_field(&b, FIELD_STATS, STATS_SIZE);
    builder_u64(&b, agent->now_ms - agent->started_ms);
    builder_u32(&b, agent->table.running);
    builder_u32(&b, agent->table.running + agent->table.ended);
    builder_u64(&b, pids);
    builder_u64(&b, rss);
    builder_u64(&b, children_cpu_us());
    link_commit(agent->current, builder_end(&b, agent->current->tag));
}
