/* Netlink messages, built in a bounded buffer and sent as one; nothing here knows what they mean. */
#ifndef AK_NETLINK_H
#define AK_NETLINK_H

#include "sys.h"

#define NETLINK_BYTES 4096u

struct netlink {
    size_t used;
    size_t message; /* where the message under construction starts */
    uint32_t sequence;
    bool full; /* something did not fit: nothing will be sent */
    _Alignas(4) uint8_t bytes[NETLINK_BYTES];
};

/* A message with its family's header of `n` bytes; `flags` beside NLM_F_REQUEST. */
void netlink_begin(struct netlink *nl, uint16_t type, uint16_t flags, const void *header, size_t n);
void netlink_end(struct netlink *nl);
void netlink_attribute(struct netlink *nl, uint16_t type, const void *bytes, size_t n);
void netlink_text(struct netlink *nl, uint16_t type, const char *text);
/* In network order, as nf_tables has its numbers. */
void netlink_be32(struct netlink *nl, uint16_t type, uint32_t value);
/* Opens an attribute that holds attributes; returns what closes it. */
size_t netlink_nest(struct netlink *nl, uint16_t type);
void netlink_unnest(struct netlink *nl, size_t nest);
/* Sends all and waits for the acknowledgement of the message that asked for one: 0, or the first -errno that the kernel reports. */
sysret netlink_send(const struct netlink *nl, int protocol);

#endif
