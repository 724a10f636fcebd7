/* Frames and fields: pure parsing and building, fuzzed by guest/tests/. */
#include "frame.h"

/* A length that no frame may have can still be the start of a HELLO. */
static enum frame_state long_length(const uint8_t *data, size_t n)
{
    size_t compared = n < MAGIC_SIZE ? n : MAGIC_SIZE;
    if (memcmp(data, HELLO_MAGIC, compared) != 0)
        return FRAME_BAD_HEADER;
    return n < MAGIC_SIZE ? FRAME_PARTIAL : FRAME_HELLO;
}

enum frame_state frame_parse(const uint8_t *data, size_t n, uint32_t tag, struct frame *frame)
{
    if (n < 4)
        return FRAME_PARTIAL;
    frame->length = ak_get_u32(data);
    if (frame->length > MAX_PAYLOAD)
        return long_length(data, n);
    if (n < FRAME_HEADER)
        return FRAME_PARTIAL;
    frame->type = data[4];
    frame->flags = data[5];
    frame->id = ak_get_u64(data + 8);
    if (ak_get_u16(data + 6) != 0 || frame->type < FRAME_CONFIGURE || frame->type > FRAME_ANSWER)
        return FRAME_BAD_HEADER;
    if (n < FRAME_HEADER + frame->length + FRAME_TAG)
        return FRAME_PARTIAL;
    frame->payload = data + FRAME_HEADER;
    return ak_get_u32(frame->payload + frame->length) == tag ? FRAME_COMPLETE : FRAME_BAD_TAG;
}

int fields_next(struct fields *fields, struct field *field)
{
    if (fields->left == 0)
        return 0;
    if (fields->left < FIELD_HEADER)
        return -EINVAL;
    field->key = ak_get_u16(fields->at);
    field->flags = ak_get_u16(fields->at + 2);
    field->length = ak_get_u32(fields->at + 4);
    field->bytes = fields->at + FIELD_HEADER;
    if (field->length > fields->left - FIELD_HEADER)
        return -EINVAL;
    fields->at += FIELD_HEADER + field->length;
    fields->left -= FIELD_HEADER + field->length;
    return 1;
}

void builder_bytes(struct builder *b, const void *bytes, size_t n)
{
    if (b->full || n > b->room - b->used) {
        b->full = true;
        return;
    }
    memcpy(b->start + b->used, bytes, n);
    b->used += n;
}

void builder_u16(struct builder *b, uint16_t value) { builder_bytes(b, &value, sizeof value); }
void builder_u32(struct builder *b, uint32_t value) { builder_bytes(b, &value, sizeof value); }
void builder_u64(struct builder *b, uint64_t value) { builder_bytes(b, &value, sizeof value); }

void builder_begin(struct builder *b, void *memory, size_t room, uint8_t type, uint8_t flags, uint64_t id)
{
    uint8_t kind[2] = {type, flags};
    *b = (struct builder){.start = memory, .room = room};
    builder_u32(b, 0);
    builder_bytes(b, kind, sizeof kind);
    builder_u16(b, 0);
    builder_u64(b, id);
}

void builder_field(struct builder *b, uint16_t key, uint32_t length)
{
    builder_u16(b, key);
    builder_u16(b, 0);
    builder_u32(b, length);
}

size_t builder_end(struct builder *b, uint32_t tag)
{
    size_t length = b->used - FRAME_HEADER;
    builder_u32(b, tag);
    if (b->full || length > MAX_PAYLOAD)
        return 0;
    ak_put_u32(b->start, (uint32_t)length);
    return b->used;
}
