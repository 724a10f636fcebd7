/* The launcher's reports to its caller. */
#include "status.h"

sysret status_send(int fd, struct status_record record)
{
    return ak_write_all(fd, &record, sizeof record);
}
