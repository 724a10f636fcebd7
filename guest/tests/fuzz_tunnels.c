/* Fuzzes tunnels with a hostile host and a hostile workload: frames, bytes and ends in any order, over real sockets. */
#include "state.h"

#include "descriptor.h"

#include <linux/eventpoll.h>
#include <linux/signal.h>

#define UNIX_FAMILY 1
#define NO_SIGNAL 0x4000
#define PEERS 4u
#define STEPS_MAX 400u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct agent agent;
static int host = -1, peers[PEERS];
static uint8_t bytes[MAX_PAYLOAD];
static uint64_t credits[PEERS + 1]; /* that the host gave; the last one stands for a tunnel that is none */

static void require(bool condition)
{
    if (!condition)
        __builtin_trap();
}

static uint64_t id_of(unsigned index)
{
    return TUNNEL_AGENTS | (1000 + index);
}

static void connect_pair(int pair[2])
{
    require(SYS(socketpair, UNIX_FAMILY, AK_SOCK_STREAM | O_NONBLOCK, 0, pair) == 0);
}

static void prepare(void)
{
    _Alignas(8) char ignore[64] = {1};
    int pair[2];
    if (host >= 0)
        return;
    require(SYS(rt_sigaction, SIGPIPE, ignore, NULL, 8) == 0);
    connect_pair(pair);
    host = pair[0];
    agent.epoll = (int)SYS(epoll_create1, 0);
    agent.configured = true;
    agent.tunnels.most = PEERS + 2;
    require(link_open(&agent.links[0], pair[1], pair[1], true));
    agent.links[0].attached = true;
}

static void begin(void)
{
    agent.current = &agent.links[0];
    for (unsigned i = 0; i < PEERS; i++) {
        int pair[2];
        struct tunnel *t;
        connect_pair(pair);
        peers[i] = pair[0];
        t = tunnels_add(&agent.tunnels, id_of(i), pair[1]);
        require(t != NULL);
        t->kind = TUNNEL_PROXY;
        t->tell = TELL_ACCEPTED;
        credits[i] = CREDIT_START;
        tunnel_begin(&agent, t);
    }
    credits[PEERS] = 0;
}

/* Everything that the host has got is well-formed, and paid for. */
static void read_frames(void)
{
    static uint8_t got[4 * MAX_FRAME];
    static size_t held;
    sysret n = SYS(read, host, got + held, sizeof got - held);
    size_t at = 0;
    held += n > 0 ? (size_t)n : 0;
    while (held - at >= FRAME_HEADER) {
        uint32_t length = ak_get_u32(got + at);
        uint64_t index = ak_get_u64(got + at + 8) - id_of(0);
        require(length <= MAX_OUTPUT);
        if (held - at < FRAME_HEADER + length + FRAME_TAG)
            break;
        require(got[at + 4] >= FRAME_FAILED && got[at + 4] <= FRAME_TUNNEL_CLOSED);
        if (got[at + 4] == FRAME_TUNNEL_DATA) {
            require(index < PEERS && length <= credits[index] && (length > 0) != (got[at + 5] == 1));
            credits[index] -= length;
        }
        at += FRAME_HEADER + length + FRAME_TAG;
    }
    memmove(got, got + at, held - at);
    held -= at;
}

static void check(void)
{
    size_t extra = 0, held = 0;
    for (unsigned i = 0; i < TUNNELS_MAX; i++) {
        const struct tunnel *t = &agent.tunnels.slots[i];
        extra += t->id ? t->inflow.extra : 0;
        held += t->id ? t->held.size : 0;
        require(!t->id || t->held.size + t->inflow.allowed <= CREDIT_MOST);
    }
    require(extra == agent.tunnels.pool.extra && extra <= CREDIT_EXTRA && held <= PEERS * CREDIT_MOST);
    require(agent.links[0].tunnel_left <= agent.links[0].out_end - agent.links[0].out_start);
}

static void send_frame(uint8_t type, unsigned index, uint32_t length, uint8_t flags)
{
    struct frame frame = {.type = type, .id = id_of(index), .length = length, .flags = flags, .payload = bytes};
    if (type == FRAME_TUNNEL_OPEN) {
        frame.id = 1 + index;
        ak_put_u16(bytes, 1); /* nobody listens there */
    }
    if (type == FRAME_TUNNEL_CREDIT)
        ak_put_u32(bytes, length * 97);
    if (type == FRAME_TUNNEL_CREDIT && length == 4)
        credits[index] += length * 97;
    if (type == FRAME_TUNNEL_CLOSE)
        ak_put_u32(bytes, flags);
    if (link_room(agent.current) >= MAX_FRAME)
        handle_frame(&agent, &frame);
}

static void act(const uint8_t op[4])
{
    unsigned index = op[1] % (PEERS + 1);
    uint32_t length = (uint32_t)(op[2] << 4) * (op[3] & 7) + (op[3] >> 4);
    switch (op[0] % 8) {
    case 0:
    case 1:
    case 2: send_frame((uint8_t)(FRAME_TUNNEL_OPEN + op[0] / 8 % 5), index, length, op[3] & 1); break;
    case 3: send_frame(FRAME_TUNNEL_CREDIT, index, 4, 0); break;
    case 4:
        if (index < PEERS)
            (void)SYS(sendto, peers[index], bytes, length, NO_SIGNAL, NULL, 0);
        break;
    case 5:
        if (index < PEERS)
            (void)SYS(read, peers[index], bytes, sizeof bytes);
        break;
    case 6:
        if (index < PEERS)
            (void)SYS(shutdown, peers[index], op[2] % 3);
        break;
    default: read_frames();
    }
}

static void serve(void)
{
    struct epoll_event events[16];
    sysret n = SYS(epoll_pwait, agent.epoll, events, 16, 0, NULL, 8);
    for (sysret i = 0; i < n; i++)
        tunnel_event(&agent, (unsigned)events[i].data, events[i].events);
    agent.links[0].writable = true;
    (void)tunnels_step(&agent);
    require(agent.current != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    prepare();
    begin();
    for (size_t at = 0; at + 4 <= size && at < 4 * STEPS_MAX; at += 4) {
        act(data + at);
        serve();
        check();
    }
    tunnels_reset(&agent);
    require(agent.tunnels.count == 0 && agent.tunnels.pool.extra == 0 && !agent.tunnels.active_first && !agent.tunnels.store.memory);
    for (unsigned i = 0; i < PEERS; i++)
        descriptor_close(&peers[i]);
    while (agent.links[0].out_end > agent.links[0].out_start) { /* so that the next input starts at the start of a frame */
        read_frames();
        agent.links[0].writable = true;
        require(link_flush(&agent.links[0]));
    }
    read_frames();
    return 0;
}
