/* One byte stream to a host: buffers in both directions, attached or waiting for a HELLO. */
#ifndef AK_LINK_H
#define AK_LINK_H

#include "attach.h"

#include <linux/uio.h>

#define LINK_IN (2u * MAX_FRAME)
#define LINK_OUT (4u * MAX_FRAME)
#define LINK_SHARED (LINK_OUT / 2) /* tunnels, and commands' output that waits behind theirs, fill no more: the rest is for answers */

struct link {
    int in, out; /* -1: unused; the same for sockets and devices */
    bool boundless;           /* no connection boundaries: lives on after errors */
    bool attached;
    bool readable, writable;  /* as far as known, so true at first; cleared by EAGAIN, set by the event loop */
    uint32_t tag;
    uint64_t order; /* of opening */
    uint8_t *in_memory, *out_memory;
    size_t in_start, in_end, out_start, out_end;
    size_t tunnel_left; /* queued bytes up to the end of the last frame of a tunnel */
};

enum link_event { LINK_NOTHING, LINK_FRAME, LINK_ATTACH, LINK_BROKEN, LINK_LOST };

bool link_open(struct link *link, int in, int out, bool boundless);
void link_close(struct link *link);
/* Reads what is there (once) if there is room; LINK_LOST at the end of the stream. */
enum link_event link_fill(struct link *link);
/* Looks at what was read. LINK_FRAME: `frame` is valid until the next call of link_fill; LINK_ATTACH: `hello`; LINK_BROKEN: not the protocol. */
enum link_event link_next(struct link *link, struct frame *frame, struct hello *hello);
/* Forgets what waits to be sent: it belongs to an earlier attach. */
void link_drop_output(struct link *link);
size_t link_room(const struct link *link);
/* Memory for a frame of at most `n` bytes, or NULL; link_commit() then queues what was built there. */
uint8_t *link_reserve(struct link *link, size_t n);
void link_commit(struct link *link, size_t n);
/* How many bytes of tunnels' frames may be queued now; link_commit_tunnel() queues them. */
size_t link_tunnel_room(const struct link *link);
void link_commit_tunnel(struct link *link, size_t n);
/* Whether a command's output may be sent: where it needs no memory, or where it would else stand back behind tunnels. */
bool link_takes_output(const struct link *link);
/* Writes queued bytes; false when the stream is lost. */
bool link_flush(struct link *link);
/* Writes `parts` at once if nothing is queued, queues what did not go out; false when the stream is lost. Needs link_room() for all of it. */
bool link_send(struct link *link, struct iovec *parts, unsigned count);

#endif
