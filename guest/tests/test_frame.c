/* Frames and fields against the vectors that the host's side is tested with too. */
#include "frame.h"

#include "check.h"
#include "vectors.h"

static enum frame_state parse(const uint8_t *bytes, size_t n, uint32_t tag, struct frame *frame)
{
    uint8_t *copy = check_copy(bytes, n);
    enum frame_state state = frame_parse(copy, n, tag, frame);
    if (state == FRAME_COMPLETE) {
        CHECK(frame->payload == copy + FRAME_HEADER);
        frame->payload = NULL;
    }
    free(copy);
    return state;
}

static void every_frame_of_the_host_is_read(void)
{
    for (size_t i = 0; i < VECTOR_COUNT; i++) {
        const struct vector *v = &vectors[i];
        struct frame frame;
        if (!v->from_host)
            continue;
        for (size_t n = 0; n < v->size; n++)
            CHECK(parse(v->bytes, n, v->tag, &frame) == FRAME_PARTIAL);
        CHECK(parse(v->bytes, v->size, v->tag, &frame) == FRAME_COMPLETE);
        CHECK(frame.type == v->type && frame.flags == v->flags && frame.id == v->id);
        CHECK(frame.length == v->payload_size);
        CHECK(parse(v->bytes, v->size, v->tag + 1, &frame) == FRAME_BAD_TAG);
    }
}

static void every_frame_of_the_agent_is_built(void)
{
    uint8_t memory[1024];
    for (size_t i = 0; i < VECTOR_COUNT; i++) {
        const struct vector *v = &vectors[i];
        struct builder b;
        if (v->from_host)
            continue;
        builder_begin(&b, memory, sizeof memory, v->type, v->flags, v->id);
        builder_bytes(&b, v->bytes + FRAME_HEADER, v->payload_size);
        CHECK(builder_end(&b, v->tag) == v->size);
        CHECK(memcmp(memory, v->bytes, v->size) == 0);
    }
}

static void bad_frames_are_refused(void)
{
    for (size_t i = 0; i < BAD_VECTOR_COUNT; i++) {
        struct frame frame;
        enum frame_state state = parse(bad_vectors[i].bytes, bad_vectors[i].size, VECTOR_TAG, &frame);
        CHECK(state == FRAME_BAD_HEADER || state == FRAME_BAD_TAG);
    }
}

static void a_hello_is_told_from_a_frame(void)
{
    static const uint8_t hello[] = HELLO_MAGIC, almost[] = "AKCHAN1x";
    struct frame frame;
    for (size_t n = 0; n < MAGIC_SIZE; n++)
        CHECK(parse(hello, n, 1, &frame) == FRAME_PARTIAL);
    CHECK(parse(hello, MAGIC_SIZE, 1, &frame) == FRAME_HELLO);
    CHECK(parse(almost, MAGIC_SIZE - 1, 1, &frame) == FRAME_PARTIAL);
    CHECK(parse(almost, MAGIC_SIZE, 1, &frame) == FRAME_BAD_HEADER);
}

static void the_largest_payload_is_legal(void)
{
    uint8_t *bytes = calloc(1, MAX_FRAME);
    struct frame frame;
    ak_put_u32(bytes, MAX_PAYLOAD);
    bytes[4] = FRAME_STDIN;
    ak_put_u32(bytes + MAX_FRAME - 4, 7);
    CHECK(frame_parse(bytes, MAX_FRAME - 1, 7, &frame) == FRAME_PARTIAL);
    CHECK(frame_parse(bytes, MAX_FRAME, 7, &frame) == FRAME_COMPLETE);
    ak_put_u32(bytes, MAX_PAYLOAD + 1);
    CHECK(frame_parse(bytes, MAX_FRAME, 7, &frame) == FRAME_BAD_HEADER);
    free(bytes);
}

static void fields_end_where_the_payload_ends(void)
{
    static const uint8_t bytes[] = {1, 0, 0, 0, 2, 0, 0, 0, 'a', 'b', 7, 0, 1, 0, 0, 0, 0, 0, 9};
    struct fields fields = {bytes, sizeof bytes - 1};
    struct field field;
    CHECK(fields_next(&fields, &field) == 1 && field.key == 1 && field.length == 2 && field.bytes[1] == 'b');
    CHECK(fields_next(&fields, &field) == 1 && field.key == 7 && field.flags == FIELD_CRITICAL && field.length == 0);
    CHECK(fields_next(&fields, &field) == 0);
    fields = (struct fields){bytes, sizeof bytes};
    CHECK(fields_next(&fields, &field) == 1 && fields_next(&fields, &field) == 1 && fields_next(&fields, &field) == -EINVAL);
    for (size_t n = 1; n < 10; n++) {
        fields = (struct fields){check_copy(bytes, n), n};
        CHECK(fields_next(&fields, &field) == -EINVAL);
        free((void *)(uintptr_t)fields.at);
    }
}

static void a_builder_without_room_builds_nothing(void)
{
    uint8_t memory[32];
    for (size_t room = 0; room < 28; room++) {
        struct builder b;
        builder_begin(&b, memory, room, FRAME_STARTED, 0, 5);
        builder_u64(&b, 1);
        CHECK(builder_end(&b, 9) == 0);
    }
}

int main(void)
{
    every_frame_of_the_host_is_read();
    every_frame_of_the_agent_is_built();
    bad_frames_are_refused();
    a_hello_is_told_from_a_frame();
    the_largest_payload_is_legal();
    fields_end_where_the_payload_ends();
    a_builder_without_room_builds_nothing();
    return CHECK_RESULT();
}
