/* Tunnels: TCP connections of the sandbox's that go on through the stream (docs/guest-protocol.md, section 5). */
#ifndef AK_TUNNEL_H
#define AK_TUNNEL_H

#include "credit.h"
#include "frame.h"
#include "store.h"

#define TUNNELS_MAX 1024u
#define TUNNEL_AGENTS (1ull << 63) /* set in the ids that the agent gives */

enum tunnel_kind { TUNNEL_OF_HOST, TUNNEL_PROXY, TUNNEL_RESOLVER, TUNNEL_TRANSPARENT };

/* What the host has to be told before anything else. */
enum tunnel_tell { TELL_NOTHING, TELL_ACCEPTED, TELL_OPENED, TELL_CLOSED };

struct tunnel {
    uint64_t id; /* 0: a free place */
    unsigned slot;
    uint32_t generation; /* tells events of the place's earlier connections apart */
    int fd;              /* -1: over; the host has yet to hear it */
    enum tunnel_tell tell;
    uint16_t kind, port; /* for TELL_ACCEPTED; port: what to connect to while `connecting` */
    uint8_t address[16];
    uint32_t error; /* for TELL_CLOSED */
    uint32_t grant; /* credit that the host has yet to be told of */
    bool connecting, ipv6;
    bool readable, writable;    /* as far as known; cleared by EAGAIN, set by the event loop */
    bool workload_ended;        /* its end was passed on */
    bool host_ended, shut_down; /* its end came; and was passed on */
    uint64_t credit;            /* bytes that may still be sent to the host */
    struct inflow inflow;
    struct chain held; /* from the host, not taken by the workload yet */
    bool active;
    struct tunnel *next_active;
};

struct tunnels {
    struct tunnel slots[TUNNELS_MAX];
    uint64_t ids[TUNNELS_MAX];
    unsigned used; /* places beyond were never used */
    unsigned count, most;
    uint32_t generation;
    uint64_t last_id;
    struct tunnel *active_first, *active_last;
    struct credit_pool pool;
    struct store store;
};

struct agent;

/* tunnel_table.c: places, ids and turns; no I/O. */
struct tunnel *tunnels_find(struct tunnels *tunnels, uint64_t id);
/* An id that was never used. */
uint64_t tunnels_new_id(struct tunnels *tunnels);
/* A new tunnel on `fd`; NULL: there are too many. */
struct tunnel *tunnels_add(struct tunnels *tunnels, uint64_t id, int fd);
/* Frees the place and what is held; the descriptor is closed already. */
void tunnels_remove(struct tunnels *tunnels, struct tunnel *t);
/* Queues the tunnel for its turn, behind all others. */
void tunnels_activate(struct tunnels *tunnels, struct tunnel *t);
/* The next in turn, taken out of the queue; NULL: none. */
struct tunnel *tunnels_next(struct tunnels *tunnels);
/* What the event loop knows a tunnel by, and back: NULL for a connection that is gone. */
unsigned tunnels_key(const struct tunnel *t);
struct tunnel *tunnels_by_key(struct tunnels *tunnels, unsigned key);

/* tunnel.c: connections and turns. */
/* The tunnel's connection stands. */
void tunnel_begin(struct agent *agent, struct tunnel *t);
/* Connects to a port inside; the answer follows. */
void tunnel_connect(struct agent *agent, struct tunnel *t, uint16_t port);
/* Bytes of the host, which it was allowed to send; `end`: nothing follows them. */
void tunnel_take(struct agent *agent, struct tunnel *t, const uint8_t *bytes, size_t n, bool end);
/* Both directions are over; the host is told why, unless it never heard of the tunnel. */
void tunnel_end(struct agent *agent, struct tunnel *t, unsigned error);
/* The same without a word to the host. */
void tunnel_drop(struct agent *agent, struct tunnel *t, bool reset);
void tunnel_event(struct agent *agent, unsigned key, uint32_t events);
/* A turn for everybody who has something to do; returns whether there is more to do without waiting. */
bool tunnels_step(struct agent *agent);
/* The attach is over, and with it every tunnel. */
void tunnels_reset(struct agent *agent);

/* tunnel_tell.c: frames to the host, straight into the link's buffer. */
/* Everything but data; false while there is no room for it. */
bool tunnel_tell(struct agent *agent, struct tunnel *t);
/* Reads from the connection what there is credit and room for; 0 or more, or -errno (-EAGAIN also without room). */
sysret tunnel_tell_data(struct agent *agent, struct tunnel *t);
bool tunnel_has_room(const struct agent *agent);

/* tunnel_handlers.c: frames of the host. */
void handle_tunnel(struct agent *agent, const struct frame *frame);

#endif
