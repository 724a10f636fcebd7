/* The descriptors of a command while it starts: what it gets, and what the agent keeps. */
#ifndef AK_ENDS_H
#define AK_ENDS_H

#include "request.h"

struct ends {
    int control[2]; /* to the supervisor */
    int input[2], output[2], error[2];
    int terminal[2];
};

/* Opens what the request needs but for `control`; 0, or -errno with `*stage`. What is open is to be closed in either case. */
sysret ends_open(struct ends *ends, const struct start_request *request, enum stage *stage);
sysret ends_open_control(struct ends *ends);
void ends_close(struct ends *ends);

#endif
