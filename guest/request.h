/* The payloads of CONFIGURE and START, parsed and checked: pure, no I/O. */
#ifndef AK_REQUEST_H
#define AK_REQUEST_H

#include "frame.h"

#define MAX_FILTER 4096u
#define MAX_LIMITS 16u
#define MAX_GROUPS 256u
#define MAX_PATH 4096u
#define MAX_STRINGS (MAX_PAYLOAD / FIELD_HEADER)
#define RING_MIN 4096u
#define RING_MAX (4u << 20)
#define RING_DEFAULT 262144u
#define ORPHAN_MS_DEFAULT 60000u

struct limit {
    uint32_t resource, zero;
    uint64_t soft, hard;
};

/* Of the listeners inside, on the loopback addresses; 0: none. */
struct network_ports {
    uint16_t proxy, resolver, transparent;
};

struct configuration {
    uint8_t filter[MAX_FILTER * 8u];
    uint32_t filter_length; /* instructions */
    uint32_t orphan_ms;
    uint32_t limit_count;
    uint32_t linger_ms; /* without a host; 0: for ever */
    bool has_network;
    struct network_ports network;
    struct limit limits[MAX_LIMITS];
};

enum start_flags { START_DETACHED = 1, START_STDIN = 2, START_ENDS_TREE = 4 };

struct start_request {
    uint32_t seen; /* bit per key: a scalar field comes once */
    uint32_t argc, envc, group_count;
    uint32_t uid, gid; /* UINT32_MAX: those of the agent */
    uint32_t groups[MAX_GROUPS];
    bool terminal;
    uint16_t rows, columns;
    uint16_t builtin; /* 0: none */
    uint32_t flags, ring;
    uint64_t timeout_ms;
    char directory[MAX_PATH];
    size_t text_used;
    char *argv[MAX_STRINGS + 1];
    char *envp[MAX_STRINGS + 1];
    char text[MAX_PAYLOAD];
};

/* Both: 0, -EINVAL, or -EOPNOTSUPP for a critical field that this version does not know. */
int configuration_parse(struct configuration *out, const uint8_t *payload, size_t n);
int start_request_parse(struct start_request *out, const uint8_t *payload, size_t n);

#endif
