/* Fuzzes what the host sends: the attach, the frames, the payloads of CONFIGURE and START, and the offsets of standard input. */
#include "intake.h"
#include "link.h"
#include "request.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct start_request request;
static struct configuration configuration;

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_start(const struct frame *frame)
{
    if (start_request_parse(&request, frame->payload, frame->length))
        return;
    require(request.argc > 0 && request.argc <= MAX_STRINGS && request.envc <= MAX_STRINGS && request.text_used <= sizeof request.text);
    for (uint32_t i = 0; i < request.argc; i++)
        require(request.argv[i] >= request.text && request.argv[i] + strlen(request.argv[i]) < request.text + request.text_used);
    require(!request.argv[request.argc] && !request.envp[request.envc]);
    require(request.ring >= RING_MIN && request.ring <= RING_MAX && request.directory[0] == '/' && request.group_count <= MAX_GROUPS);
}

static void check_stdin(struct intake *in, const struct frame *frame)
{
    if (frame->length < 8)
        return;
    (void)intake_offer(in, ak_get_u64(frame->payload), frame->payload + 8, frame->length - 8, frame->flags & 1);
    require(in->ring.end - in->ring.begin <= INTAKE_CAPACITY);
    (void)ring_consume(&in->ring, in->ring.begin + frame->flags);
}

static void check_frame(struct intake *in, const struct frame *frame)
{
    require(frame->length <= MAX_PAYLOAD && frame->type >= FRAME_CONFIGURE && frame->type <= FRAME_ANSWER);
    if (frame->type == FRAME_START)
        check_start(frame);
    else if (frame->type == FRAME_CONFIGURE && configuration_parse(&configuration, frame->payload, frame->length) == 0)
        require(configuration.filter_length <= MAX_FILTER && configuration.limit_count <= MAX_LIMITS);
    else if (frame->type == FRAME_STDIN)
        check_stdin(in, frame);
}

/* The data as a link has read it, in memory of exactly its size. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size + 1);
    struct link link = {.in = -1, .out = -1, .boundless = true, .in_memory = bytes, .in_end = size, .attached = size % 2, .tag = 0xA1B2C3D4};
    struct intake in = {0};
    enum link_event event;
    size_t before = 0, rounds = 0;
    memcpy(bytes, data, size);
    require(ring_open(&in.ring, INTAKE_CAPACITY));
    do {
        struct frame frame;
        struct hello hello;
        before = link.in_start;
        event = link_next(&link, &frame, &hello);
        require(link.in_start <= link.in_end && link.in_start >= before);
        require(event == LINK_NOTHING || link.in_start > before);
        if (event == LINK_FRAME)
            check_frame(&in, &frame);
        if (event == LINK_ATTACH)
            link.tag = hello.tag;
        if (event == LINK_ATTACH || event == LINK_BROKEN)
            link.attached = event == LINK_ATTACH;
    } while (event != LINK_NOTHING && ++rounds < 10000);
    ring_close(&in.ring);
    free(bytes);
    return 0;
}
