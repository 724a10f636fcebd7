/* Directory entries: reading them, and their records on the wire. */
#ifndef AK_ENTRY_H
#define AK_ENTRY_H

#include "sys.h"

/* Bits of st_mode; the kernel header hides them where a C library is about. */
#define MODE_TYPE 0170000u
#define MODE_FILE 0100000u
#define MODE_DIRECTORY 0040000u
#define MODE_SYMLINK 0120000u

#define ENTRY_FIXED 48u
#define ENTRY_NAME_MAX 255u
#define ENTRY_TARGET_MAX 4095u
#define ENTRY_MAX (ENTRY_FIXED + ENTRY_NAME_MAX + ENTRY_TARGET_MAX)

/* Writes the record of `path` (relative to `directory`) called `name`; its size (at most ENTRY_MAX) or -errno. */
sysret entry_record(uint8_t out[], int directory, const char *path, bool follow, const char *name, size_t name_length);

struct entry_reader {
    int fd;
    size_t at, filled;
    _Alignas(8) char buffer[16384];
};

/* Opens a directory; 0 or -errno. */
sysret entry_open(struct entry_reader *reader, int directory, const char *path, bool follow);
/* The next name but "." and ".."; 1, 0 at the end, or -errno. */
sysret entry_next(struct entry_reader *reader, const char **name);
/* Begins again at the first. */
sysret entry_rewind(struct entry_reader *reader);

#endif
