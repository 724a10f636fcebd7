/* The descriptors of a command while it starts: what it gets, and what the agent keeps. */
#ifndef AK_ENDS_H
#define AK_ENDS_H

#include "passing.h"
#include "request.h"

struct ends {
    int input[2], output[2], error[2];
    int terminal[2];
};

/* Opens what the request needs; 0, or -errno with `*stage`. What is open is to be closed in either case. */
sysret ends_open(struct ends *ends, const struct start_request *request, enum stage *stage);
void ends_close(struct ends *ends);
/* The three that the command gets as 0-2; `null` is what it reads without input. */
void ends_of_command(const struct ends *ends, int null, int fds[PASSED]);

#endif
