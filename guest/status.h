/* The launcher's reports to its caller: records of 16 bytes on the status descriptor. */
#ifndef AK_STATUS_H
#define AK_STATUS_H

#include "sys.h"

enum status_kind {
    STATUS_STEP_FAILED = 1, /* value: 0 outside, 1 inside */
    STATUS_MALFORMED = 2,   /* value: how many bytes of the plan were read */
    STATUS_STARTED = 3,     /* value: pid of the inner process */
    STATUS_READY = 4,       /* every step succeeded, the agent takes over */
};

struct status_record {
    uint32_t kind;
    uint32_t step;
    uint32_t error;
    uint32_t value;
};

/* 0, or -errno: the caller is gone. */
static inline sysret status_send(int fd, struct status_record record)
{
    return ak_write_all(fd, &record, sizeof record);
}

#endif
