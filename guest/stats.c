/* The answers to LIST and STATS. */
#include "state.h"

#include "clock.h"
#include "descriptor.h"

#include <linux/mman.h>
#include <linux/resource.h>

#define PROCESS_FIXED 32u
#define STATS_SIZE 40u
#define PIDS_MAX 65536u /* looked at: an answer must not take for ever */

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
    builder_u32(b, (uint32_t)p->terminal | (uint32_t)p->builtin << 8);
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

static uint64_t children_cpu_us(void)
{
    struct rusage usage;
    if (SYS(getrusage, RUSAGE_CHILDREN, &usage))
        return 0;
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000u + (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

void reply_stats(struct agent *agent, uint64_t id)
{
    struct pid_reader processes;
    struct process_stat stat;
    uint8_t *memory = link_reserve(agent->current, 128);
    uint64_t pids = 0, pages = 0;
    struct builder b;
    int pid;
    if (!memory)
        return;
    (void)pid_reader_open(&processes, agent->proc, ".");
    while (pids < PIDS_MAX && (pid = pid_reader_next(&processes)) > 0) {
        if (pid == agent->spare.pid)
            continue; /* of no command yet */
        pids++;
        if (process_table_stat(agent->proc, pid, &stat))
            pages += stat.resident_pages;
    }
    descriptor_close(&processes.fd);
    builder_begin(&b, memory, 128, FRAME_REPLY, 0, id);
    builder_field(&b, FIELD_STATS, STATS_SIZE);
    builder_u64(&b, agent->now_ms - agent->started_ms);
    builder_u32(&b, agent->table.running);
    builder_u32(&b, agent->table.running + agent->table.ended);
    builder_u64(&b, pids);
    builder_u64(&b, pages * page_size());
    builder_u64(&b, children_cpu_us());
    link_commit(agent->current, builder_end(&b, agent->current->tag));
}
