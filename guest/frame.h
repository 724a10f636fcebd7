/* Frames and fields of the guest protocol (docs/guest-protocol.md, section 2): pure parsing and building, no I/O. */
#ifndef AK_FRAME_H
#define AK_FRAME_H

#include "sys.h"

#define MAX_PAYLOAD 131072u
#define FRAME_HEADER 16u
#define FRAME_TAG 4u
#define MAX_FRAME (MAX_PAYLOAD + FRAME_HEADER + FRAME_TAG)
#define FIELD_HEADER 8u
#define FIELD_CRITICAL 1u
#define MAX_OUTPUT 65536u
#define HELLO_MAGIC "AKCHAN1\n"
#define MAGIC_SIZE 8u

enum frame_type {
    FRAME_CONFIGURE = 1,
    FRAME_START,
    FRAME_STDIN,
    FRAME_CONSUMED,
    FRAME_SIGNAL,
    FRAME_RESIZE,
    FRAME_KILL,
    FRAME_RESUME,
    FRAME_FORGET,
    FRAME_LIST,
    FRAME_STATS,
    FRAME_PING,
    FRAME_SHUTDOWN,
    FRAME_TUNNEL_OPEN,
    FRAME_TUNNEL_SEND,
    FRAME_TUNNEL_CREDIT,
    FRAME_TUNNEL_CLOSE,
    FRAME_ANSWER,
    FRAME_REPLY = 128,
    FRAME_FAILED,
    FRAME_STARTED,
    FRAME_OUTPUT,
    FRAME_STDIN_CONSUMED,
    FRAME_EXITED,
    FRAME_RESUMED,
    FRAME_TUNNEL_ACCEPTED,
    FRAME_TUNNEL_OPENED,
    FRAME_TUNNEL_DATA,
    FRAME_TUNNEL_GRANT,
    FRAME_TUNNEL_CLOSED,
    FRAME_QUERY,
};

enum stage {
    STAGE_REQUEST,
    STAGE_FORK,
    STAGE_CGROUP,
    STAGE_LIMITS,
    STAGE_USER,
    STAGE_DIRECTORY,
    STAGE_TERMINAL,
    STAGE_SECCOMP,
    STAGE_EXEC,
};

enum field_key { FIELD_PROCESS = 1, FIELD_STATS = 2, FIELD_ECHO = 3 };

struct frame {
    uint64_t id;
    uint32_t length; /* of the payload */
    uint8_t type, flags;
    const uint8_t *payload;
};

enum frame_state {
    FRAME_PARTIAL,   /* more bytes are needed */
    FRAME_COMPLETE,  /* `frame` is filled; FRAME_HEADER + length + FRAME_TAG bytes were used */
    FRAME_HELLO,     /* a new attach stands where a frame was expected */
    FRAME_BAD_HEADER,
    FRAME_BAD_TAG,   /* `frame` is filled, so that the whole of it can be dropped */
};

/* Looks at the `n` bytes of `data` as a frame from the host. */
enum frame_state frame_parse(const uint8_t *data, size_t n, uint32_t tag, struct frame *frame);

struct fields {
    const uint8_t *at;
    size_t left;
};

struct field {
    uint16_t key, flags;
    uint32_t length;
    const uint8_t *bytes;
};

/* 1: `field` is the next one; 0: no more; -EINVAL: the rest is not a field list. */
int fields_next(struct fields *fields, struct field *field);

/* A frame under construction in memory that has room for `room` bytes; writing past it sets `full` and writes nothing. */
struct builder {
    uint8_t *start;
    size_t used, room;
    bool full;
};

void builder_begin(struct builder *b, void *memory, size_t room, uint8_t type, uint8_t flags, uint64_t id);
void builder_bytes(struct builder *b, const void *bytes, size_t n);
void builder_u16(struct builder *b, uint16_t value);
void builder_u32(struct builder *b, uint32_t value);
void builder_u64(struct builder *b, uint64_t value);
void builder_field(struct builder *b, uint16_t key, uint32_t length);
/* Fills in the length, appends the tag; returns the frame's size, 0 if it did not fit. */
size_t builder_end(struct builder *b, uint32_t tag);

#endif
