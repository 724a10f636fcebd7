/* Where the workload's connections come in: the listeners that CONFIGURE's NETWORK asks for, and the DNS queries that come by UDP. */
#ifndef AK_INLET_H
#define AK_INLET_H

#include "frame.h"
#include "request.h"
#include "socket.h"
#include "tunnel.h"

#define INLETS 8u /* proxy, resolver (TCP and UDP) and transparent port, each on 127.0.0.1 and ::1 */
#define QUERIES_MAX 256u
#define QUERY_MIN 12u /* a DNS header */
#define QUERY_MAX 4096u
#define ANSWER_MAX 65507u /* what a UDP datagram holds */

struct inlet {
    int fd;
    bool ipv6, datagrams, readable;
    enum tunnel_kind kind;
};

struct query {
    uint64_t id; /* 0: none */
    uint64_t at_ms;
    unsigned inlet;
    union socket_address from;
};

struct inlets {
    unsigned count;
    struct inlet inlets[INLETS];
    struct query queries[QUERIES_MAX];
};

struct agent;

/* Binds all that is asked for, or nothing: 0 or -errno. Where there is no ::1 the listeners on 127.0.0.1 have to do. */
sysret inlets_open(struct agent *agent, const struct network_ports *ports);
/* Takes in what has come, as far as there are an attach and room. */
void inlets_serve(struct agent *agent);
/* Whether more is there that could be taken in now. */
bool inlets_have_work(const struct agent *agent);
void inlet_event(struct agent *agent, unsigned index);
/* Descriptors may be free again. */
void inlets_retry(struct agent *agent);
/* The attach is over: nobody will answer the queries. */
void inlets_reset(struct agent *agent);

/* query.c */
/* Passes one datagram on to the host; false when none is there, or no room. */
bool query_take(struct agent *agent, unsigned inlet);
void inlets_answer(struct agent *agent, const struct frame *frame);

#endif
